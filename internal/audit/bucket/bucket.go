package bucket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/hyperiondb/vault/internal/audit/seal"
	"github.com/hyperiondb/vault/internal/lazyregexp"
)

const (
	maxObject = 4 << 20 // bytes
	readers   = 16      // objects that are read at once to verify
)

// timing has the limits that tests shorten.
type timing struct {
	operation time.Duration // with its attempts, where the context has no earlier deadline
	attempt   time.Duration // one HTTP exchange
	attempts  int
	longest   time.Duration // between attempts
}

func defaultTiming() timing {
	return timing{operation: 20 * time.Second, attempt: 8 * time.Second, attempts: 3, longest: 2 * time.Second}
}

// Bucket keeps the seals of one vault in a bucket. It is for one goroutine.
type Bucket struct {
	remote
	cluster func(context.Context) (uuid.UUID, error)

	folder string    // of this cluster, with its slash; "" until the cluster is known
	object int64     // the newest object known: the id of its first seal; 0 = none
	last   seal.Seal // of the bucket, while known
	known  bool
}

var _ seal.Keeper = (*Bucket)(nil)

// Open reads the AWS configuration and sends no request; ctx bounds that. It calls cluster only when the vault's id is
// needed, so a daemon starts while its database does not answer.
func Open(ctx context.Context, uri string, cluster func(context.Context) (uuid.UUID, error)) (*Bucket, error) {
	return open(ctx, uri, cluster, defaultTiming())
}

func open(ctx context.Context, uri string, cluster func(context.Context) (uuid.UUID, error),
	limits timing) (*Bucket, error) {
	r, err := connect(ctx, uri, limits, maxObject)
	if err != nil {
		return nil, err
	}
	return &Bucket{remote: r, cluster: cluster}, nil
}

// Last finds the end of the bucket unless it is known.
func (b *Bucket) Last(ctx context.Context) (seal.Seal, error) {
	if b.known {
		return b.last, nil
	}
	object, err := b.end(ctx, b.object)
	if err != nil {
		return seal.Seal{}, err
	}
	var last seal.Seal
	if object > 0 {
		seals, err := b.read(ctx, object, seal.Seal{})
		if err != nil {
			return seal.Seal{}, err
		}
		last = seals[len(seals)-1]
	}
	b.object, b.last, b.known = object, last, true
	return last, nil
}

// Add puts one object.
func (b *Bucket) Add(ctx context.Context, seals []seal.Seal) error {
	last, err := b.Last(ctx)
	if err != nil {
		return err
	}
	text, err := seal.AppendLines(nil, &last, seals)
	if err != nil {
		return err
	}
	first := seals[0].ID
	if err := b.put(ctx, first, text); err != nil {
		b.known = false // the object may have been stored all the same
		return err
	}
	b.object, b.last = first, last
	return nil
}

// Seals reads all seals, for a verification.
func (b *Bucket) Seals(ctx context.Context) ([]seal.Seal, error) {
	var all []seal.Seal
	var last seal.Seal
	for after := int64(0); ; {
		page, more, err := b.list(ctx, after)
		if err != nil {
			return nil, err
		}
		for some := range slices.Chunk(page, readers) {
			texts, err := b.getAll(ctx, some)
			if err != nil {
				return nil, err
			}
			for i, first := range some {
				seals, err := b.parse(first, texts[i], last)
				if err != nil {
					return nil, err
				}
				all, last = append(all, seals...), seals[len(seals)-1]
			}
		}
		if !more {
			return all, nil
		}
		after = page[len(page)-1]
	}
}

// end finds the newest object, beginning at from, the last one known: in steps that double until no object follows,
// then by bisection. Among 200,000 objects that is 23 requests, where reading all names would be 200.
func (b *Bucket) end(ctx context.Context, from int64) (int64, error) {
	low, high := from, int64(math.MaxInt64) // no object follows high
	for step := int64(0); low < high; {
		page, more, err := b.list(ctx, low+step)
		switch {
		case err != nil:
			return 0, err
		case len(page) == 0:
			high = low + step
			step = (high - low) / 2
		case !more:
			return page[len(page)-1], nil
		default:
			low = page[len(page)-1]
			step = min(max(2*step, 1024), (high-low)/2)
		}
	}
	return low, nil
}

