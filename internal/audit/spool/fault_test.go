package spool

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hyperiondb/vault/internal/audit"
)

const storyLength = 14 // appends, which is some four segments

// appendAll appends the records of the story one after the other.
func (w *world) appendAll(s *Spool) {
	for i := range storyLength {
		_ = w.append(s, fmt.Sprintf("r%02d", i))
	}
}

// appendTogether has records share one write.
func (w *world) appendTogether(s *Spool) {
	const together = 8
	ids, answers := make([]string, together), make([]error, together)
	var all sync.WaitGroup
	s.writeMu.Lock()
	for i := range together {
		ids[i] = fmt.Sprintf("t%02d", i)
		all.Go(func() { answers[i] = s.Append(context.Background(), event(ids[i])) })
		for waiting := 0; waiting <= i; runtime.Gosched() { // so that they queue in this order
			s.queue.mu.Lock()
			waiting = len(s.queue.waiting)
			s.queue.mu.Unlock()
		}
	}
	s.writeMu.Unlock()
	all.Wait()
	for i, err := range answers {
		w.answered(ids[i], err)
	}
}

// storyCalls is how many changing calls of the file system the story makes.
func storyCalls(t *testing.T) int {
	fs := &faulty{}
	w := newWorld(t)
	s := mustOpen(t, w.small(fs))
	w.appendAll(s)
	mustClose(t, s)
	if len(w.accepted) != storyLength {
		t.Fatalf("the story alone had %d of its records accepted", len(w.accepted))
	}
	w.check()
	if names, _ := list(w.dir); len(names) < 5 {
		t.Fatalf("the story ends in %v, want several segments", names)
	}
	return fs.calls
}

// Each call fails once, in every way a disk has. Accepted records are there; after the failure appends are accepted
// again.
func TestAnyCallMayFail(t *testing.T) {
	for call := range storyCalls(t) {
		for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EIO} {
			fs := &faulty{before: func(n int, _ string) error {
				if n == call+1 {
					return errno
				}
				return nil
			}}
			w := newWorld(t)
			s := mustOpen(t, w.small(fs))
			w.appendAll(s)
			w.mustAppend(s, "after")
			mustClose(t, s)
			fs.check(t)
			if len(w.refused) > 1 {
				t.Errorf("call %d: %s: %d appends were refused for one failure", call+1, errno, len(w.refused))
			}
			w.check()
		}
	}
}

// The disk fails from some call on, and works again later.
func TestTheDiskStaysBroken(t *testing.T) {
	for call := range storyCalls(t) {
		broken := true
		fs := &faulty{before: func(n int, _ string) error {
			if n > call && broken {
				return syscall.EIO
			}
			return nil
		}}
		w := newWorld(t)
		s := mustOpen(t, w.small(fs))
		w.appendAll(s)
		err := w.append(s, "while broken")
		if !errors.Is(err, ErrUnwritable) || !errors.Is(err, syscall.EIO) || s.Stats().Failing == nil ||
			s.Stats().Failures == 0 {
			t.Fatalf("call %d: got %v and %+v, want the refusal and its reason", call, err, s.Stats())
		}
		fs.before = nil
		w.mustAppend(s, "after")
		mustClose(t, s)
		fs.check(t)
		w.check()
	}
}

// A power cut leaves the fsynced part of a file, and any of the sectors written since. No accepted record is lost, and
// the spool does not take it for damage.
func TestPowerCut(t *testing.T) {
	kept := map[string]func(sector int64) bool{
		"nothing":      func(int64) bool { return false },
		"everything":   func(int64) bool { return true },
		"even sectors": func(n int64) bool { return n%2 == 0 },
		"odd sectors":  func(n int64) bool { return n%2 == 1 },
	}
	for call, survived := 0, false; !survived; call++ {
		for what, kept := range kept {
			fs := &cutting{files: map[string]*cutFile{}}
			fs.before = func(n int, _ string) error {
				if fs.dead = fs.dead || n > call; fs.dead {
					return errors.New("no power")
				}
				return nil
			}
			w := newWorld(t)
			o := w.small(fs)
			o.SegmentBytes = 5 * sector
			s := mustOpen(t, o)
			w.appendAll(s)
			w.appendTogether(s)
			mustClose(t, s)
			survived = !fs.dead
			fs.cut(t, kept)
			if d := w.check(); d.damaged() {
				t.Fatalf("call %d, kept %s: %v", call, what, d.notes)
			}
		}
	}
}

// cutting records which part of each file is durable.
type cutting struct {
	faulty
	dead    bool
	files   map[string]*cutFile // by path
	renamed []string            // since the folder was fsynced
}

type cutFile struct {
	File
	fs      *cutting
	durable []byte
	written []byte // all of it
}

func (c *cutting) Create(path string) (File, error) {
	f, err := c.faulty.Create(path)
	file := &cutFile{File: f, fs: c}
	if err == nil {
		c.files[path] = file
	}
	return file, err
}

func (f *cutFile) WriteAt(b []byte, at int64) (int, error) {
	n, err := f.File.WriteAt(b, at)
	f.written = append(f.written, make([]byte, max(0, at+int64(n)-int64(len(f.written))))...)
	copy(f.written[at:], b[:n])
	return n, err
}

func (f *cutFile) Sync() error {
	err := f.File.Sync()
	if err == nil {
		f.durable = bytes.Clone(f.written)
	}
	return err
}

