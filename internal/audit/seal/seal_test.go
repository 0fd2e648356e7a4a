package seal

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
)

var update = flag.Bool("update", false, "write the vectors anew: a change of format")

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func testKey(t testing.TB, fill byte) *Key {
	t.Helper()
	key, err := NewKey(bytes.Repeat([]byte{fill}, 32))
	must(t, err)
	return key
}

var cluster = uuid.MustParse("00000000-0000-4000-8000-00000000ca0a")

func ptr[T any](v T) *T { return &v }

// someRows are n rows of one transaction each, with every kind of null and value among them.
func someRows(n int, from int64) []Row {
	rows := make([]Row, n)
	for i := range rows {
		at := time.Date(2026, 11, 25, 10, 0, i, 123456000, time.UTC)
		rows[i] = Row{ID: from + int64(i), SystemID: 7000000000000000001, Tx: uint64(1000 + from + int64(i)), At: Moment{at},
			RecordedAt: Moment{at.Add(time.Second)},
			Actor:      "token:root", DBRole: "operator", Action: "put", Outcome: "ok", Detail: json.RawMessage(`{}`)}
		if i%2 == 1 {
			id := uuid.NewSHA1(cluster, []byte{byte(i)})
			rows[i].Client, rows[i].Node, rows[i].Secret = &Client{netip.MustParsePrefix("10.0.0.1/32")}, ptr("node1"),
				ptr("app/é")
			rows[i].Version, rows[i].RequestID, rows[i].Detail = ptr(int32(i)), &id,
				json.RawMessage(`{"b": 1.50, "a": "<&\u00e9>"}`)
		}
	}
	return rows
}

// severalReads are two rows of several reads: one with every kind of null and value, one with two reads of one reader.
func severalReads(from int64) []Row {
	rows := someRows(2, from)
	for i := range rows {
		r := &rows[i]
		r.Action, r.Node, r.Secret, r.Detail = "read", ptr("node1"), ptr("app/x"),
			json.RawMessage(`{"seq": 17, "boot": "3f2b8c1e-6a4d-4f0b-9c57-0d1e2f3a4b5c"}`)
	}
	rows[0].Since = &Moment{rows[0].At.Add(-1500 * time.Millisecond)}
	rows[0].Earlier = json.RawMessage(`{"reads" : 4, "ago" : [0, 250000, 1500000], "back" : [1, -2, 3],
		"requests" : ["01980000-0000-7000-8000-000000000001", null, "01980000-0000-7000-8000-000000000003"],
		"reader" : [1, 2, 1], "actors" : ["client:10.0.0.7", "app:caf\u00e9"], "clients" : ["10.0.0.7", null],
		"versions" : [3, null], "details" : [null, {"via": "token", "n": 1.50, "a": "<&>"}]}`)
	rows[1].Since = &Moment{rows[1].At.Add(-time.Microsecond)}
	rows[1].Earlier = json.RawMessage(`{"reads" : 2, "ago" : [1], "back" : [1],
		"requests" : ["01980000-0000-7000-8000-000000000004"], "reader" : [1], "actors" : ["client:fd00::1"],
		"clients" : ["fd00::1"], "versions" : [1], "details" : [{}]}`)
	return rows
}

func sealed(t testing.TB, rows []Row, last Seal) Seal {
	t.Helper()
	w := Window{SystemID: rows[0].SystemID, FromTx: last.ToTx, ToTx: rows[len(rows)-1].Tx + 1, LastID: last.ID,
		LastHash: last.Hash, Rows: rows, Now: time.Date(2026, 11, 25, 11, 0, 0, 0, time.UTC)}
	if last.ID == 0 {
		w.LastHash = Genesis(cluster)
	}
	seals, err := w.Seal(t.Context(), testKey(t, 7))
	must(t, err)
	return seals[0]
}

