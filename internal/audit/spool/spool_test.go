package spool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hyperiondb/vault/internal/audit"
)

// until polls a condition, and fails the test if it stays false.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	for !condition() {
		select {
		case <-time.After(time.Millisecond):
		case <-deadline:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// The real disk, its file modes, and an Open after a Close.
func TestAFolderHasOneLife(t *testing.T) {
	w := newWorld(t)
	o := Options{Dir: w.dir, Node: named("db1@host"), Timeout: time.Minute}
	s := mustOpen(t, o)
	boot := s.Stats().Boot
	w.mustAppend(s, "a", "b")
	if _, err := Open(o); !errors.Is(err, ErrInUse) {
		t.Errorf("a second writer got %v, want it to be refused", err)
	}
	mustClose(t, s)
	if err := s.Append(t.Context(), event("late")); !errors.Is(err, ErrClosed) {
		t.Errorf("an append after the end got %v", err)
	}
	o.Node = named("renamed")
	s = mustOpen(t, o)
	if got := s.Stats(); got.Boot != boot || got.Node != "db1@host" || got.Records != 3 || got.Oldest.IsZero() {
		t.Errorf("opened again it is %+v, want the node and boot from before, two reads and a note", got)
	}
	w.mustAppend(s, "c")
	mustClose(t, s)
	names, err := list(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(names, ".") {
		info, err := os.Stat(filepath.Join(w.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		want := os.FileMode(0o600)
		if info.IsDir() {
			want = 0o700
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %o, want %o", name, info.Mode().Perm(), want)
		}
	}
	d := w.check()
	begun, ok := d.note(audit.SpoolBegun)
	if !ok || begun.Detail["boot"] != boot.String() {
		t.Errorf("got notes %v, want the beginning with its boot", d.notes)
	}
}

func TestAFolderThatOthersCanRead(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Errorf("got %v, want what to do about it", err)
	}
}

// Appends that arrive during an fsync share the next one.
func TestAppendsShareAnFsync(t *testing.T) {
	const appenders = 100
	reached, gate := make(chan struct{}), make(chan struct{})
	var reach, open sync.Once
	fs := &faulty{}
	w := newWorld(t)
	o := w.small(fs)
	o.SegmentBytes = 1 << 20
	s := mustOpen(t, o)
	defer mustClose(t, s)
	defer open.Do(func() { close(gate) }) // also after a failure, so that the spool can be closed
	w.mustAppend(s, "first")
	before := fs.syncs
	fs.before = func(_ int, op string) error {
		if op == "fsync" {
			reach.Do(func() { close(reached) })
			<-gate
		}
		return nil
	}
	var done sync.WaitGroup
	appendOne := func(i int) {
		done.Go(func() {
			if err := s.Append(context.Background(), event(fmt.Sprint(i))); err != nil {
				t.Error(err)
			}
		})
	}
	appendOne(0)
	<-reached
	for i := 1; i < appenders; i++ {
		appendOne(i)
	}
	until(t, "all the others wait", func() bool { return s.queue.length() == appenders-1 })
	open.Do(func() { close(gate) })
	done.Wait()
	if shared := fs.syncs - before; shared > 3 {
		t.Errorf("%d appends took %d fsyncs, want 2 or 3", appenders, shared)
	}
	if d := drain(t, s); len(d.ids) != appenders+1 {
		t.Errorf("got %d records, want %d", len(d.ids), appenders+1)
	}
}

// With Interval an append does not wait for the disk, only fsynced records are shipped, and records of a failed fsync
// are written again.
func TestInterval(t *testing.T) {
	fs := &faulty{}
	w := newWorld(t)
	o := w.small(fs)
	o.Sync, o.SegmentBytes = Interval, 1<<20
	s := mustOpen(t, o)
	w.mustAppend(s, "a", "b")
	syncs := fs.syncs
	w.mustAppend(s, "c")
	if fs.syncs != syncs {
		t.Errorf("an append waited for an fsync")
	}
	if d := drain(t, s); len(d.ids) != 0 {
		t.Errorf("%v are shipped, and not yet durable", d.ids)
	}
	failed := false
	fs.before = func(_ int, op string) error {
		if op == "fsync" && !failed {
			failed = true
			return syscall.EIO
		}
		return nil
	}
	s.flush()
	if d := drain(t, s); len(d.ids) != 3 || !failed {
		t.Errorf("got %v after an fsync that failed, want all three", d.ids)
	}
	mustClose(t, s)
	fs.check(t)
	w.check()
}

// With Interval a removed segment is noticed at its fsync, or when it is full: the pending records are written again.
func TestIntervalInARemovedSegment(t *testing.T) {
	for what, size := range map[string]int64{"at the fsync": 1 << 20, "when it is full": 500} {
		w := newWorld(t)
		o := w.small(nil)
		o.Sync, o.SegmentBytes = Interval, size
		s := mustOpen(t, o)
		w.mustAppend(s, "a", "b")
		if err := os.Remove(filepath.Join(w.dir, segmentName(1))); err != nil {
			t.Fatal(err)
		}
		w.mustAppend(s, "c")
		s.flush()
		if d := drain(t, s); d.lost > 0 || !slices.Equal(d.ids, w.accepted) {
			t.Errorf("%s: got %v with %d gaps, want %v", what, d.ids, d.lost, w.accepted)
		}
		mustClose(t, s)
	}
}

func TestIntervalComesByItself(t *testing.T) {
	w := newWorld(t)
	o := w.small(nil)
	o.Sync, o.SyncInterval = Interval, 5*time.Millisecond
	s := mustOpen(t, o)
	defer mustClose(t, s)
	w.mustAppend(s, "a")
	until(t, "it is durable", func() bool { b, err := s.Read(10); return err == nil && len(b.Records) == 2 })
}

func TestFullByBytes(t *testing.T) {
	w := newWorld(t)
	o := w.small(nil)
	o.MaxBytes, o.SyncInterval = 8000, time.Millisecond
	s := mustOpen(t, o)
	defer mustClose(t, s)
	n := 0
	for ; w.append(s, fmt.Sprint(n)) == nil; n++ {
	}
	if err := w.append(s, "more"); !errors.Is(err, ErrFull) || n < 15 || s.Stats().Bytes > 8000 || s.Stats().Bytes < 7000 {
		t.Fatalf("got %v after %d records and %d bytes, want it to be full just below 8000", err, n, s.Stats().Bytes)
	}
	if s.recheck(); !errors.Is(s.Stats().Failing, ErrFull) {
		t.Errorf("%v fails, though there is no room for the record that was refused", s.Stats().Failing)
	}
	if d := drain(t, s); len(d.ids) != n {
		t.Errorf("got %d records, want %d", len(d.ids), n)
	}
	until(t, "it notices that there is room", func() bool { return s.Stats().Failing == nil })
	if got := s.Stats(); got.Records != 0 || got.Bytes != 0 || !got.Oldest.IsZero() {
		t.Errorf("with all of it shipped it has %+v", got)
	}
	w.mustAppend(s, "again")
}

func TestFullByAge(t *testing.T) {
	now := time.Now()
	w := newWorld(t)
	o := w.small(nil)
	o.MaxAge, o.Now = time.Hour, func() time.Time { return now }
	s := mustOpen(t, o)
	defer mustClose(t, s)
	w.mustAppend(s, "a")
	now = now.Add(time.Hour - time.Second)
	w.mustAppend(s, "b")
	now = now.Add(2 * time.Second)
	if err := w.append(s, "c"); !errors.Is(err, ErrFull) {
		t.Errorf("got %v with a record older than an hour, want it to be full", err)
	}
	drain(t, s)
	w.mustAppend(s, "d")
}

// Segments are removed a while after they were shipped; until then a promoted primary can get them once more.
func TestShippedSegmentsGo(t *testing.T) {
	now := time.Now()
	w := newWorld(t)
	o := w.small(nil)
	o.KeepShipped, o.Now = time.Minute, func() time.Time { return now }
	s := mustOpen(t, o)
	defer mustClose(t, s)
	for i := range 20 {
		w.mustAppend(s, fmt.Sprint(i))
	}
	first := drain(t, s)
	if err := s.Acknowledge(5); err != nil {
		t.Fatal(err)
	}
	if again := drain(t, s); len(again.records) != len(first.records)-4 ||
		again.records[0].Hash() != first.records[4].Hash() {
		t.Errorf("asked again from 5, it has %d records, want those from before", len(again.records))
	}
	now = now.Add(time.Hour)
	drain(t, s)
	if err := s.Acknowledge(first.records[len(first.records)-1].Seq + 1); err != nil {
		t.Fatal(err)
	}
	names, _ := list(w.dir)
	if len(names) != 2 { // the lock, and the last segment, whose header has the node and boot
		t.Errorf("an hour later there are %v", names)
	}
	if err := s.Acknowledge(5); err != nil {
		t.Fatal(err)
	}
	if b, err := s.Read(1); err != nil || !b.Lost {
		t.Errorf("asked for what is gone, got %+v and %v, want it to be said", b, err)
	}
}

// Every byte of a folder's segments is damaged in turn, before it is opened. No other record is lost, the loss is on
// record, and no number is used twice.
func TestDamageAnywhere(t *testing.T) {
	w := newWorld(t)
	s := mustOpen(t, w.small(nil))
	for i := range 8 {
		w.mustAppend(s, fmt.Sprint(i))
	}
	mustClose(t, s)
	names, _ := list(w.dir)
	for i, name := range names {
		if !strings.HasSuffix(name, segmentSuffix) {
			continue
		}
		whole, err := os.ReadFile(filepath.Join(w.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		lastOne := i == len(names)-2 // before the lock
		for at := 0; at < len(whole); at += 7 {
			dir := filepath.Join(t.TempDir(), "spool")
			if err := os.CopyFS(dir, os.DirFS(w.dir)); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			broken := bytes.Clone(whole)
			broken[at] ^= 0x40
			if err := os.WriteFile(filepath.Join(dir, name), broken, 0o600); err != nil {
				t.Fatal(err)
			}
			checkDamage(t, dir, fmt.Sprintf("%s at %d", name, at), lastOne)
		}
	}
}

func checkDamage(t *testing.T, dir, what string, lastOne bool) {
	t.Helper()
	o := Options{Dir: dir, Node: named("new"), FS: &faulty{}, SegmentBytes: 1000, SyncInterval: time.Hour,
		Timeout: time.Minute}
	s := mustOpen(t, o)
	defer func() { // it is set aside once
		mustClose(t, s)
		files, _ := list(dir)
		again := mustOpen(t, o)
		damaged := again.Stats().Damaged
		mustClose(t, again)
		if now, _ := list(dir); damaged > 0 || !slices.Equal(now, files) {
			t.Errorf("%s: opened again, it sets aside %d; the files are %v, were %v", what, damaged, now, files)
		}
	}()
	if err := s.Append(t.Context(), event("after")); err != nil {
		t.Fatal(err)
	}
	if err := s.Acknowledge(1); err != nil {
		t.Fatal(err)
	}
	d := drain(t, s)
	damaged, aside := d.note(audit.Damaged)
	_, torn := d.note(audit.TornTail)
	reads, before := len(d.ids)-1, 0
	for _, r := range d.records {
		if r.Seq <= 9 { // eight reads and the note of the beginning
			before++
		}
	}
	switch {
	case aside && before < 9 && d.lost == 0, !aside && !torn, torn && !lastOne:
		t.Fatalf("%s: %d gaps, notes %v", what, d.lost, d.notes)
	case reads < 8-3 || reads > 8 || d.ids[len(d.ids)-1] != "after":
		t.Fatalf("%s: got %v", what, d.ids)
	}
	if aside {
		if _, err := os.Stat(filepath.Join(dir, damaged.Detail["segment"].(string))); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	seen := map[uint64]bool{}
	for _, r := range d.records {
		if seen[r.Seq] {
			t.Fatalf("%s: number %d is used twice", what, r.Seq)
		}
		seen[r.Seq] = true
	}
}

// Segments are damaged and removed while the spool runs.
func TestDamageWhileItRuns(t *testing.T) {
	for _, name := range []string{segmentName(1), "the last"} {
		for _, remove := range []bool{false, true} {
			w := newWorld(t)
			s := mustOpen(t, w.small(nil))
			for i := range 8 {
				w.mustAppend(s, fmt.Sprint(i))
			}
			victim := name
			if name == "the last" {
				victim = s.segments[len(s.segments)-1].name
			}
			path := filepath.Join(w.dir, victim)
			if remove {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			} else {
				b, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				b[len(bytes.TrimRight(b, "\x00"))-1] ^= 1
				if err := os.WriteFile(path, b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			before := drain(t, s)
			w.mustAppend(s, "after")
			after := drain(t, s)
			if before.lost+after.lost == 0 || s.Stats().Damaged == 0 || len(before.ids)+len(after.ids) < 5 {
				t.Errorf("%s, removed %v: got %v and %v with %d gaps", victim, remove, before.ids, after.ids,
					before.lost+after.lost)
			}
			if _, ok := after.note(audit.Damaged); !ok {
				t.Errorf("%s, removed %v: got notes %v, want the damage", victim, remove, after.notes)
			}
			mustClose(t, s)
		}
	}
}

// Without a folder no read is recorded, so none is answered.
func TestTheFolderIsRemoved(t *testing.T) {
	w := newWorld(t)
	s := mustOpen(t, w.small(nil))
	defer mustClose(t, s)
	w.mustAppend(s, "a")
	if err := os.RemoveAll(w.dir); err != nil {
		t.Fatal(err)
	}
	if err := w.append(s, "b"); !errors.Is(err, ErrUnwritable) {
		t.Errorf("got %v, want the append to be refused", err)
	}
	if err := os.Mkdir(w.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	w.mustAppend(s, "c")
	if d := drain(t, s); d.lost != 1 || len(d.ids) != 1 || d.ids[0] != "c" {
		t.Errorf("got %v with %d gaps, want c and that something is missing", d.ids, d.lost)
	}
}

// A sector that a power cut left unwritten tears the last batch; any other unreadable part is damage.
func TestTornOrDamaged(t *testing.T) {
	const size = frameSize + linkedSize + 100
	segment := func(records uint64) []byte {
		b, link := header{node: "n", first: 1}.encode(), Hash{}
		for seq := uint64(1); seq <= records; seq++ {
			r := Record{Seq: seq, Previous: link, Event: bytes.Repeat([]byte{'x'}, 100)}
			b, link = appendFrame(b, r), r.Hash()
		}
		return b
	}
	zeroed := func(b []byte, from, to int) []byte { clear(b[from:to]); return b }
	laidOut := func(b []byte) []byte { return append(b, make([]byte, 1000)...) }
	few, many := segment(20), segment(maxBatch+20)
	first := len(few) - 19*size // where it ends
	flipped := bytes.Clone(few)
	flipped[first+60] ^= 1
	inFirst := (sector - len(few) + 20*size) / size // whole records
	for _, c := range []struct {
		what    string
		b       []byte
		damaged bool
		kept    int // records before what is missing
	}{
		{"a sector", laidOut(zeroed(bytes.Clone(few), sector, 2*sector)), false, inFirst},
		{"two", laidOut(zeroed(bytes.Clone(few), sector, 3*sector)), false, inFirst},
		{"the rest of one in which an earlier batch ends", laidOut(zeroed(bytes.Clone(few), first, sector)), false, 1},
		{"nothing", laidOut(bytes.Clone(few)), false, 20},
		{"a bit", laidOut(flipped), true, 1},
		{"half a sector", laidOut(zeroed(bytes.Clone(few), sector, sector+sector/2)), true, inFirst},
		{"a sector before more than a batch", laidOut(zeroed(bytes.Clone(many), sector, 2*sector)), true, inFirst},
		{"a sector of what was not laid out", zeroed(bytes.Clone(few), sector, 2*sector), true, inFirst},
	} {
		got := scan(c.b, true)
		if damaged := got.reason != ""; damaged != c.damaged || len(got.runs[0]) != c.kept || !damaged && len(got.runs) != 1 {
			t.Errorf("%s missing: got %q with %d runs, the first of %d records; want damage: %v, %d records",
				c.what, got.reason, len(got.runs), len(got.runs[0]), c.damaged, c.kept)
		}
		older := scan(c.b, false)
		if damaged := older.reason != ""; damaged != (c.what != "nothing") {
			t.Errorf("%s missing in a segment before the newest: got %q", c.what, older.reason)
		}
	}
}

func FuzzScan(f *testing.F) {
	h := header{node: "n", first: 3}
	good := h.encode()
	r := Record{Seq: 3, Event: []byte(`{"action":"read"}`)}
	good = appendFrame(good, r)
	good = appendFrame(good, Record{Seq: 4, Previous: r.Hash(), Event: []byte(`{}`)})
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add(append(bytes.Clone(good[:len(good)-30]), good...))
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, newest := range []bool{false, true} {
			c := scan(b, newest)
			if end := c.whole + c.tail; c.whole < 0 || c.tail < 0 || end > len(b) || !allZero(b[end:]) {
				t.Fatalf("%d bytes whole and %d behind, of %d", c.whole, c.tail, len(b))
			}
			for _, records := range c.runs {
				if len(records) == 0 {
					t.Fatal("a run without records")
				}
				for i, r := range records {
					if !bytes.Contains(b, appendFrame(nil, r)) {
						t.Fatalf("record %d is not what the bytes hold", r.Seq)
					}
					if i > 0 && (r.Seq != records[i-1].Seq+1 || r.Previous != records[i-1].Hash()) {
						t.Fatalf("record %d does not follow", r.Seq)
					}
				}
			}
			if c.reason == "" && len(c.runs) > 0 {
				again := c.header.encode()
				for _, r := range c.runs[0] {
					again = appendFrame(again, r)
				}
				if len(c.runs) != 1 || !bytes.Equal(again, b[:c.whole]) {
					t.Fatal("an undamaged segment is not what it would be written as")
				}
			}
		}
	})
}

// A disk that hangs delays no append longer than its deadline; a record that it writes later may be found.
func TestADiskThatHangs(t *testing.T) {
	gate := make(chan struct{})
	fs := &faulty{}
	w := newWorld(t)
	o := w.small(fs)
	s := mustOpen(t, o)
	w.mustAppend(s, "before")
	s.deadline = deadline{limit: 10 * time.Millisecond}
	fs.before = func(_ int, op string) error {
		if op == "fsync" {
			<-gate
		}
		return nil
	}
	for range 2 { // the one that is being written, and one that waits for it
		if err := w.append(s, "late"); !errors.Is(err, audit.ErrUnrecorded) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want that it is not on record in time", err)
		}
	}
	close(gate)
	mustClose(t, s)
}
