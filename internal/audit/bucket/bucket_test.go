package bucket

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/audit/bucket/s3fake"
	"github.com/hyperiondb/vault/internal/audit/seal"
	"github.com/hyperiondb/vault/internal/awsclient/awsfake"
	"github.com/hyperiondb/vault/internal/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

const region = "eu-west-1"

var vaultID = uuid.MustParse("00000000-0000-4000-8000-00000000ca0a")

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// store is a bucket of a test and where it is.
type store struct {
	*s3fake.Fake
	t   *testing.T
	uri string
}

func newStore(t *testing.T) *store {
	t.Helper()
	awsfake.Isolate(t)
	f := s3fake.New(region, "seals")
	endpoint, err := f.Serve()
	must(t, err)
	t.Cleanup(f.Close)
	return &store{f, t, "s3://seals/audit/log?region=" + region + "&endpoint=" + endpoint}
}

// quick are the timings of a test: retries at once, and deadlines that a loaded machine does not miss.
func quick() timing {
	return timing{operation: time.Minute, attempt: 20 * time.Second, attempts: 3, longest: time.Millisecond}
}

// open is another daemon that looks at the bucket.
func (s *store) open() *Bucket { return s.openWith(quick()) }

func (s *store) openWith(limits timing) *Bucket {
	s.t.Helper()
	b, err := open(s.t.Context(), s.uri, func(context.Context) (uuid.UUID, error) { return vaultID, nil }, limits)
	must(s.t, err)
	s.t.Cleanup(func() { b.Close() })
	return b
}

func (s *store) inject(kind s3fake.Kind, op string, times int) {
	s.t.Helper()
	must(s.t, s.Inject(s3fake.Fault{Kind: kind, Op: op, Times: times}))
}

func (s *store) key(first int64) string {
	return fmt.Sprintf("audit/log/%s/%020d.jsonl", vaultID, first)
}

// checkHolds is the invariant: a read of the whole bucket finds exactly this chain.
func (s *store) checkHolds(chain []seal.Seal) {
	s.t.Helper()
	got, err := s.open().Seals(s.t.Context())
	if err != nil || !slices.Equal(ids(got), ids(chain)) || len(got) > 0 &&
		got[len(got)-1].Hash != chain[len(chain)-1].Hash {
		s.t.Errorf("the bucket has seals %v, want %v (%v)", ids(got), ids(chain), err)
	}
}

func ids(seals []seal.Seal) []int64 {
	all := []int64{}
	for _, s := range seals {
		all = append(all, s.ID)
	}
	return all
}

func mustLast(t *testing.T, b *Bucket) seal.Seal {
	t.Helper()
	last, err := b.Last(t.Context())
	must(t, err)
	return last
}

// grow makes n seals that follow last; another salt, another chain.
func grow(t testing.TB, last seal.Seal, n int, salt byte) []seal.Seal {
	t.Helper()
	key, err := seal.NewKey(bytes.Repeat([]byte{7}, 32))
	must(t, err)
	hash := last.Hash
	if last.ID == 0 {
		hash = seal.Genesis(vaultID)
	}
	var chain []seal.Seal
	for i := range n {
		at := time.Date(2026, 11, 25, 10, 0, i, int(salt)*1000, time.UTC)
		row := seal.Row{ID: last.ID + 1, Tx: last.ToTx, At: seal.Moment{Time: at}, RecordedAt: seal.Moment{Time: at},
			Actor: "token:root", DBRole: "operator", Action: "put", Outcome: "ok", Detail: json.RawMessage(`{}`)}
		w := seal.Window{FromTx: last.ToTx, ToTx: last.ToTx + 1, LastID: last.ID, LastHash: hash, Rows: []seal.Row{row},
			Now: at}
		seals, err := w.Seal(t.Context(), key)
		must(t, err)
		last, hash = seals[0], seals[0].Hash
		chain = append(chain, last)
	}
	return chain
}

