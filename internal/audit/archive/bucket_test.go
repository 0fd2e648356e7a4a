package archive

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/hyperiondb/vault/internal/audit/bucket/s3fake"
	"github.com/hyperiondb/vault/internal/audit/filter"
	"github.com/hyperiondb/vault/internal/audit/seal"
	"github.com/hyperiondb/vault/internal/audit/spool"
	"github.com/hyperiondb/vault/internal/awsclient/awsfake"
)

// newBucket is an archive in a bucket, and the spool of its segments.
func newBucket(t *testing.T) (*s3fake.Fake, *world, *Archive) {
	t.Helper()
	awsfake.Isolate(t)
	f := s3fake.New("eu-west-1", "reads")
	endpoint, err := f.Serve()
	must(t, err)
	t.Cleanup(f.Close)
	a, err := Open(t.Context(), "s3://reads/vault/x?region=eu-west-1&endpoint="+endpoint, ofVault)
	must(t, err)
	t.Cleanup(func() { a.Close() })
	return f, newWorld(t), a
}

// mustFit is the invariant: the bucket has exactly the records of the world, in one chain.
func mustFit(t *testing.T, w *world, a *Archive) {
	t.Helper()
	r, err := a.Verify(t.Context(), Options{})
	must(t, err)
	end := w.segments[len(w.segments)-1]
	next := end.Records[len(end.Records)-1].Seq + 1
	if len(r.Faults) > 0 || r.Records != int64(next-1) || r.Spools[0].Next != next {
		t.Errorf("got %+v, want the records up to %d and no fault", r, next-1)
	}
}

// A put that failed, one whose reply was lost, and one that met another's condition end the same way: each segment is
// there once.
func TestABucketWithFaults(t *testing.T) {
	f, w, a := newBucket(t)
	inject := func(kind s3fake.Kind, op string) { must(t, f.Inject(s3fake.Fault{Kind: kind, Op: op, Times: 1})) }
	w.mustKeep(a, 3)
	for _, kind := range []s3fake.Kind{s3fake.Reset, s3fake.LostReply, s3fake.Internal, s3fake.SlowDown} {
		inject(kind, s3fake.Put)
		w.mustKeep(a, 3)
	}
	inject(s3fake.Conflict, s3fake.Put)
	if err := a.Keep(t.Context(), w.grow(3)); !errors.Is(err, seal.ErrAway) {
		t.Errorf("a condition in conflict: got %v, want that it is tried again", err)
	}
	must(t, a.Keep(t.Context(), w.segments[len(w.segments)-1]))
	inject(s3fake.AccessDenied, s3fake.Put)
	s := w.grow(3)
	if err := a.Keep(t.Context(), s); !errors.Is(err, seal.ErrAway) || !strings.Contains(err.Error(), "s3:PutObject") {
		t.Errorf("without permission: got %v", err)
	}
	must(t, a.Keep(t.Context(), s))
	must(t, a.Keep(t.Context(), s)) // it is there
	mustFit(t, w, a)
	below := "vault/x/reads/" + vaultID.String() + "/" + w.boot.String() + "/"
	if n := len(f.Keys()); n != 7 || !strings.HasPrefix(f.Keys()[0], below) {
		t.Errorf("got %d objects, the first %q", n, f.Keys()[0])
	}

	// In pages, and beside the seals of the same prefix.
	f.SetPage(2)
	f.Set("vault/x/"+vaultID.String()+"/00000000000000000001.jsonl", []byte("a seal"))
	f.Set("vault/other", []byte("?"))
	mustFit(t, w, a)
	inject(s3fake.Garbage, s3fake.List)
	if _, err := a.Verify(t.Context(), Options{}); !errors.Is(err, seal.ErrAway) {
		t.Errorf("a page of a proxy in place of a listing: got %v", err)
	}
	inject(s3fake.Truncated, s3fake.Get)
	inject(s3fake.NoBucket, s3fake.Get)
	for range 2 {
		if _, err := a.List(t.Context(), filter.Filter{}, 100); !errors.Is(err, seal.ErrAway) || errors.Is(err, ErrDamaged) {
			t.Errorf("an answer that says nothing of the object: got %v", err)
		}
	}
	events, err := a.List(t.Context(), filter.Filter{}, 2)
	must(t, err)
	if got := seqs(events); !slices.Equal(got, []uint64{21, 20}) {
		t.Errorf("got the records %v", got)
	}

	// An object that another writer put under the name.
	keys := f.Keys()
	first := slices.IndexFunc(keys, func(key string) bool { return strings.HasPrefix(key, below) })
	f.Set(keys[first], []byte("?"))
	if err := a.Keep(t.Context(), w.segments[0]); !errors.Is(err, ErrOther) || errors.Is(err, seal.ErrAway) {
		t.Errorf("got %v, want %v", err, ErrOther)
	}
	if r, err := a.Verify(t.Context(), Options{}); err != nil || len(r.Faults) != 1 ||
		!strings.Contains(r.Faults[0].What, "cannot be expanded") && !strings.Contains(r.Faults[0].What, "cut short") {
		t.Errorf("got %v, %v", r.Faults, err)
	}
}