const nameFormat = "%020d.jsonl"

var objectName = lazyregexp.New(`^([0-9]{20})\.jsonl$`)

func (b *Bucket) key(first int64) string { return b.folder + fmt.Sprintf(nameFormat, first) }

// locate sets the folder from the vault's id, which it asks for once.
func (b *Bucket) locate(ctx context.Context) error {
	if b.folder != "" {
		return nil
	}
	cluster, err := b.cluster(ctx)
	if err != nil {
		return fmt.Errorf("%q: %w: the vault's id is not known: %w", b.uri.name(), seal.ErrAway, err)
	}
	b.folder = strings.TrimPrefix(b.uri.prefix+"/"+cluster.String()+"/", "/")
	return nil
}

// list returns objects after one, in order, and whether there are more. It returns none only if there is none.
func (b *Bucket) list(ctx context.Context, after int64) (page []int64, more bool, err error) {
	if err := b.locate(ctx); err != nil {
		return nil, false, err
	}
	from := b.key(after)
	for {
		keys, truncated, err := b.listKeys(ctx, b.folder, from)
		if err != nil {
			return nil, false, err
		}
		for _, key := range keys {
			from = key
			if m := objectName().FindStringSubmatch(key[len(b.folder):]); m != nil {
				if first, err := strconv.ParseInt(m[1], 10, 64); err == nil && first > after {
					page = append(page, first)
				}
			}
		}
		more = truncated
		if len(page) > 0 || !more {
			return page, more, nil
		}
	}
}

// put is the commit point.
func (b *Bucket) put(ctx context.Context, first int64, text []byte) error {
	err := b.putNew(ctx, b.key(first), "application/jsonl", text)
	if errors.Is(err, ErrThere) {
		return fmt.Errorf("%q: %w", b.uri.name(), seal.ErrAdded)
	}
	return err
}

func (b *Bucket) get(ctx context.Context, first int64) ([]byte, error) {
	text, err := b.getObject(ctx, b.key(first), maxObject)
	if len(text) > maxObject {
		return nil, b.foreign(first, "it is longer than any that was written here")
	}
	return text, err
}

func (b *Bucket) getAll(ctx context.Context, objects []int64) ([][]byte, error) {
	texts := make([][]byte, len(objects))
	group, ctx := errgroup.WithContext(ctx)
	for i, first := range objects {
		group.Go(func() (err error) {
			texts[i], err = b.get(ctx, first)
			return err
		})
	}
	return texts, group.Wait()
}

// read returns the seals of one object, at least one.
func (b *Bucket) read(ctx context.Context, first int64, last seal.Seal) ([]seal.Seal, error) {
	text, err := b.get(ctx, first)
	if err != nil {
		return nil, err
	}
	return b.parse(first, text, last)
}

// parse is strict: any writer of the bucket may have put any text there.
func (b *Bucket) parse(first int64, text []byte, last seal.Seal) ([]seal.Seal, error) {
	var seals []seal.Seal
	whole, err := seal.ReadLines(b.objectURI(first), bytes.NewReader(text), last,
		func(s seal.Seal) { seals = append(seals, s) })
	switch {
	case err != nil:
		return nil, err
	case whole != int64(len(text)) || len(seals) == 0:
		return nil, b.foreign(first, "its last line is not whole")
	case seals[0].ID != first:
		return nil, b.foreign(first, fmt.Sprintf("it begins with seal %d", seals[0].ID))
	}
	return seals, nil
}

func (b *Bucket) objectURI(first int64) string { return Scheme + b.uri.bucket + "/" + b.key(first) }

func (b *Bucket) foreign(first int64, why string) error {
	return fmt.Errorf("%q: %w: %s", b.objectURI(first), seal.ErrCopies, why)
}