func TestSealsAreKeptAndFoundAgain(t *testing.T) {
	s := newStore(t)
	chain := grow(t, seal.Seal{}, 12, 0)
	b := s.open()
	if last := mustLast(t, b); last.ID != 0 {
		t.Errorf("an empty bucket has seal %d", last.ID)
	}
	s.checkHolds(nil)
	for _, part := range [][]seal.Seal{chain[:5], chain[5:6], chain[6:]} {
		must(t, b.Add(t.Context(), part))
		if got := mustLast(t, s.open()); got.ID != part[len(part)-1].ID || got.Hash != part[len(part)-1].Hash {
			t.Errorf("a restart finds seal %d, want %d", got.ID, part[len(part)-1].ID)
		}
	}
	if want := []string{s.key(1), s.key(6), s.key(7)}; !slices.Equal(s.Keys(), want) {
		t.Errorf("the objects are %q, want %q", s.Keys(), want)
	}
	s.checkHolds(chain)

	// Old objects may expire; the lines are those of a node's file.
	file := filepath.Join(t.TempDir(), "seals")
	must(t, os.WriteFile(file, slices.Concat(s.Object(s.key(1)), s.Object(s.key(6)), s.Object(s.key(7))), 0o600))
	if got, err := seal.ReadCopies(file); err != nil || !slices.Equal(ids(got), ids(chain)) {
		t.Errorf("as a file: got %v, %v", ids(got), err)
	}
	s.Delete(s.key(1))
	s.checkHolds(chain[5:])

	for what, seals := range map[string][]seal.Seal{"itself again": chain[11:], "a gap": grow(t, chain[11], 2, 0)[1:],
		"a fork": grow(t, chain[10], 1, 1)} {
		if err := b.Add(t.Context(), seals); !errors.Is(err, seal.ErrTampered) {
			t.Errorf("%s: got %v", what, err)
		}
	}
	s.checkHolds(chain[5:])
}

// Two primaries, for a moment: one comes first and the other goes on from there.
func TestOneOfTwoWritersGoesOnFromTheOther(t *testing.T) {
	s := newStore(t)
	chain := grow(t, seal.Seal{}, 60, 0)
	a, b := s.open(), s.open()
	must(t, a.Add(t.Context(), chain[:2]))
	if mustLast(t, b).ID != 2 {
		t.Fatal("the second does not see the first")
	}
	must(t, a.Add(t.Context(), chain[2:5]))
	if err := b.Add(t.Context(), chain[2:4]); !errors.Is(err, seal.ErrAdded) || errors.Is(err, seal.ErrAway) {
		t.Errorf("got %v, want %v", err, seal.ErrAdded)
	}
	if got := mustLast(t, b).ID; got != 5 {
		t.Errorf("after that the last is seal %d, want 5", got)
	}
	must(t, b.Add(t.Context(), chain[5:6]))

	var running sync.WaitGroup
	for _, w := range []*Bucket{a, b} {
		running.Go(func() {
			for t.Context().Err() == nil {
				last, err := w.Last(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				if last.ID == int64(len(chain)) {
					return
				}
				if err := w.Add(t.Context(), chain[last.ID:min(last.ID+3, int64(len(chain)))]); err != nil &&
					!errors.Is(err, seal.ErrAdded) {
					t.Error(err)
					return
				}
			}
		})
	}
	running.Wait()
	s.checkHolds(chain)
}

// "Failed" and "done, but the reply was lost" look the same from here; both end with each seal there once.
func TestPutWhoseReplyIsLost(t *testing.T) {
	s := newStore(t)
	chain := grow(t, seal.Seal{}, 6, 0)
	b := s.open()
	must(t, b.Add(t.Context(), chain[:1]))
	for n, c := range []struct {
		kind  s3fake.Kind
		times int // 0: until the attempts are over
		want  error
	}{
		{s3fake.Reset, 1, nil},
		{s3fake.LostReply, 1, seal.ErrAdded}, // the second attempt of the same Add meets the object of the first
		{s3fake.Reset, 0, seal.ErrAway},
		{s3fake.LostReply, 0, seal.ErrAway}, // every reply is lost: nothing tells, and the next look does
	} {
		last := mustLast(t, b).ID
		s.inject(c.kind, s3fake.Put, c.times)
		if err := b.Add(t.Context(), chain[last:last+1]); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%d: got %v, want %v", n, err, c.want)
		}
		s.Clear()
		if done := c.kind == s3fake.LostReply || c.want == nil; mustLast(t, b).ID == last+1 != done {
			t.Errorf("%d %s: the last is seal %d after %d, done %v", n, c.kind, mustLast(t, b).ID, last, done)
		}
	}
	last := mustLast(t, b)
	if last.Hash != chain[3].Hash {
		t.Errorf("the last is seal %d, want 4", last.ID)
	}
	must(t, b.Add(t.Context(), chain[4:]))
	s.checkHolds(chain)
}

