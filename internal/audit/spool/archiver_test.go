package spool

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/audit"
)

// shelf is an archive that keeps segments, and fails when it is told to.
type shelf struct {
	mu       sync.Mutex
	fails    error
	lost     bool // the segment is kept, and the reply lost
	segments []Segment
	calls    int
}

func (a *shelf) Keep(_ context.Context, s Segment) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls++
	if a.fails != nil && !a.lost {
		return a.fails
	}
	for _, there := range a.segments {
		if there.Records[0].Seq == s.Records[0].Seq && len(there.Records) == len(s.Records) &&
			there.Records[len(there.Records)-1].Hash() == s.Records[len(s.Records)-1].Hash() {
			return a.fails
		}
	}
	a.segments = append(a.segments, s)
	return a.fails
}

// records are those on the shelf, which have to be in one chain.
func (a *shelf) records(t *testing.T) (all []Record) {
	t.Helper()
	for _, s := range a.segments {
		link := Hash{}
		if len(all) > 0 {
			link = all[len(all)-1].Hash()
		}
		if s.Link != link || s.Records[0].Previous != link {
			t.Fatalf("the segment of record %d does not continue the one before", s.Records[0].Seq)
		}
		all = append(all, s.Records...)
	}
	return all
}

func (w *world) archived(fs FS) Options {
	o := w.small(fs)
	o.Archived, o.KeepShipped = true, time.Nanosecond // removed as soon as it may be
	return o
}

func (w *world) archiver(s *Spool, a Archive) *Archiver {
	return &Archiver{Spool: s, Archive: a, Log: slog.New(slog.DiscardHandler)}
}

// shipAll acknowledges every record.
func shipAll(t *testing.T, s *Spool) []Record {
	t.Helper()
	return drain(t, s).records
}