// The tree hashes of RFC 6962: the test inputs of Certificate Transparency, with the roots its documents give.
func TestTreeOfRFC6962(t *testing.T) {
	inputs := []string{"", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"}
	roots := []string{
		"6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
		"fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
		"aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
		"d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
		"4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
		"76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
		"ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
		"5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
	}
	var tree Tree
	if got, want := hex.EncodeToString(ptr(tree.Root())[:]), hex.EncodeToString(ptr(sha256.Sum256(nil))[:]); got != want {
		t.Errorf("the empty tree: got %s, want %s", got, want)
	}
	for i, input := range inputs {
		data, err := hex.DecodeString(input)
		must(t, err)
		tree.Add(sha256.Sum256(append([]byte{0}, data...)))
		root := tree.Root()
		if got := hex.EncodeToString(root[:]); got != roots[i] {
			t.Errorf("%d leaves: got root %s, want %s", i+1, got, roots[i])
		}
	}
}

// The tree of a stream of leaves is the tree that RFC 6962 defines, at every size.
func TestTreeIsTheRecursiveOne(t *testing.T) {
	var root func(leaves []Hash) Hash
	root = func(leaves []Hash) Hash {
		if len(leaves) == 1 {
			return leaves[0]
		}
		k := 1
		for k*2 < len(leaves) {
			k *= 2
		}
		return node(root(leaves[:k]), root(leaves[k:]))
	}
	var tree Tree
	var leaves []Hash
	for i := range 600 {
		leaf := sha256.Sum256(fmt.Append(nil, i))
		leaves = append(leaves, leaf)
		tree.Add(leaf)
		if tree.Root() != root(leaves) || tree.Len() != int64(i+1) {
			t.Fatalf("%d leaves: another root", i+1)
		}
	}
}

// The vectors fix the formats: rows sealed by an older build must always verify.
func TestVectors(t *testing.T) {
	type vector struct {
		Row  Row    `json:"row"`
		Leaf string `json:"leaf"`
	}
	type vectors struct {
		Genesis string   `json:"genesis"`
		Rows    []vector `json:"rows"`
		Seals   []Seal   `json:"seals"`
	}
	first := sealed(t, someRows(4, 1), Seal{})
	genesis := Genesis(cluster)
	second := sealed(t, someRows(3, 5), first)
	got := vectors{Genesis: hex.EncodeToString(genesis[:]),
		Seals: []Seal{first, second, sealed(t, severalReads(8), second)}}
	for _, r := range append(someRows(4, 1), severalReads(8)...) {
		leaf, err := r.Leaf()
		must(t, err)
		got.Rows = append(got.Rows, vector{r, hex.EncodeToString(leaf[:])})
	}
	text, err := json.MarshalIndent(got, "", "  ")
	must(t, err)
	path := filepath.Join("testdata", "vectors.json")
	if *update {
		must(t, os.WriteFile(path, append(text, '\n'), 0o644))
	}
	want, err := os.ReadFile(path)
	must(t, err)
	if diff := cmp.Diff(strings.TrimSpace(string(want)), string(text)); diff != "" {
		t.Errorf("the format changed (-want +got):\n%s", diff)
	}
	var read vectors
	must(t, json.Unmarshal(want, &read))
	for i, v := range read.Rows { // and from JSON the leaf is the same
		leaf, err := v.Row.Leaf()
		must(t, err)
		if hex.EncodeToString(leaf[:]) != v.Leaf {
			t.Errorf("row %d: another leaf after JSON", i)
		}
	}
	c := newChain(cluster, false)
	for i := range read.Seals {
		must(t, c.Add(&read.Seals[i]))
	}
}

// The hash of a detail does not depend on its white space, order and escapes.
func TestDetailIsCanonical(t *testing.T) {
	for _, same := range [][]string{
		{`{"a": 1, "b": "<é>"}`, `{"b":"\u003c\u00e9\u003e","a":1}`, "{\n\"a\":1 , \"b\":\"<é>\"}"},
		{`{}`, `{ }`},
		{`{"n": 123456789012345678901234567890.10}`, `{"n":123456789012345678901234567890.10}`},
	} {
		want, err := canonical(json.RawMessage(same[0]))
		must(t, err)
		for _, other := range same[1:] {
			if got, err := canonical(json.RawMessage(other)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: got %s %v, want %s", other, got, err, want)
			}
		}
	}
	if one, _ := canonical(json.RawMessage(`{"n": 1.0}`)); bytes.Equal(one, []byte(`{"n":1}`)) {
		t.Error("1.0 and 1 are hashed alike")
	}
}

func TestKeys(t *testing.T) {
	key := testKey(t, 7)
	parsed, err := ParsePublicKey(key.public().String())
	must(t, err)
	if !bytes.Equal(parsed, key.public()) {
		t.Error("another key")
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		if got := fmt.Sprintf(verb, key); got != key.public().String() {
			t.Errorf("%s shows %q", verb, got)
		}
	}
	for _, bad := range []string{"", "ed25519:", "ed25519:AAAA", "rsa:" + strings.Repeat("A", 43),
		key.public().String() + "A", key.public().String() + "=", " " + key.public().String()} {
		if _, err := ParsePublicKey(bad); !errors.Is(err, ErrPublicKey) {
			t.Errorf("%q: got %v", bad, err)
		}
	}
	if _, err := NewKey(make([]byte, 31)); err == nil {
		t.Error("a seed of 31 bytes was taken")
	}
}

// writeExport writes two seals with their rows and one row that is not sealed.
func writeExport(t testing.TB, path string) {
	t.Helper()
	file, err := os.Create(path)
	must(t, err)
	defer file.Close()
	w, err := NewWriter(file, Header{Cluster: cluster})
	must(t, err)
	first := sealed(t, someRows(4, 1), Seal{})
	second := sealed(t, someRows(3, 5), first)
	write := func(s *Seal, rows []Row) {
		if s != nil {
			must(t, w.Write(Entry{Seal: s}))
		}
		for i := range rows {
			must(t, w.Write(Entry{Row: &rows[i]}))
		}
	}
	write(&first, someRows(4, 1))
	write(&second, someRows(3, 5))
	write(nil, someRows(1, 8))
	must(t, w.Close())
}

// An export is verified like its log, and every change of a byte of it is found.
func TestExportIsVerified(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.jsonl")
	writeExport(t, path)
	verify := func(path string) (Report, error) {
		file, err := OpenFile(path)
		if err != nil {
			return Report{}, err
		}
		return Verify(t.Context(), file, Options{Keys: []PublicKey{testKey(t, 7).public()}})
	}
	report, err := verify(path)
	must(t, err)
	if report.Seals != 2 || report.Rows != 7 || report.Unsealed != 1 {
		t.Errorf("got %+v", report)
	}
	whole, err := os.ReadFile(path)
	must(t, err)
	bad := filepath.Join(t.TempDir(), "bad.jsonl")
	refused := func(what string, text []byte, want error) {
		t.Helper()
		must(t, os.WriteFile(bad, text, 0o600))
		if _, err := verify(bad); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", what, err, want)
		}
	}
	lines := bytes.SplitAfter(whole, []byte("\n"))
	lines = lines[:len(lines)-1]
	join := func(l ...[]byte) []byte { return bytes.Join(l, nil) }
	refused("empty", nil, ErrExport)
	refused("no header", join(lines[1:]...), ErrExport)
	for n := 1; n < len(lines); n++ {
		refused(fmt.Sprintf("cut off after %d lines", n), join(lines[:n]...), ErrExport)
	}
	refused("a line more after the end", append(bytes.Clone(whole), lines[2]...), ErrExport)
	refused("a line that is no row", join(join(lines[:2]...), []byte("{\"x\":1}\n"), join(lines[2:]...)), ErrExport)
	refused("rows exchanged", join(join(lines[:2]...), lines[3], lines[2], join(lines[4:]...)), ErrTampered)
	refused("a row gone", bytes.Replace(join(join(lines[:2]...), join(lines[3:]...)), []byte(`"rows":8}}`),
		[]byte(`"rows":7}}`), 1), ErrTampered)
	refused("a word changed", bytes.Replace(whole, []byte("token:root"), []byte("token:toor"), 1), ErrTampered)
	refused("another cluster", bytes.Replace(whole, []byte("00ca0a"), []byte("00ca0b"), 1), ErrTampered)
}