// What says nothing about the seals is ErrAway, in one line that repeats nothing; afterwards all is as before.
func TestABucketThatIsAway(t *testing.T) {
	s := newStore(t)
	chain := grow(t, seal.Seal{}, 3, 0)
	must(t, s.open().Add(t.Context(), chain[:2]))
	operations := map[string]func(*Bucket) error{
		s3fake.List: func(b *Bucket) error { _, err := b.Last(t.Context()); return err },
		s3fake.Get:  func(b *Bucket) error { _, err := b.Last(t.Context()); return err },
		s3fake.Put:  func(b *Bucket) error { return b.Add(t.Context(), chain[2:]) },
	}
	for kind, text := range map[s3fake.Kind]string{
		s3fake.SlowDown: "throttled", s3fake.Internal: "failed (http status 500)",
		s3fake.Unavailable: "failed (http status 503)",
		s3fake.Forbidden:   "not one of S3 (http status 403)", s3fake.AccessDenied: "access denied to s3:",
		s3fake.NoBucket:    "no such bucket",
		s3fake.OtherRegion: "another region", s3fake.Reset: "the connection broke", s3fake.Hang: "no answer",
	} {
		limits := quick()
		if kind == s3fake.Hang { // it ends with the deadline
			limits.operation = 3 * time.Second
		}
		for op, run := range operations {
			b := s.openWith(limits)
			if op == s3fake.Put {
				mustLast(t, b)
			}
			if kind == s3fake.Hang && op == s3fake.Put {
				continue // it may be put in the end: TestPutWhoseReplyIsLost
			}
			s.inject(kind, op, 0)
			err := run(b)
			if !errors.Is(err, seal.ErrAway) || errors.Is(err, seal.ErrCopies) || !strings.Contains(err.Error(), text) ||
				strings.Contains(err.Error(), "\n") {
				t.Errorf("%s %s: got %v, want one line with %q", op, kind, err, text)
			}
			s.Clear()
			if op != s3fake.Put {
				must(t, run(b))
			}
		}
	}
	for op, kinds := range map[string][]s3fake.Kind{
		s3fake.List: {s3fake.Truncated, s3fake.Garbage, s3fake.Backwards}, s3fake.Get: {s3fake.Truncated},
		s3fake.Put: {s3fake.Conflict},
	} {
		for _, kind := range kinds {
			s.SetPage(1000)
			b := s.open()
			if op == s3fake.List && kind == s3fake.Backwards {
				s.Set(s.key(900), nil)
			}
			s.inject(kind, op, 0)
			err, want := operations[op](b), seal.ErrAway
			if op == s3fake.Put {
				want = seal.ErrAdded
			}
			if !errors.Is(err, want) || errors.Is(err, seal.ErrCopies) {
				t.Errorf("%s %s: got %v, want %v", op, kind, err, want)
			}
			s.Clear()
			s.Delete(s.key(900))
		}
	}
	s.checkHolds(chain[:2])

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.open().Last(ctx); !errors.Is(err, context.Canceled) || errors.Is(err, seal.ErrAway) {
		t.Errorf("given up: got %v", err)
	}
	unknown, err := open(t.Context(), s.uri, func(context.Context) (uuid.UUID, error) {
		return uuid.Nil,
			errors.New("no database")
	}, quick())
	must(t, err)
	if _, err := unknown.Last(t.Context()); !errors.Is(err, seal.ErrAway) ||
		!strings.Contains(err.Error(), "no database") {
		t.Errorf("without a database: got %v", err)
	}
	os.Unsetenv("AWS_ACCESS_KEY_ID") // awsfake.Isolate puts it back
	os.Unsetenv("AWS_SECRET_ACCESS_KEY")
	if _, err := s.open().Last(t.Context()); !errors.Is(err, seal.ErrAway) ||
		!strings.Contains(err.Error(), "no usable AWS credentials") {
		t.Errorf("without credentials: got %v", err)
	}
}