// Any call of the file system fails: the segment is refused, and kept by the next attempt; nothing half is taken for a
// file.
func TestAnyCallOfAFolderMayFail(t *testing.T) {
	for call := 1; ; call++ {
		w := newWorld(t)
		fs := &failing{FS: spool.DiskFS(), at: call}
		a, err := open(w.dir, folder{w.dir, fs}, ofVault)
		must(t, err)
		for range 2 {
			if err := a.Keep(t.Context(), w.grow(3)); err != nil {
				if !errors.Is(err, errDisk) {
					t.Fatalf("call %d: got %v", call, err)
				}
				if _, err := os.Stat(w.dir); err == nil {
					if r := w.verify(Options{}); len(r.Faults) > 0 {
						t.Errorf("call %d, %s: after the refusal verifying finds %v", call, fs.failed, r.Faults)
					}
				}
				must(t, a.Keep(t.Context(), w.segments[len(w.segments)-1]))
			}
		}
		w.checkFits(6, 7)
		must(t, a.Close())
		if fs.failed == "" {
			if call < 16 {
				t.Errorf("it makes %d calls only", call)
			}
			return
		}
	}
}

var errDisk = os.ErrDeadlineExceeded // no call of the disk has it by itself

// failing fails one call.
type failing struct {
	spool.FS
	at, calls int
	failed    string
}

func (f *failing) hit(op string) error {
	if f.calls++; f.calls == f.at {
		f.failed = op
		return errDisk
	}
	return nil
}

func (f *failing) Create(path string) (spool.File, error) {
	if err := f.hit("create"); err != nil {
		return nil, err
	}
	file, err := f.FS.Create(path)
	return failingFile{file, f}, err
}

func (f *failing) Rename(from, to string) error {
	return errors.Join(f.hit("rename"), f.unless(func() error { return f.FS.Rename(from, to) }))
}

func (f *failing) SyncDir(dir string) error {
	return errors.Join(f.hit("syncdir"), f.unless(func() error { return f.FS.SyncDir(dir) }))
}

// unless does what did not just fail.
func (f *failing) unless(do func() error) error {
	if f.calls == f.at {
		return nil
	}
	return do()
}

type failingFile struct {
	spool.File
	fs *failing
}

func (f failingFile) WriteAt(b []byte, at int64) (int, error) {
	if err := f.fs.hit("write"); err != nil {
		n, _ := f.File.WriteAt(b[:len(b)/2], at)
		return n, err
	}
	return f.File.WriteAt(b, at)
}

func (f failingFile) Sync() error { return errors.Join(f.fs.hit("fsync"), f.File.Sync()) }
