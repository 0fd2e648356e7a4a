package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/klauspost/compress/zstd"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/audit/filter"
	"github.com/hyperiondb/vault/internal/audit/spool"
	"github.com/hyperiondb/vault/internal/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

var vaultID = uuid.MustParse("00000000-0000-4000-8000-00000000ca0a")

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func ofVault(context.Context) (uuid.UUID, error) { return vaultID, nil }

// world is an archive in a folder and the segments that are meant to be in it.
type world struct {
	t        *testing.T
	dir      string
	boot     uuid.UUID
	segments []spool.Segment
}

func newWorld(t *testing.T) *world {
	return &world{t: t, dir: filepath.Join(t.TempDir(), "archive"), boot: uuid.New()}
}

func (w *world) open() *Archive {
	w.t.Helper()
	a, err := Open(w.t.Context(), w.dir, ofVault)
	must(w.t, err)
	w.t.Cleanup(func() { a.Close() })
	return a
}

var began = time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC)

// read is an event; its minute is its number.
func read(n uint64) audit.Event {
	return audit.Event{At: began.Add(time.Duration(n) * time.Minute), Actor: "client:10.0.0.7", Client: "10.0.0.7",
		Action: audit.Read, Secret: fmt.Sprintf("app/%d", n%3), Version: 2, Outcome: audit.OK,
		RequestID: fmt.Sprintf("00000000-0000-4000-8000-%012d", n), Detail: map[string]any{"match": "current"}}
}

// segment makes the segment of the records from first on that follows another one.
func segment(boot uuid.UUID, link spool.Hash, first, n uint64, change func(*audit.Event)) spool.Segment {
	s := spool.Segment{Node: "db2@host", Boot: boot, Link: link}
	for seq := first; seq < first+n; seq++ {
		e := read(seq)
		if change != nil {
			change(&e)
		}
		text, err := e.AppendJSON(nil)
		if err != nil {
			panic(err) // of these events it does not fail
		}
		r := spool.Record{Seq: seq, Previous: link, Event: text}
		s.Records, link = append(s.Records, r), r.Hash()
	}
	return s
}

func last(s spool.Segment) spool.Hash { return s.Records[len(s.Records)-1].Hash() }

// grow makes the next segment of the world's spool.
func (w *world) grow(n uint64) spool.Segment {
	first, link := uint64(1), spool.Hash{}
	if len(w.segments) > 0 {
		before := w.segments[len(w.segments)-1]
		first, link = before.Records[len(before.Records)-1].Seq+1, last(before)
	}
	w.segments = append(w.segments, segment(w.boot, link, first, n, nil))
	return w.segments[len(w.segments)-1]
}

func (w *world) mustKeep(a *Archive, sizes ...uint64) {
	w.t.Helper()
	for _, n := range sizes {
		must(w.t, a.Keep(w.t.Context(), w.grow(n)))
	}
}

// files are the paths of the archive's files, in order.
func (w *world) files() []string {
	w.t.Helper()
	paths, err := folder{w.dir, spool.DiskFS()}.List(w.t.Context())
	must(w.t, err)
	for i := range paths {
		paths[i] = filepath.Join(w.dir, paths[i])
	}
	return paths
}

func (w *world) verify(o Options) Report {
	w.t.Helper()
	report, err := w.open().Verify(w.t.Context(), o)
	must(w.t, err)
	return report
}

// checkFits is the invariant: the archive has exactly these records, in one chain.
func (w *world) checkFits(records, next uint64) {
	w.t.Helper()
	r := w.verify(Options{})
	if len(r.Faults) > 0 || r.Records != int64(records) || len(r.Spools) != 1 || r.Spools[0].Next != next {
		w.t.Errorf("got %+v, want %d records up to %d and no fault", r, records, next-1)
	}
}

// wantFault checks that verifying finds exactly one thing.
func (w *world) wantFault(what string, o Options, texts ...string) {
	w.t.Helper()
	r := w.verify(o)
	if len(r.Faults) != 1 {
		w.t.Errorf("%s: got the faults %v, want one with %q", what, r.Faults, texts)
		return
	}
	for _, text := range texts {
		if !strings.Contains(r.Faults[0].String(), text) {
			w.t.Errorf("%s: got %q, want %q in it", what, r.Faults[0], text)
		}
	}
}

