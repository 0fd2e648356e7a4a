package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/audit/bucket"
	"github.com/hyperiondb/vault/internal/audit/spool"
)

// Store keeps files that are written once. It is safe for concurrent use.
type Store interface {
	// Put makes a new file, complete and durable or not at all: ErrThere if there is one of its path, which stays as it
	// is.
	Put(ctx context.Context, path string, content []byte) error
	// Get returns a file, or a little more than the archive's bound of a larger one.
	Get(ctx context.Context, path string) ([]byte, error)
	// List returns the paths of all files below root.
	List(ctx context.Context) ([]string, error)
	Close() error
}

var (
	// ErrThere is bucket.ErrThere, of every Store.
	ErrThere = bucket.ErrThere
	// ErrWhere is a place that is no absolute path of a folder and no URI of a bucket.
	ErrWhere = errors.New("not a place for an archive")
	// ErrOther is a file with other content than the segment of its name.
	ErrOther = errors.New("the archive has a file with other content under the name of this segment; move it away")
)

// CheckWhere checks the text of a place: the absolute path of a folder, or the URI of a bucket.
func CheckWhere(where string) error {
	switch {
	case strings.HasPrefix(where, bucket.Scheme):
		_, err := bucket.ParseURI(where)
		return err
	case !filepath.IsAbs(where):
		return fmt.Errorf("%w: %q: the absolute path of a folder, or s3://BUCKET/PREFIX", ErrWhere, where)
	}
	return nil
}

// Archive is the archive of one place. It is safe for concurrent use.
type Archive struct {
	where   string
	store   Store
	codec   *codec
	cluster func(context.Context) (uuid.UUID, error) // of this vault; only Keep needs it

	mu    sync.Mutex
	vault uuid.UUID // its result
}

var _ spool.Archive = (*Archive)(nil)

// Open opens a folder, relative or absolute, or a bucket. It makes nothing and sends no request; ctx bounds the
// reading of the AWS configuration. cluster is asked once, when the vault's id is needed to keep a segment.
func Open(ctx context.Context, where string, cluster func(context.Context) (uuid.UUID, error)) (*Archive, error) {
	var store Store = folder{filepath.Clean(where), spool.DiskFS()}
	if strings.HasPrefix(where, bucket.Scheme) {
		objects, err := bucket.OpenObjects(ctx, where)
		if err != nil {
			return nil, err
		}
		store = inBucket{objects}
	}
	return open(where, store, cluster)
}

func open(where string, store Store, cluster func(context.Context) (uuid.UUID, error)) (*Archive, error) {
	codec, err := newCodec()
	return &Archive{where: where, store: store, codec: codec, cluster: cluster}, err
}

// inBucket is the bucket's objects as a Store.
type inBucket struct{ *bucket.Objects }

func (b inBucket) List(ctx context.Context) ([]string, error) { return b.Objects.List(ctx, root) }

// Close drops idle connections.
func (a *Archive) Close() error {
	a.codec.close()
	return a.store.Close()
}

// Keep is the archive's side of [spool.Archive].
func (a *Archive) Keep(ctx context.Context, s spool.Segment) error {
	cluster, err := a.vaultID(ctx)
	if err != nil {
		return fmt.Errorf("the vault's id is not known: %w", err)
	}
	name, content, err := a.codec.encode(cluster, s)
	if err != nil {
		return err
	}
	path := name.String()
	if err := a.store.Put(ctx, path, content); !errors.Is(err, ErrThere) {
		return err
	}
	there, err := a.store.Get(ctx, path)
	if err != nil {
		return err
	}
	// Another version of the compressor may have written other bytes of the same text.
	if bytes.Equal(there, content) {
		return nil
	}
	kept, err := a.codec.decode(name, there)
	if err != nil || !sameRecords(kept, s) {
		return fmt.Errorf("%w: %q", ErrOther, path)
	}
	return nil
}

func sameRecords(f file, s spool.Segment) bool {
	return f.Node == s.Node && f.Link == hash(s.Link) &&
		slices.EqualFunc(f.events, s.Records, func(event []byte, r spool.Record) bool { return bytes.Equal(event, r.Event) })
}

func (a *Archive) vaultID(ctx context.Context) (uuid.UUID, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.vault == uuid.Nil {
		cluster, err := a.cluster(ctx)
		if err != nil {
			return uuid.Nil, err
		}
		a.vault = cluster
	}
	return a.vault, nil
}

// names lists the files of the archive, by vault, spool and number, and how many other files there are.
func (a *Archive) names(ctx context.Context) (names []name, others []string, err error) {
	paths, err := a.store.List(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, path := range paths {
		switch n, ok := parseName(path); {
		case ok:
			names = append(names, n)
		case !strings.HasSuffix(path, partialSuffix):
			others = append(others, path)
		}
	}
	slices.SortFunc(names, name.compare)
	return names, others, nil
}

// read returns one file; its error names it.
func (a *Archive) read(ctx context.Context, n name) (file, int, error) {
	content, err := a.store.Get(ctx, n.String())
	if err != nil {
		return file{}, 0, err
	}
	f, err := a.codec.decode(n, content)
	if err != nil {
		err = fmt.Errorf("%q: %w", n.String(), err)
	}
	return f, len(content), err
}