// A file of seals only grows, survives a torn end, and refuses a seal that does not follow.
func TestCopies(t *testing.T) {
	path := filepath.Join(t.TempDir(), "seals")
	first := sealed(t, someRows(4, 1), Seal{})
	second := sealed(t, someRows(3, 5), first)
	other := second
	other.SealedAt = other.SealedAt.Add(time.Second)
	must(t, other.Sign(t.Context(), testKey(t, 7)))
	third := sealed(t, someRows(2, 8), other)

	c, err := OpenCopies(path)
	must(t, err)
	must(t, c.Add(t.Context(), []Seal{first, second}))
	for what, s := range map[string]Seal{"its successor's fork": third, "itself again": second} {
		if err := c.Add(t.Context(), []Seal{s}); !errors.Is(err, ErrTampered) {
			t.Errorf("%s: got %v", what, err)
		}
	}
	must(t, c.Close())
	whole, err := os.ReadFile(path)
	must(t, err)
	for cut := len(whole) - 1; cut > bytes.IndexByte(whole, '\n'); cut -= 37 {
		must(t, os.WriteFile(path, whole[:cut], 0o600))
		c, err := OpenCopies(path)
		must(t, err)
		if c.last.ID != 1 {
			t.Fatalf("cut at %d: the last is seal %d", cut, c.last.ID)
		}
		must(t, c.Add(t.Context(), []Seal{second}))
		must(t, c.Close())
		if again, _ := os.ReadFile(path); !bytes.Equal(again, whole) {
			t.Fatalf("cut at %d: the file is another", cut)
		}
	}
	must(t, os.WriteFile(path, bytes.Replace(whole, []byte(`"rows":4`), []byte(`"rows":5`), 1), 0o600))
	if _, err := OpenCopies(path); !errors.Is(err, ErrCopies) {
		t.Errorf("an edited file: got %v", err)
	}
	key := bytes.Repeat([]byte("k"), 32)
	for _, content := range [][]byte{key, append(bytes.Clone(whole), key...), append(bytes.Clone(whole), '{', 'x')} {
		must(t, os.WriteFile(path, content, 0o600))
		checked := CheckCopies(path)
		if _, err := OpenCopies(path); !errors.Is(err, ErrCopies) || checked == nil || checked.Error() != err.Error() {
			t.Errorf("a file that ends with something else: it is checked with %v, and opened with %v", checked, err)
		}
		if after, _ := os.ReadFile(path); !bytes.Equal(after, content) {
			t.Errorf("of %d bytes that are no seals, %d are left", len(content), len(after))
		}
	}
	// also after a power cut
	for _, content := range [][]byte{nil, whole, whole[:len(whole)-9], append(bytes.Clone(whole), 0, 0, 0)} {
		must(t, os.WriteFile(path, content, 0o600))
		if err := CheckCopies(path); err != nil {
			t.Errorf("%d bytes of seals: got %v", len(content), err)
		}
		if after, _ := os.ReadFile(path); !bytes.Equal(after, content) {
			t.Error("the check has changed the file")
		}
		c, err := OpenCopies(path)
		must(t, err)
		must(t, c.Close())
	}
	must(t, os.WriteFile(path, whole, 0o600))
	must(t, os.Chmod(path, 0o644))
	if err := CheckCopies(path); !errors.Is(err, ErrCopies) {
		t.Errorf("mode 0644 is checked with %v", err)
	}
	if _, err := OpenCopies(path); !errors.Is(err, ErrCopies) || !strings.Contains(err.Error(), "open to others") {
		t.Errorf("mode 0644: got %v", err)
	}
}