// An object that is there and was not written here is told from a bucket that is away.
func TestForeignObjects(t *testing.T) {
	s := newStore(t)
	chain := grow(t, seal.Seal{}, 4, 0)
	b := s.open()
	must(t, b.Add(t.Context(), chain[:2]))
	must(t, b.Add(t.Context(), chain[2:]))
	honest := s.Object(s.key(3))
	patient := defaultTiming() // megabytes take a busy machine longer than the quick one allows
	for what, c := range map[string]struct {
		body []byte
		text string
	}{
		"nothing":         {nil, "not whole"},
		"somebody else's": {[]byte("hello\n"), "line 1"},
		"an edited seal":  {bytes.Replace(honest, []byte(`"rows":1`), []byte(`"rows":2`), 1), "seal 3 was changed"},
		"an edited signature": {bytes.Replace(honest, []byte(`"signature":"`), []byte(`"signature":"AAAA`), 1),
			"signature of seal 3"},
		"a line cut off":        {honest[:len(honest)-10], "not whole"},
		"a word behind":         {append(bytes.Clone(honest), "more"...), "not whole"},
		"other seals":           {s.Object(s.key(1)), "seal 1"},
		"seals exchanged":       {swapLines(honest), "does not follow"},
		"an unknown field":      {bytes.Replace(honest, []byte(`{`), []byte(`{"x":1,`), 1), "line 1"},
		"more than can be read": {bytes.Repeat([]byte(" \n"), maxObject), "longer than any"},
	} {
		s.Set(s.key(3), c.body)
		_, err := s.openWith(patient).Last(t.Context())
		_, all := s.openWith(patient).Seals(t.Context())
		for _, err := range []error{err, all} {
			if !errors.Is(err, seal.ErrCopies) || errors.Is(err, seal.ErrAway) || !strings.Contains(err.Error(), c.text) ||
				!strings.Contains(err.Error(), s.key(3)) {
				t.Errorf("%s: got %v, want %v, %q and the object's name", what, err, seal.ErrCopies, c.text)
			}
		}
	}
	s.Set(s.key(3), honest)
	s.inject(s3fake.Endless, s3fake.Get, 0)
	if _, err := s.openWith(patient).Last(t.Context()); !errors.Is(err, seal.ErrCopies) {
		t.Errorf("an endless object: got %v", err)
	}
	s.Clear()

	// Other names are left alone, a gap and a fork are not.
	folder := strings.TrimSuffix(s.key(0), "00000000000000000000.jsonl")
	for _, name := range []string{"README", "00000000000000000002", "99999999999999999999.jsonl",
		"00000000000000000003.jsonl.bak", "x/00000000000000000009.jsonl"} {
		s.Set(folder+name, []byte("?"))
	}
	s.SetPage(1)
	s.checkHolds(chain)
	if got := mustLast(t, s.open()).ID; got != 4 {
		t.Errorf("the last is seal %d, want 4", got)
	}
	s.Set(s.key(9), mustLines(t, grow(t, chain[3], 6, 0)[4:]))
	if _, err := s.open().Seals(t.Context()); !errors.Is(err, seal.ErrCopies) ||
		!strings.Contains(err.Error(), "seal 9 does not follow seal 4") {
		t.Errorf("a gap: got %v", err)
	}
}

func swapLines(text []byte) []byte {
	lines := bytes.SplitAfter(text, []byte("\n"))
	return slices.Concat(lines[1], lines[0])
}

func mustLines(t *testing.T, seals []seal.Seal) []byte {
	t.Helper()
	text, err := seal.AppendLines(nil, new(seal.Seal), seals)
	must(t, err)
	return text
}

// The end of a bucket of any size is found by few listings.
func TestTheEndIsFound(t *testing.T) {
	s := newStore(t)
	b := s.open()
	next, n := int64(1), 0
	for _, size := range []int{0, 1, 2, 999, 1000, 1001, 5000, 30_000} {
		for ; n < size; n++ {
			s.Set(s.key(next), nil)
			next += int64(1 + n%97)
		}
		want := int64(0)
		if keys := s.Keys(); len(keys) > 0 {
			fmt.Sscanf(filepath.Base(keys[len(keys)-1]), nameFormat, &want)
		}
		before := s.Calls()[s3fake.List]
		got, err := b.end(t.Context(), 0)
		calls := s.Calls()[s3fake.List] - before
		if err != nil || got != want || calls > 40 {
			t.Errorf("%d objects: the last is %d after %d listings, want %d (%v)", size, got, calls, want, err)
		}
		if again, err := b.end(t.Context(), want); err != nil || again != want {
			t.Errorf("%d objects, from the end: got %d, %v", size, again, err)
		}
	}
	s.Set(s.key(math.MaxInt64), nil)
	if got, err := b.end(t.Context(), 0); err != nil || got != math.MaxInt64 {
		t.Errorf("got %d, %v", got, err)
	}
}