// The file that a segment becomes, and that zstd alone can read.
func TestAFileIsLinesOfText(t *testing.T) {
	w := newWorld(t)
	a := w.open()
	w.mustKeep(a, 3)
	paths := w.files()
	want := fmt.Sprintf("reads/%s/%s/00000000000000000001-00000000000000000004-20261125T100100Z-20261125T100300Z-%.16s"+
		".jsonl.zst", vaultID, w.boot, fmt.Sprintf("%x", last(w.segments[0])))
	if len(paths) != 1 || paths[0] != filepath.Join(w.dir, want) {
		t.Fatalf("got the files %q, want %q", paths, want)
	}
	content, err := os.ReadFile(paths[0])
	must(t, err)
	reader, err := zstd.NewReader(nil)
	must(t, err)
	defer reader.Close()
	text, err := reader.DecodeAll(content, nil)
	must(t, err)
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if len(lines) != 4 || !strings.HasPrefix(lines[0], `{"format":"hyperiondb-vault-reads/1","cluster":"`) {
		t.Fatalf("got the lines %q", lines)
	}
	for i, line := range lines[1:] {
		if line != string(w.segments[0].Records[i].Event) {
			t.Errorf("got line %q, want the event %q", line, w.segments[0].Records[i].Event)
		}
	}
	for path, mode := range map[string]os.FileMode{paths[0]: 0o600, w.dir: 0o700, filepath.Dir(paths[0]): 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: got mode %v, want %v (%v)", path, info.Mode().Perm(), mode, err)
		}
	}
	w.checkFits(3, 4)
}

// A daemon that was killed between the archive and the removal archives the same segment again: nothing changes.
func TestKeptAgainItIsTheSame(t *testing.T) {
	w := newWorld(t)
	w.mustKeep(w.open(), 5, 5)
	before := map[string]string{}
	for _, path := range w.files() {
		content, err := os.ReadFile(path)
		must(t, err)
		before[path] = string(content)
	}
	for _, s := range w.segments {
		must(t, w.open().Keep(t.Context(), s))
	}
	if now := w.files(); len(now) != len(before) {
		t.Fatalf("got the files %q, want as before", now)
	}
	// Of another version of the compressor, which writes other bytes of the same text.
	path := w.files()[0]
	must(t, os.WriteFile(path, recompressed(t, []byte(before[path]), nil), 0o600))
	must(t, w.open().Keep(t.Context(), w.segments[0]))
	w.checkFits(10, 11)

	must(t, os.WriteFile(path, []byte("another file"), 0o600))
	if err := w.open().Keep(t.Context(), w.segments[0]); !errors.Is(err, ErrOther) {
		t.Errorf("a file of another content: got %v, want %v", err, ErrOther)
	}
	if content, err := os.ReadFile(path); err != nil || string(content) != "another file" {
		t.Errorf("it was replaced by %q (%v)", content, err)
	}
}

// recompressed expands a file, changes its text, and compresses it in another way.
func recompressed(t *testing.T, content []byte, change func(text []byte) []byte) []byte {
	t.Helper()
	reader, err := zstd.NewReader(nil)
	must(t, err)
	defer reader.Close()
	text, err := reader.DecodeAll(content, nil)
	must(t, err)
	if change != nil {
		text = change(text)
	}
	writer, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression))
	must(t, err)
	defer writer.Close()
	return writer.EncodeAll(text, nil)
}

func replaced(old, new string) func([]byte) []byte {
	return func(text []byte) []byte { return bytes.Replace(text, []byte(old), []byte(new), 1) }
}