// Decoding any text ends in an entry or an error, and an entry that was read is written again the same.
func FuzzDecodeEntry(f *testing.F) {
	path := filepath.Join(f.TempDir(), "log.jsonl")
	writeExport(f, path)
	text, err := os.ReadFile(path)
	must(f, err)
	for line := range bytes.Lines(text) {
		f.Add(line)
	}
	f.Add([]byte(`{"leaf":{"prune":1,"system_id":"1","month":"2026-11","tx":"1","id":1,"hash":"` +
		strings.Repeat("00", 32) + `"}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		e, err := decodeEntry(line)
		if err != nil {
			return
		}
		var out bytes.Buffer
		w, err := NewWriter(&out, Header{})
		must(t, err)
		if e.Row != nil {
			if _, err := e.Row.Leaf(); err != nil {
				return // a detail that is no JSON
			}
		}
		if err := w.Write(e); err != nil {
			return // a year JSON has no form for
		}
		must(t, w.Close())
		again, err := decodeEntry(bytes.Split(out.Bytes(), []byte("\n"))[1])
		must(t, err)
		switch {
		case e.Seal != nil:
			if e.Seal.ComputeHash() != again.Seal.ComputeHash() {
				t.Errorf("the seal is another after writing it: %s", line)
			}
		case e.Row != nil:
			before, _ := e.Row.Leaf()
			if after, err := again.Row.Leaf(); err != nil || before != after {
				t.Errorf("the row is another after writing it: %s", line)
			}
		}
	})
}

func BenchmarkLeaf(b *testing.B) {
	rows := someRows(2, 1)
	for i := 0; b.Loop(); i++ {
		if _, err := rows[i%2].Leaf(); err != nil {
			b.Fatal(err)
		}
	}
}
