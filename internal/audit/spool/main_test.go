package spool

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/leaks"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("SPOOL_TEST_CHILD"); dir != "" {
		child(dir)
		return
	}
	leaks.Main(m)
}

// world is a spool's folder and what was appended to it.
type world struct {
	t        *testing.T
	dir      string
	accepted []string        // request ids, in order
	refused  map[string]bool // may be found, or not
}

func newWorld(t *testing.T) *world {
	return &world{t: t, dir: filepath.Join(t.TempDir(), "spool"), refused: map[string]bool{}}
}

// small makes segments of a few records. An append waits longer than a loaded machine takes.
func (w *world) small(fs FS) Options {
	if fs == nil {
		fs = &faulty{}
	}
	return Options{Dir: w.dir, Node: named("test"), FS: fs, SegmentBytes: 1000, SyncInterval: time.Hour,
		Timeout: time.Minute}
}

func named(name string) func() string { return func() string { return name } }

func mustOpen(t testing.TB, o Options) *Spool {
	t.Helper()
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustClose(t testing.TB, s *Spool) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func event(id string) audit.Event {
	return audit.Event{Actor: "client:192.0.2.1", Client: "192.0.2.1", Action: audit.Read, Secret: "app/x", Version: 1,
		Outcome: audit.OK, RequestID: id}
}

// append appends a record, and keeps its result.
func (w *world) append(s *Spool, id string) error {
	err := s.Append(context.Background(), event(id))
	w.answered(id, err)
	return err
}

func (w *world) answered(id string, err error) {
	if err == nil {
		w.accepted = append(w.accepted, id)
	} else {
		w.refused[id] = true
		if !errors.Is(err, audit.ErrUnrecorded) {
			w.t.Errorf("appending %s: got %v, want it to be a refusal", id, err)
		}
	}
}

func (w *world) mustAppend(s *Spool, ids ...string) {
	w.t.Helper()
	for _, id := range ids {
		if err := w.append(s, id); err != nil {
			w.t.Fatal(err)
		}
	}
}

// drained is what a primary would have got.
type drained struct {
	records []Record
	ids     []string // of reads
	notes   []audit.Event
	lost    int
}

func drain(t testing.TB, s *Spool) drained {
	t.Helper()
	var d drained
	for {
		b, err := s.Read(3)
		if err != nil {
			t.Fatal(err)
		}
		if len(b.Records) == 0 {
			return d
		}
		if b.Lost {
			d.lost++
		}
		for i, r := range b.Records {
			if r.Seq != b.First+uint64(i) {
				t.Fatalf("record %d stands at place %d of a batch from %d", r.Seq, i, b.First)
			}
			if n := len(d.records); n > 0 && !(b.Lost && i == 0) &&
				(r.Seq != d.records[n-1].Seq+1 || r.Previous != d.records[n-1].Hash()) {
				t.Fatalf("record %d does not continue record %d", r.Seq, d.records[n-1].Seq)
			}
			var e audit.Event
			if err := json.Unmarshal(r.Event, &e); err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(e.Action, "audit.") {
				d.notes = append(d.notes, e)
			} else {
				d.ids = append(d.ids, e.RequestID)
			}
			d.records = append(d.records, r)
		}
		if err := s.Acknowledge(b.First + uint64(len(b.Records))); err != nil {
			t.Fatal(err)
		}
	}
}

func (d drained) note(action string) (audit.Event, bool) {
	for _, e := range d.notes {
		if e.Action == action {
			return e, true
		}
	}
	return audit.Event{}, false
}

func (d drained) damaged() bool {
	_, noted := d.note(audit.Damaged)
	return noted
}

// check is the invariant: opened again, the spool holds every accepted record once, in order, in one chain, and else
// only records that were refused.
func (w *world) check() drained {
	w.t.Helper()
	o := w.small(nil)
	o.KeepShipped = time.Hour
	s := mustOpen(w.t, o)
	defer mustClose(w.t, s)
	w.mustAppend(s, "the-last")
	d := drain(w.t, s)
	if d.lost > 0 || d.records[0].Seq != 1 {
		w.t.Fatalf("records are missing: the first is %d, %d gaps", d.records[0].Seq, d.lost)
	}
	seen := map[string]bool{}
	next := 0
	for _, id := range d.ids {
		switch {
		case seen[id]:
			w.t.Fatalf("%s is there twice", id)
		case next < len(w.accepted) && id == w.accepted[next]:
			next++
		case !w.refused[id]:
			w.t.Fatalf("got %s, want %s or one that was refused", id, w.accepted[min(next, len(w.accepted)-1)])
		}
		seen[id] = true
	}
	if next != len(w.accepted) {
		w.t.Fatalf("%s was accepted and is not there; got %v", w.accepted[next], d.ids)
	}
	return d
}

// faulty is the real disk with injected failures. Its fsyncs do nothing: a killed process cannot see their effect, and
// TestPowerCut models it.
type faulty struct {
	disk
	before func(call int, op string) error // of every call that changes something
	after  func(call int, op string)

	mu    sync.Mutex
	calls int
	syncs int
	bad   []string // calls that the spool must never make
}

func (f *faulty) hit(op string, do func() error) error {
	f.mu.Lock()
	f.calls++
	call := f.calls
	f.mu.Unlock()
	if f.before != nil {
		if err := f.before(call, op); err != nil {
			return err
		}
	}
	err := do()
	if f.after != nil {
		f.after(call, op)
	}
	return err
}

type faultyFile struct {
	File
	fs     *faulty
	failed atomic.Bool
}

func (f *faulty) Create(path string) (file File, err error) {
	err = f.hit("create", func() error { file, err = f.disk.Create(path); return err })
	return &faultyFile{File: file, fs: f}, err
}

func (f *faulty) Rename(from, to string) error {
	return f.hit("rename", func() error { return f.disk.Rename(from, to) })
}
func (f *faulty) SyncDir(dir string) error {
	return f.hit("syncdir", func() error { return nil })
}
func (f *faulty) Remove(path string) error {
	return f.hit("remove", func() error { return f.disk.Remove(path) })
}
func (f *faulty) Truncate(path string, n int64) error {
	return f.hit("truncate", func() error { return os.Truncate(path, n) })
}

func (f *faultyFile) misused(op string) {
	if f.failed.Load() {
		f.fs.mu.Lock()
		f.fs.bad = append(f.fs.bad, op+" after a failure")
		f.fs.mu.Unlock()
	}
}

// WriteAt leaves half of what it was given when it fails, as a full disk does.
func (f *faultyFile) WriteAt(b []byte, at int64) (n int, err error) {
	f.misused("write")
	err = f.fs.hit("write", func() error { n, err = f.File.WriteAt(b, at); return err })
	if err != nil {
		f.failed.Store(true)
		n, _ = f.File.WriteAt(b[:len(b)/2], at)
	}
	return n, err
}

func (f *faultyFile) Sync() error {
	f.misused("fsync")
	f.fs.mu.Lock()
	f.fs.syncs++
	f.fs.mu.Unlock()
	err := f.fs.hit("fsync", func() error { return nil })
	if err != nil {
		f.failed.Store(true)
	}
	return err
}

func (f *faulty) check(t *testing.T) {
	t.Helper()
	if len(f.bad) > 0 {
		t.Errorf("a descriptor that had failed was used again: %v", f.bad)
	}
}