// Everything that the archive's writer can do to it, and what verifying says.
func TestTamperingIsFound(t *testing.T) {
	edit := func(change func(text []byte) []byte) func(*testing.T, *world, []string) {
		return func(t *testing.T, _ *world, files []string) {
			content, err := os.ReadFile(files[1])
			must(t, err)
			must(t, os.WriteFile(files[1], recompressed(t, content, change), 0o600))
		}
	}
	bytesOf := func(change func([]byte) []byte) func(*testing.T, *world, []string) {
		return func(t *testing.T, _ *world, files []string) {
			content, err := os.ReadFile(files[1])
			must(t, err)
			must(t, os.WriteFile(files[1], change(content), 0o600))
		}
	}
	keep := func(make func(w *world) spool.Segment) func(*testing.T, *world, []string) {
		return func(t *testing.T, w *world, _ []string) { must(t, w.open().Keep(t.Context(), make(w))) }
	}
	for what, c := range map[string]struct {
		do    func(*testing.T, *world, []string)
		texts []string
	}{
		"a missing segment": {func(t *testing.T, _ *world, files []string) { must(t, os.Remove(files[1])) },
			[]string{"records 6 to 10 before it are missing"}},
		"a changed record": {edit(replaced("app/1", "app/9")), []string{"-00000000000000000011-", "6 to 10 was changed"}},
		"a removed record": {edit(func(text []byte) []byte {
			lines := bytes.SplitAfter(text, []byte("\n"))
			return slices.Concat(slices.Delete(lines, 2, 3)...)
		}), []string{"it has 4 records"}},
		"an added record": {edit(func(text []byte) []byte { return append(text, "{}\n"...) }), []string{"it has 6 records"}},
		"two records exchanged": {edit(func(text []byte) []byte {
			lines := bytes.SplitAfter(text, []byte("\n"))
			lines[1], lines[2] = lines[2], lines[1]
			return slices.Concat(lines...)
		}), []string{"was changed"}},
		"a changed link":        {edit(replaced(`"link":"`, `"link":"00`)), []string{"first line"}},
		"another node":          {edit(replaced("db2@host", "db9@host")), []string{`is of node "db9@host"`}},
		"an unknown field":      {edit(replaced(`{"format"`, `{"x":1,"format"`)), []string{"first line was changed"}},
		"no first line":         {edit(func([]byte) []byte { return nil }), []string{"no first line"}},
		"a last line cut":       {edit(func(text []byte) []byte { return text[:len(text)-3] }), []string{"not whole"}},
		"a truncated file":      {bytesOf(func(b []byte) []byte { return b[:len(b)/2] }), []string{"cut short"}},
		"an empty file":         {bytesOf(func([]byte) []byte { return nil }), []string{"cut short"}},
		"a flipped bit":         {bytesOf(func(b []byte) []byte { b[len(b)/2] ^= 4; return b }), []string{"000000006-"}},
		"what is no zstd":       {bytesOf(func([]byte) []byte { return []byte("hello") }), []string{"cannot be expanded"}},
		"more than is expanded": {bytesOf(func([]byte) []byte { return bomb(t) }), []string{"cannot be expanded"}},
		"a file under another name": {func(t *testing.T, _ *world, files []string) {
			must(t, os.Rename(files[1], strings.Replace(files[1], "20261125T", "20251125T", 1)))
		}, []string{"its name does not fit"}},
		"two files of the same numbers": {keep(func(w *world) spool.Segment {
			return segment(w.boot, last(w.segments[0]), 6, 5, func(e *audit.Event) { e.Actor = "client:10.6.6.6" })
		}), []string{"different records under the numbers from 6 to 10"}},
		"files that overlap and differ": {keep(func(w *world) spool.Segment {
			return segment(w.boot, w.segments[1].Records[1].Hash(), 8, 2, func(e *audit.Event) { e.Secret = "app/other" })
		}), []string{"different records under the numbers from 8 to 9"}},
		"a spool whose newest file is another's": {func(t *testing.T, w *world, files []string) {
			must(t, os.Remove(files[2]))
			must(t, w.open().Keep(t.Context(), segment(w.boot, spool.Hash{7}, 11, 5, nil)))
		}, []string{"its first record, 11, does not continue record 10"}},
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t)
			w.mustKeep(w.open(), 5, 5, 5)
			w.checkFits(15, 16)
			c.do(t, w, w.files())
			if strings.HasPrefix(what, "two files") {
				r := w.verify(Options{}) // the file behind them continues only one of the two
				said := func(f Fault) bool { return strings.Contains(f.What, c.texts[0]) }
				if !slices.ContainsFunc(r.Faults, said) {
					t.Errorf("got %v, want %q", r.Faults, c.texts)
				}
				return
			}
			w.wantFault(what, Options{}, c.texts...)
		})
	}
}

// bomb is a small file that expands to more than any of the archive.
func bomb(t *testing.T) []byte {
	t.Helper()
	writer, err := zstd.NewWriter(nil)
	must(t, err)
	defer writer.Close()
	return writer.EncodeAll(make([]byte, maxText+1), nil)
}