func TestURIs(t *testing.T) {
	for in, want := range map[string]string{
		"s3://seals": "s3://seals", "s3://seals/": "s3://seals",
		"s3://my.seals-2/a/b_c=d/?region=eu-west-1": "s3://my.seals-2/a/b_c=d?region=eu-west-1",
		"s3://seals?endpoint=https://Minio.example:9000/&region=us-east-1": "s3://seals?region=us-east-1" +
			"&endpoint=https://minio.example:9000",
	} {
		u, err := ParseURI(in)
		if err != nil || u.String() != want {
			t.Errorf("%s: got %s, %v, want %s", in, u, err, want)
		}
		if again, err := ParseURI(u.String()); err != nil || again != u {
			t.Errorf("%s: read again it is %s, %v", in, again, err)
		}
	}
	for in, want := range map[string]string{
		"": "does not begin", "seals": "does not begin", "S3://seals": "does not begin", "https://seals": "does not begin",
		"s3://": "bucket is missing", "s3:///prefix": "bucket is missing", "s3://?region=eu-west-1": "bucket is missing",
		"s3://Seals": "not the name", "s3://a": "not the name", "s3://a..b": "not the name", "s3://10.0.0.1": "not the name",
		"s3://seals:9000":         "not the name",
		"s3://arn:aws:s3:::seals": "not the name", "s3://seals#x": "not the name",
		"s3://" + strings.Repeat("a", 64): "not the name",
		"s3://seals//a":                   "the prefix", "s3://seals/a//b": "the prefix", "s3://seals/a b": "the prefix",
		"s3://seals/a%2Fb": "the prefix", "s3://seals/ä": "the prefix",
		"s3://seals/a#b": "the prefix", "s3://seals/" + strings.Repeat("a", 513): "the prefix", "s3://seals/../x": ". or ..",
		"s3://seals/.":             ". or ..",
		"s3://AKIA:hunter2@seals/": "credentials", "s3://seals/a@b": "credentials",
		"s3://seals?regoin=x": `unknown query parameter "regoin"`, "s3://seals?access_key=hunter2": "unknown query parameter",
		"s3://seals?region=a1&region=a2": "repeated", "s3://seals?region=": "region", "s3://seals?region=EU_1": "region",
		"s3://seals?%zz": "bad query",
		"s3://seals?endpoint=http://minio.example": "plain http", "s3://seals?endpoint=minio:9000": "endpoint",
		"s3://seals?endpoint=https://AKIA:hunter2@minio": "endpoint",
	} {
		_, err := ParseURI(in)
		if !errors.Is(err, ErrURI) || !strings.Contains(err.Error(), want) || strings.ContainsAny(err.Error(), "\n\r") ||
			strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: got %v, want one line with %q and no password", in, err, want)
		}
	}
	awsfake.Isolate(t)
	for uri, want := range map[string]string{"s3://seals": "no region", "s3://seals?region=x y": "region"} {
		if _, err := Open(t.Context(), uri, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("opening %s: got %v, want %q", uri, err, want)
		}
	}
	t.Setenv("AWS_ENDPOINT_URL_S3", "http://192.0.2.1")
	if _, err := Open(t.Context(), "s3://seals?region=eu-west-1", nil); err == nil ||
		!strings.Contains(err.Error(), "plain http") {
		t.Errorf("a plain endpoint in the environment: got %v", err)
	}
}

// node is a store whose chain a test rewrites.
type node struct {
	mu      sync.Mutex
	seals   []seal.Seal
	standby bool
	away    error
}

func (n *node) SealAudit(context.Context, int, func(seal.Window) ([]seal.Seal, error)) (int, error) {
	return 0, nil
}

func (n *node) IsPrimary(context.Context) (bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.standby, n.away
}

func (n *node) SealsAfter(_ context.Context, id int64, limit int) (seals []seal.Seal, at *seal.Hash, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.seals {
		if s.ID == id {
			at = &s.Hash
		} else if s.ID > id && len(seals) < limit {
			seals = append(seals, s)
		}
	}
	return seals, at, n.away
}