func segmentNames(t *testing.T, dir string) (names []string) {
	t.Helper()
	all, err := list(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range all {
		if _, ok := segmentFirst(name); ok {
			names = append(names, name)
		}
	}
	return names
}

func TestASegmentIsArchivedBeforeItIsRemoved(t *testing.T) {
	w := newWorld(t)
	s := mustOpen(t, w.archived(nil))
	defer mustClose(t, s)
	a := &shelf{}
	archiver := w.archiver(s, a)
	w.appendAll(s)
	if kept, err := archiver.next(t.Context(), false); kept || err != nil {
		t.Fatalf("what the primary does not have was archived (%v)", err)
	}
	before := segmentNames(t, w.dir)
	shipped := shipAll(t, s)
	if err := s.Acknowledge(s.durable); err != nil {
		t.Fatal(err)
	}
	if now := segmentNames(t, w.dir); !slices.Equal(now, before) || len(now) < 3 {
		t.Fatalf("got the segments %v, want %v: none of them is archived", now, before)
	}
	if stats := s.Stats(); stats.Archive == 0 || stats.Ripe.IsZero() || stats.Bytes != 0 {
		t.Errorf("got %+v, want bytes that wait for the archive alone", stats)
	}
	for range before[1:] {
		if kept, err := archiver.next(t.Context(), false); !kept || err != nil {
			t.Fatalf("got %t, %v", kept, err)
		}
	}
	if kept, err := archiver.next(t.Context(), false); kept || err != nil {
		t.Fatalf("the segment that gets records was archived (%v)", err)
	}
	if err := s.Acknowledge(s.durable); err != nil {
		t.Fatal(err)
	}
	if now := segmentNames(t, w.dir); !slices.Equal(now, before[len(before)-1:]) {
		t.Errorf("got the segments %v, want the last of %v", now, before)
	}
	if stats := s.Stats(); stats.Archive != 0 || !stats.Ripe.IsZero() {
		t.Errorf("got %+v, want nothing that waits", stats)
	}
	if err := archiver.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := a.records(t)
	if len(got) != len(shipped) {
		t.Fatalf("the archive has %d records, the primary %d", len(got), len(shipped))
	}
	for i := range got {
		if got[i].Seq != shipped[i].Seq || got[i].Hash() != shipped[i].Hash() {
			t.Fatalf("record %d of the archive is not the primary's", got[i].Seq)
		}
	}
	if state := archiver.State(); state.Records != uint64(len(got)) || state.Segments != uint64(len(before)) {
		t.Errorf("got %+v after %d records", state, len(got))
	}
}

// "Failed" and "done, but the reply was lost", and a kill before the removal: each segment is there once.
func TestArchivedOnce(t *testing.T) {
	for _, lost := range []bool{false, true} {
		w := newWorld(t)
		a := &shelf{fails: errors.New("away"), lost: lost}
		for range 3 {
			s := mustOpen(t, w.archived(nil))
			w.appendAll(s)
			shipAll(t, s)
			archiver := w.archiver(s, a)
			if kept, err := archiver.next(t.Context(), false); kept || !errors.Is(err, a.fails) {
				t.Fatalf("got %t, %v", kept, err)
			}
			mustClose(t, s) // what was archived is not known any more, as after a kill
		}
		a.fails = nil
		s := mustOpen(t, w.archived(nil))
		shipAll(t, s)
		if err := w.archiver(s, a).Finish(t.Context()); err != nil {
			t.Fatal(err)
		}
		mustClose(t, s)
		if got := len(a.records(t)); got != 3*storyLength+1 {
			t.Errorf("lost: %t: the archive has %d records, want %d", lost, got, 3*storyLength+1)
		}
	}
}

// While the archive is away nothing is lost and reads go on, until its segments and the unshipped ones fill the room.
func TestAnArchiveThatIsAwayFillsTheRoom(t *testing.T) {
	w := newWorld(t)
	o := w.archived(nil)
	o.MaxBytes = 20_000
	s := mustOpen(t, o)
	defer mustClose(t, s)
	a := &shelf{fails: errors.New("away")}
	archiver := w.archiver(s, a)
	var err error
	for n := 0; err == nil; n++ {
		if n == 1000 {
			t.Fatalf("a thousand records fit into %d bytes: %+v", o.MaxBytes, s.Stats())
		}
		if err = w.append(s, fmt.Sprint(n)); err == nil && n%5 == 0 {
			shipAll(t, s)
			_, _ = archiver.next(t.Context(), false)
		}
	}
	if !errors.Is(err, ErrFull) || s.Stats().Archive < o.MaxBytes*3/4 || len(w.accepted) < 30 {
		t.Fatalf("got %v after %d records, with %+v", err, len(w.accepted), s.Stats())
	}
	shipAll(t, s)
	a.fails = nil
	for {
		kept, err := archiver.next(t.Context(), false)
		if err != nil {
			t.Fatal(err)
		}
		if !kept {
			break
		}
	}
	w.mustAppend(s, "after")
	shipAll(t, s)
	if err := archiver.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := len(a.records(t)); got != len(w.accepted)+1 {
		t.Errorf("the archive has %d records, want %d", got, len(w.accepted)+1)
	}
}

// A shipped segment that is damaged on the disk is set aside, and what can be read of it is archived.
func TestADamagedSegmentIsArchivedInParts(t *testing.T) {
	w := newWorld(t)
	s := mustOpen(t, w.archived(nil))
	defer mustClose(t, s)
	w.appendAll(s)
	shipAll(t, s)
	path := filepath.Join(w.dir, segmentNames(t, w.dir)[1])
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	a := &shelf{}
	archiver := w.archiver(s, a)
	failed := 0
	for {
		kept, err := archiver.next(t.Context(), true)
		if err != nil {
			failed++
		} else if !kept {
			break
		}
		if failed > 1 {
			t.Fatal(err)
		}
	}
	have := map[uint64]bool{}
	for _, s := range a.segments {
		for _, r := range s.Records {
			if have[r.Seq] {
				t.Errorf("record %d is there twice", r.Seq)
			}
			have[r.Seq] = true
		}
	}
	if len(have) != storyLength || failed != 1 || s.Stats().Damaged != 1 { // one is lost, and the spool began with a note
		t.Errorf("the archive has %d records after %d failures and %d damaged segments", len(have), failed, s.Stats().Damaged)
	}
}

// A node with few reads ends its segment after an hour, at the next read.
func TestAnOldSegmentEnds(t *testing.T) {
	for _, archived := range []bool{true, false} {
		w := newWorld(t)
		synctest.Test(t, func(t *testing.T) {
			o := w.archived(nil)
			o.Archived, o.SyncInterval, o.SegmentBytes = archived, time.Second, 1<<20
			s := mustOpen(t, o)
			defer mustClose(t, s)
			w.mustAppend(s, "first")
			time.Sleep(archiveAge / 2)
			w.mustAppend(s, "second")
			if got := segmentNames(t, w.dir); len(got) != 1 {
				t.Fatalf("after half the time: got %v", got)
			}
			time.Sleep(archiveAge)
			w.mustAppend(s, "third", "fourth")
			want := map[bool]int{true: 2, false: 1}[archived]
			if got := segmentNames(t, w.dir); len(got) != want {
				t.Errorf("archived %t: got %v, want %d segments", archived, got, want)
			}
			time.Sleep(archiveAge + time.Minute) // it ends, and no record comes
			time.Sleep(archiveAge + time.Minute)
			if got := segmentNames(t, w.dir); len(got) != want {
				t.Errorf("archived %t: without records got %v, want as before", archived, got)
			}
		})
		w.check()
	}
}

// A disk with so many bytes for segments.
type quota struct {
	faulty
	most  int64
	sizes sync.Map // path -> bytes
}

type quotaFile struct {
	File
	of   *quota
	path string
}

func (q *quota) used() (total int64) {
	q.sizes.Range(func(_, size any) bool { total += size.(int64); return true })
	return total
}

func (q *quota) Create(path string) (File, error) {
	q.sizes.Store(path, int64(0))
	f, err := q.faulty.Create(path)
	return &quotaFile{f, q, path}, err
}

func (f *quotaFile) WriteAt(b []byte, at int64) (int, error) {
	size, _ := f.of.sizes.LoadOrStore(f.path, int64(0))
	if more := at + int64(len(b)) - size.(int64); more > 0 {
		if f.of.used()+more > f.of.most {
			return 0, syscall.ENOSPC
		}
		f.of.sizes.Store(f.path, size.(int64)+more)
	}
	return f.File.WriteAt(b, at)
}

func (q *quota) Rename(from, to string) error {
	size, _ := q.sizes.LoadAndDelete(from)
	q.sizes.Store(to, size)
	return q.faulty.Rename(from, to)
}

func (q *quota) Remove(path string) error {
	q.sizes.Delete(path)
	return q.faulty.Remove(path)
}

// On a nearly full disk a restarted daemon drops a segment that the primary has, instead of refusing reads for the
// quarter of an hour that it would be kept; and one that the archive lacks stays.
func TestAFullDiskDropsWhatIsShipped(t *testing.T) {
	for _, test := range []struct{ archived, kept bool }{{false, false}, {true, false}, {true, true}} {
		w := newWorld(t)
		disk := &quota{most: 1 << 30}
		o := w.small(disk)
		o.Archived = test.archived
		s := mustOpen(t, o)
		w.appendAll(s)
		shipAll(t, s)
		mustClose(t, s)
		before := segmentNames(t, w.dir)

		disk.most = disk.used() + 10 // not even a header fits
		s = mustOpen(t, o)
		if err := w.append(s, "refused"); !errors.Is(err, ErrUnwritable) || !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("before it knows what the primary has: got %v", err)
		}
		shipAll(t, s)
		if test.kept {
			if err := w.archiver(s, &shelf{}).Finish(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if test.archived && !test.kept {
			if err := w.append(s, "still refused"); !errors.Is(err, ErrUnwritable) {
				t.Errorf("got %v, want a refusal: the archive has nothing", err)
			}
			if now := segmentNames(t, w.dir); !slices.Equal(now, before) {
				t.Errorf("got the segments %v, want %v", now, before)
			}
			mustClose(t, s)
			continue
		}
		s.recheck() // as the committer does
		if err := s.Stats().Failing; err != nil {
			t.Errorf("got %v, want that it has found room", err)
		}
		w.mustAppend(s, "after")
		if now := segmentNames(t, w.dir); slices.Contains(now, before[0]) || len(now) < 2 {
			t.Errorf("got the segments %v, want %v without the oldest", now, before)
		}
		mustClose(t, s)
	}
}

// Where the disk has no room for a segment filled with zeros, but for records, a segment grows as they come.
func TestAFullDiskTakesASegmentThatGrows(t *testing.T) {
	w := newWorld(t)
	disk := &quota{most: 900}
	o := w.small(disk)
	s := mustOpen(t, o)
	w.mustAppend(s, "a")
	if used := disk.used(); used == 0 || used >= o.SegmentBytes {
		t.Errorf("it uses %d bytes, want fewer than the %d of a filled segment", used, o.SegmentBytes)
	}
	mustClose(t, s)
	disk.most = 1 << 30
	w.check()
}

// primaries is a primary that keeps every spool's position and records, as vault.ship_reads does.
type primaries struct {
	at      map[uuid.UUID]Position
	records map[uuid.UUID][]Record
}

func newPrimaries() *primaries { return &primaries{map[uuid.UUID]Position{}, map[uuid.UUID][]Record{}} }

// ShipWindows is not called: the Shipper has no Window.
func (p *primaries) ShipWindows(context.Context, Windows) (Position, error) {
	return Position{}, errors.ErrUnsupported
}

func (p *primaries) Ship(_ context.Context, b Batch) (Position, error) {
	at, known := p.at[b.Boot]
	if !known {
		at.Next = 1
	}
	if b.Lost && b.First > at.Next {
		at.Next, at.Last, at.Gaps = b.First, b.Records[0].Previous, at.Gaps+1
	}
	for _, r := range b.Records {
		if r.Seq == at.Next {
			if r.Previous != at.Last {
				return at, errors.New("it does not continue the one before")
			}
			p.records[b.Boot] = append(p.records[b.Boot], r)
			at.Next, at.Last = r.Seq+1, r.Hash()
		}
	}
	if len(b.Records) > 0 {
		p.at[b.Boot] = at
	}
	return at, nil
}

// A folder that was put back to an earlier state is on record once, and its records can be shipped as another spool.
func TestAFolderThatWentBackIsOnRecord(t *testing.T) {
	w := newWorld(t)
	s := mustOpen(t, w.small(nil))
	w.mustAppend(s, "a", "b")
	mustClose(t, s)
	image := filepath.Join(t.TempDir(), "image")
	if err := os.CopyFS(image, os.DirFS(w.dir)); err != nil {
		t.Fatal(err)
	}
	primary := newPrimaries()
	ship := func(dir string, ids ...string) (*Spool, *Shipper) {
		o := w.small(nil)
		o.Dir = dir
		s := mustOpen(t, o)
		w.mustAppend(s, ids...)
		return s, &Shipper{Spool: s, Primary: primary, Log: slog.New(slog.DiscardHandler)}
	}
	s, shipper := ship(w.dir, "c", "d")
	if n, err := shipper.Drain(t.Context()); n != 5 || err != nil {
		t.Fatalf("it shipped %d records: %v", n, err)
	}
	boot := s.boot
	mustClose(t, s)
	if err := os.Chmod(image, 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 { // also after a restart
		s, shipper = ship(image, "x")
		for range 3 {
			shipper.round(t.Context(), newBackOff())
		}
		if err := shipper.State().Failing; !errors.Is(err, ErrDiverged) {
			t.Fatalf("got %v, want %v", err, ErrDiverged)
		}
		if len(primary.records) != 2 || len(primary.records[boot]) != 5 {
			t.Fatalf("the primary has the spools %v, want one more than the folder's", primary.at)
		}
		for other, records := range primary.records {
			if other != boot && (len(records) != 1 || other.Version() != 5 ||
				actionOf(t, records[0]) != audit.Gap || detailOf(t, records[0])["spool"] != boot.String()) {
				t.Errorf("got %d records of boot %s, the first %s", len(records), other, records[0].Event)
			}
		}
		mustClose(t, s)
	}

	s, shipper = ship(image)
	if _, err := shipper.Drain(t.Context()); !errors.Is(err, ErrDiverged) {
		t.Errorf("got %v, want %v", err, ErrDiverged)
	}
	for range 2 { // again, it is the same
		as, n, err := shipper.DrainAsNew(t.Context())
		if n != 5 || err != nil { // the spool's own, a, b, and x twice
			t.Fatalf("got %d records: %v", n, err)
		}
		got := primary.records[as]
		if len(got) != 6 || actionOf(t, got[0]) != audit.Gap || detailOf(t, got[0])["spool"] != boot.String() {
			t.Fatalf("got %d records, the first %s", len(got), got[0].Event)
		}
	}
	mustClose(t, s)
}

// A folder that is no spool, or whose segments cannot be read, stays as it is.
func TestAFolderThatIsNoSpool(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"empty":             {},
		"of something else": {"notes.seg": "x", "film.partial": "x", segmentName(1) + partialSuffix: "x"},
		"damaged":           {segmentName(1): "x", segmentName(9) + damagedSuffix: "x"},
	} {
		dir := t.TempDir()
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for file, text := range files {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		before, _ := list(dir)
		if _, err := Open(Options{Dir: dir, Existing: true}); !errors.Is(err, ErrNoSpool) {
			t.Errorf("%s: got %v, want %v", name, err, ErrNoSpool)
		}
		if after, _ := list(dir); !slices.Equal(after, before) {
			t.Errorf("%s: the files are %v, were %v", name, after, before)
		}
	}
	nowhere := filepath.Join(t.TempDir(), "nowhere")
	if _, err := Open(Options{Dir: nowhere, Existing: true}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want %v", err, fs.ErrNotExist)
	}
}

// A spool removes the segments that it did not finish, and nothing else.
func TestFilesOfOthersStay(t *testing.T) {
	w := newWorld(t)
	mustClose(t, mustOpen(t, w.small(nil)))
	for _, name := range []string{"film.partial", segmentName(7) + partialSuffix} {
		if err := os.WriteFile(filepath.Join(w.dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mustClose(t, mustOpen(t, w.small(nil)))
	names, _ := list(w.dir)
	if !slices.Contains(names, "film.partial") || slices.Contains(names, segmentName(7)+partialSuffix) {
		t.Errorf("got %v, want the film alone", names)
	}
}

// Records that cannot be read are a gap of the spool as which a folder is shipped, once.
func TestAsNewTheMissingRecordsAreAGap(t *testing.T) {
	w := newWorld(t)
	s := mustOpen(t, w.small(nil))
	w.mustAppend(s, "a", "b", "c")
	mustClose(t, s)
	path := filepath.Join(w.dir, segmentName(1))
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(content, []byte(`"request_id":"b"`))
	if at < 0 {
		t.Fatalf("%s has no record of b", path)
	}
	content[at] ^= 0x40
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	primary := newPrimaries()
	for range 2 {
		s = mustOpen(t, w.small(nil))
		if aside, err := s.SetAside(); err != nil || !slices.Equal(aside, []string{segmentName(1) + damagedSuffix}) {
			t.Errorf("got %v set aside, %v", aside, err)
		}
		shipper := &Shipper{Spool: s, Primary: primary, Log: slog.New(slog.DiscardHandler)}
		boot, n, err := shipper.DrainAsNew(t.Context())
		if err != nil || n != 4 { // the beginning, a, c, and what was set aside
			t.Fatalf("got %d records: %v", n, err)
		}
		if at, records := primary.at[boot], primary.records[boot]; at.Gaps != 1 || at.Next != 7 || len(records) != 5 {
			t.Errorf("the primary has %d records to %d, and %d gaps", len(records), at.Next, at.Gaps)
		}
		mustClose(t, s)
	}
}

func eventOf(t *testing.T, r Record) (e audit.Event) {
	t.Helper()
	if err := json.Unmarshal(r.Event, &e); err != nil {
		t.Fatal(err)
	}
	return e
}

func actionOf(t *testing.T, r Record) string         { t.Helper(); return eventOf(t, r).Action }
func detailOf(t *testing.T, r Record) map[string]any { t.Helper(); return eventOf(t, r).Detail }