// With the primary's position the end of a spool is checked, too.
func TestTheEndIsComparedWithThePrimary(t *testing.T) {
	with := func(c Compared) Options {
		c.Cluster = vaultID
		return Options{Compare: func(context.Context) (Compared, error) { return c, nil }}
	}
	ledger := func(w *world, next uint64, h spool.Hash, gaps ...spool.Range) Options {
		return with(Compared{Ledgers: []spool.Ledger{{Node: "db2@host", Boot: w.boot, Next: next, Last: h, Gaps: gaps}}})
	}
	w := newWorld(t)
	w.mustKeep(w.open(), 5, 5)
	end := last(w.segments[1])
	if r := w.verify(ledger(w, 11, end)); len(r.Faults) > 0 || !r.Ledgers || r.Spools[0].Behind != 0 {
		t.Errorf("at the end: got %+v", r)
	}
	if r := w.verify(ledger(w, 15, spool.Hash{1})); len(r.Faults) > 0 || r.Spools[0].Behind != 4 {
		t.Errorf("four are not archived yet: got %+v", r)
	}
	w.wantFault("a forged end", ledger(w, 11, spool.Hash{1}), "record 10 of the archive is not the one")
	w.wantFault("a primary that was put back", ledger(w, 9, w.segments[1].Records[2].Hash()),
		"it has lost what it acknowledged")
	behind := Compared{Standby: true, Ledgers: []spool.Ledger{{Node: "db2@host", Boot: w.boot, Next: 9,
		Last: w.segments[1].Records[2].Hash()}}}
	if r := w.verify(with(behind)); len(r.Faults) > 0 || r.Spools[0].Ahead != 2 {
		t.Errorf("a standby that is behind: got %+v", r)
	}
	behind.Ledgers[0].Last = spool.Hash{1}
	w.wantFault("a forged record", with(behind), "record 8 of the archive is not the one")
	w.wantFault("another node", with(Compared{Ledgers: []spool.Ledger{{Node: "db1", Boot: w.boot, Next: 11, Last: end}}}),
		`the primary "db1"`)
	if _, err := w.open().Verify(t.Context(), Options{Compare: func(context.Context) (Compared, error) {
		return Compared{}, os.ErrPermission
	}}); !errors.Is(err, os.ErrPermission) {
		t.Errorf("a database that refuses: got %v", err)
	}

	// Records that are on record as lost are no fault; others are.
	w.segments[1] = segment(w.boot, spool.Hash{9}, 20, 5, nil)
	must(t, os.Remove(w.files()[1]))
	must(t, w.open().Keep(t.Context(), w.segments[1]))
	end = last(w.segments[1])
	w.wantFault("a hole", ledger(w, 25, end), "records 6 to 19 before it are missing")
	w.wantFault("a hole that is larger than the gap on record", ledger(w, 25, end, spool.Range{First: 6, Next: 19}),
		"records 6 to 19 before it are missing")
	if r := w.verify(ledger(w, 25, end, spool.Range{First: 6, Next: 20})); len(r.Faults) > 0 || r.Spools[0].Lost != 14 {
		t.Errorf("a gap on record: got %+v", r)
	}
	other := Compared{Ledgers: []spool.Ledger{{Boot: uuid.New(), Next: 7}, {Boot: uuid.New(), Next: 1}}}
	if r := w.verify(with(other)); r.Absent != 1 || !r.Spools[0].Unlisted {
		t.Errorf("other spools: got %+v", r)
	}
}

// A damaged segment of the spool is written anew, so that files may have the same records twice, and old files expire.
func TestWhatIsNoFault(t *testing.T) {
	w := newWorld(t)
	w.mustKeep(w.open(), 5, 5, 5)
	must(t, w.open().Keep(t.Context(), segment(w.boot, w.segments[0].Records[2].Hash(), 4, 4, nil)))
	if r := w.verify(Options{}); len(r.Faults) > 0 || r.Spools[0].Repeated != 4 {
		t.Errorf("repeated records: got %+v", r)
	}
	events, err := w.open().List(t.Context(), filter.Filter{}, 100)
	must(t, err)
	if got := seqs(events); len(got) != 15 || got[0] != 15 || got[14] != 1 {
		t.Errorf("repeated records are listed: %v", got)
	}
	must(t, os.Remove(w.files()[0]))
	must(t, os.WriteFile(filepath.Join(w.dir, "reads", "README"), nil, 0o600))
	if r := w.verify(Options{}); len(r.Faults) > 0 || r.Spools[0].First != 4 || r.Others != 1 {
		t.Errorf("the oldest file has expired: got %+v", r)
	}
	empty := newWorld(t)
	if _, err := empty.open().Verify(t.Context(), Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder: got %v", err)
	}
}

func seqs(events []Event) (all []uint64) {
	for _, e := range events {
		all = append(all, e.Seq)
	}
	return all
}