// set makes the node another one.
func (n *node) set(seals []seal.Seal, standby bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seals, n.standby = seals, standby
}

// lockedBuffer is a log that is read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) count(words string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), words)
}

func waitFor(t *testing.T, what string, condition func() bool) {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	timeout := time.After(time.Minute)
	for !condition() {
		select {
		case <-ticker.C:
		case <-timeout:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// The life of a bucket beside a sealer: it follows the primary, an outage is no alarm, a lost or rewritten chain is
// one, a standby leaves it alone, and what is new at the end is added at the end.
func TestSealerKeepsTheBucket(t *testing.T) {
	s := newStore(t)
	chain := grow(t, seal.Seal{}, 2500, 0)
	fork := append(slices.Clone(chain[:1000]), grow(t, chain[999], 1, 1)...)
	local, log := &node{seals: chain[:1200]}, new(lockedBuffer)
	sealer := &seal.Sealer{Store: local, Log: slog.New(slog.NewTextHandler(log, nil)),
		Places: []*seal.Place{{Keeper: s.open(), Where: "in the bucket", Every: 5 * time.Millisecond, Shared: true}}}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); sealer.Run(ctx) }()
	state := func(want seal.State) func() bool {
		return func() bool {
			got := sealer.State()
			return got.Alarm == want.Alarm && got.Away == want.Away && (got.Behind > 0) == (want.Alarm || want.Away) &&
				(sealer.Check(ctx) != nil) == want.Alarm
		}
	}
	waitFor(t, "1200 seals in two objects", func() bool { return slices.Equal(s.Keys(), []string{s.key(1), s.key(1001)}) })
	s.checkHolds(chain[:1200])

	s.inject(s3fake.SlowDown, "", 0)
	local.set(chain[:1300], false)
	waitFor(t, "the bucket to be missed", state(seal.State{Away: true}))
	before := s.Calls()[s3fake.List]
	waitFor(t, "some more rounds", func() bool { return s.Calls()[s3fake.List] > before+12 })
	if n := log.count("keeping the seals of the audit log failed"); n != 1 {
		t.Errorf("one outage was logged %d times", n)
	}
	s.Clear()
	waitFor(t, "the bucket to be whole again", state(seal.State{}))
	s.checkHolds(chain[:1300])

	local.set(chain[:1250], false)
	waitFor(t, "an alarm: the newest seals are gone", state(seal.State{Alarm: true}))
	if err := sealer.Check(ctx); !strings.Contains(err.Error(),
		"seal 1300 was seen in the bucket and the node does not have it") {
		t.Errorf("got %v", err)
	}
	local.set(fork, true)
	waitFor(t, "a standby to say nothing", state(seal.State{}))
	local.set(append(slices.Clone(fork), grow(t, fork[1000], 400, 1)...), false)
	waitFor(t, "an alarm: the chain was made anew", state(seal.State{Alarm: true}))
	if err := sealer.Check(ctx); !strings.Contains(err.Error(), "seal 1300 is not the one that was seen in the bucket") {
		t.Errorf("got %v", err)
	}
	s.checkHolds(chain[:1300])
	local.set(chain[:1300], false)
	waitFor(t, "all to be well again", state(seal.State{}))
	stop()
	<-ended

	// Another daemon, with an hour between rounds: only the rounds at its start and end count. Meanwhile a third adds.
	late := &seal.Sealer{Store: local, Log: slog.New(slog.DiscardHandler),
		Places: []*seal.Place{{Keeper: s.open(), Where: "in the bucket", Every: time.Hour, Shared: true}}}
	ctx, stop = context.WithCancel(t.Context())
	ended = make(chan struct{})
	gets := s.Calls()[s3fake.Get]
	go func() { defer close(ended); late.Run(ctx) }()
	waitFor(t, "the first look", func() bool { return s.Calls()[s3fake.Get] > gets })
	waitFor(t, "the first round to end", func() bool { return late.State() == seal.State{} })
	other := s.open()
	mustLast(t, other)
	must(t, other.Add(t.Context(), chain[1300:1400]))
	local.set(chain[:1500], false)
	stop()
	<-ended
	s.checkHolds(chain[:1500])
}