func (c *cutting) Rename(from, to string) error {
	err := c.faulty.Rename(from, to)
	if err == nil {
		c.files[to] = c.files[from]
		c.renamed = append(c.renamed, to)
	}
	return err
}

func (c *cutting) SyncDir(dir string) error {
	err := c.faulty.SyncDir(dir)
	if err == nil {
		c.renamed = nil
	}
	return err
}

func (c *cutting) cut(t *testing.T, kept func(sector int64) bool) {
	t.Helper()
	for path, f := range c.files {
		if _, err := os.Stat(path); err != nil {
			continue // renamed, or removed
		}
		left := make([]byte, len(f.written))
		copy(left, f.durable)
		for at := 0; at < len(left); at += sector {
			if end := min(at+sector, len(left)); kept(int64(at / sector)) {
				copy(left[at:end], f.written[at:end])
			}
		}
		if err := os.WriteFile(path, left, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range c.renamed {
		if !kept(0) {
			if err := os.Rename(path, path+partialSuffix); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// child is the program that kills itself at a call. It prints the accepted records.
func child(dir string) {
	at, _ := strconv.Atoi(os.Getenv("SPOOL_TEST_CALL"))
	kill := func(n int) {
		if n == at {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			time.Sleep(time.Hour)
		}
	}
	fs := &faulty{after: func(n int, _ string) { kill(n) }}
	if os.Getenv("SPOOL_TEST_WHEN") == "before" {
		fs = &faulty{before: func(n int, _ string) error { kill(n); return nil }}
	}
	sync := Always
	if os.Getenv("SPOOL_TEST_SYNC") == "interval" {
		sync = Interval
	}
	s, err := Open(Options{Dir: dir, Node: named("test"), FS: fs, SegmentBytes: 1000, SyncInterval: time.Hour, Sync: sync,
		Timeout: time.Minute})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for i := range storyLength {
		id := fmt.Sprintf("r%02d", i)
		fmt.Println("append", id)
		if err := s.Append(context.Background(), event(id)); err == nil {
			fmt.Println("accepted", id)
		}
	}
	os.Exit(0)
}

// A real process is killed at each call, before it and after it. Every record that it saw accepted is there; with
// Interval too, as the kernel survives.
func TestKilledAtEachCall(t *testing.T) {
	calls := storyCalls(t)
	for _, sync := range []string{"always", "interval"} {
		for _, when := range []string{"before", "after"} {
			died := 0
			for call := 1; call <= calls; call++ {
				w := newWorld(t)
				command := exec.Command(os.Args[0])
				command.Env = []string{"SPOOL_TEST_CHILD=" + w.dir, "SPOOL_TEST_CALL=" + strconv.Itoa(call),
					"SPOOL_TEST_WHEN=" + when, "SPOOL_TEST_SYNC=" + sync, "GORACE=" + os.Getenv("GORACE")}
				out, err := command.Output()
				if err != nil {
					died++
				}
				lines := bufio.NewScanner(bytes.NewReader(out))
				for lines.Scan() {
					word, id, _ := strings.Cut(lines.Text(), " ")
					if word == "append" {
						w.refused[id] = true
					} else {
						w.accepted = append(w.accepted, id)
					}
				}
				w.check()
			}
			if least := map[string]int{"always": calls, "interval": calls / 3}[sync]; died < least {
				t.Errorf("%s, %s: only %d of %d runs were killed", sync, when, died, calls)
			}
		}
	}
}

// The tail is torn at every byte of the last segment: the records before it are there, the cut is on record, and it
// goes on.
func TestTornTailAtEveryByte(t *testing.T) {
	w := newWorld(t)
	o := w.small(nil)
	o.SegmentBytes = 1 << 20
	s := mustOpen(t, o)
	w.mustAppend(s, "a", "b", "c")
	mustClose(t, s)
	path := filepath.Join(w.dir, segmentName(1))
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, at, err := decodeHeader(whole)
	if err != nil {
		t.Fatal(err)
	}
	ends := []int{at}
	for _, size, ok := decodeFrame(whole[at:]); ok; _, size, ok = decodeFrame(whole[at:]) {
		at += size
		ends = append(ends, at)
	}
	if len(ends) != 5 {
		t.Fatalf("the segment has %d records", len(ends)-1)
	}
	whole = whole[:at]
	for cut := ends[0]; cut <= len(whole); cut++ {
		for _, rest := range [][]byte{nil, make([]byte, 100)} { // filled with zeros, or extended by writes
			v := newWorld(t)
			if err := os.MkdirAll(v.dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(v.dir, segmentName(1)), append(whole[:cut:cut], rest...), 0o600); err != nil {
				t.Fatal(err)
			}
			complete, end := 0, ends[0]
			for i, e := range ends {
				if e <= cut {
					complete, end = i, e
				}
			}
			v.accepted = slices.Clone(w.accepted[:max(complete-1, 0)]) // the first is the spool's own note
			d := v.check()
			torn, noted := d.note(audit.TornTail)
			if bytes := len(bytes.TrimRight(whole[end:cut], "\x00")); noted != (bytes > 0) || noted &&
				torn.Detail["bytes"] != float64(bytes) {
				t.Fatalf("cut at %d: got the note %v, want %d bytes", cut, torn.Detail, bytes)
			}
		}
	}
}