func TestList(t *testing.T) {
	w := newWorld(t)
	a := w.open()
	w.mustKeep(a, 10, 10, 10)
	other := segment(uuid.New(), spool.Hash{}, 1, 5, func(e *audit.Event) {
		e.At, e.Client, e.Actor = e.At.Add(11*time.Minute+30*time.Second), "", "app:billing"
		e.Outcome, e.Secret = audit.Denied, "evil\x1b[31m"
	})
	other.Node = "db3"
	must(t, a.Keep(t.Context(), other))
	for text, want := range map[string][]uint64{
		"":                             {30, 29, 28, 27, 26},
		"node:db3":                     {5, 4, 3, 2, 1},
		"outcome:denied ip:10.0.0.7":   {},
		"actor:billing":                {5, 4, 3, 2, 1},
		"app/2 until:2026-11-25T10:10": {8, 5, 2},
		"since:2026-11-25T10:12 until:2026-11-25T10:14":          {2, 13, 1, 12},
		"request:00000000-0000-4000-8000-000000000007 -node:db3": {7},
		"-ip:10.0.0.0/8": {5, 4, 3, 2, 1},
		"version:1":      {},
		"action:verify":  {},
	} {
		f, err := filter.Parse(text, began)
		must(t, err)
		events, err := a.List(t.Context(), f, 5)
		must(t, err)
		if got := seqs(events); !slices.Equal(got, want) && len(got)+len(want) > 0 {
			t.Errorf("%q: got the records %v, want %v", text, got, want)
		}
		for _, e := range events {
			if strings.ContainsRune(e.Secret, '\x1b') || e.Node == "" {
				t.Errorf("%q: got %+v, want it printable and of a node", text, e)
			}
		}
	}
	events, err := a.List(t.Context(), filter.Filter{}, 1)
	must(t, err)
	text, err := json.Marshal(events)
	must(t, err)
	want := `[{"at":"2026-11-25T10:30:00Z","actor":"client:10.0.0.7","client":"10.0.0.7","node":"db2@host",` +
		`"action":"read","secret":"app/0","version":2,"outcome":"ok","request_id":"00000000-0000-4000-8000-000000000030",` +
		`"detail":{"match":"current"},"boot":"` + w.boot.String() + `","seq":30}]`
	if string(text) != want {
		t.Errorf("got %s, want %s", text, want)
	}
}

// What a node wrote and no reader can read is listed as such, and a line break is refused.
func TestEventsThatAreNone(t *testing.T) {
	w := newWorld(t)
	s := spool.Segment{Node: "n", Boot: w.boot, Records: []spool.Record{{Seq: 1, Event: []byte("{\xff")}}}
	must(t, w.open().Keep(t.Context(), s))
	events, err := w.open().List(t.Context(), filter.Filter{}, 5)
	must(t, err)
	if len(events) != 1 || events[0].Action != audit.Unreadable || events[0].Detail["event"] != "{?" {
		t.Errorf("got %+v", events)
	}
	w.checkFits(1, 2)
	s.Records[0].Event = []byte("{\n}")
	if err := w.open().Keep(t.Context(), s); err == nil || !strings.Contains(err.Error(), "line break") {
		t.Errorf("a line break: got %v", err)
	}
	if err := w.open().Keep(t.Context(), spool.Segment{}); err == nil {
		t.Error("a segment without records was kept")
	}
}

func TestPlaces(t *testing.T) {
	for where, good := range map[string]bool{"/var/lib/vaultd/archive": true, "s3://example/vault?region=eu-west-1": true,
		"archive": false, "": false, "s3://": false, "https://example": false} {
		if err := CheckWhere(where); (err == nil) != good {
			t.Errorf("%q: got %v", where, err)
		}
	}
	away := func(context.Context) (uuid.UUID, error) { return uuid.Nil, errors.New("away") }
	a, err := Open(t.Context(), t.TempDir(), away)
	must(t, err)
	defer a.Close()
	if err := a.Keep(t.Context(), newWorld(t).grow(1)); err == nil || !strings.Contains(err.Error(), "id is not known") {
		t.Errorf("without the vault's id: got %v", err)
	}
	taken := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(taken, nil, 0o600))
	b, err := Open(t.Context(), taken, ofVault)
	must(t, err)
	defer b.Close()
	if err := b.Keep(t.Context(), newWorld(t).grow(1)); err == nil {
		t.Error("a file is no folder")
	}
}
