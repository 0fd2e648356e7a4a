package rowcache

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/hyperiondb/vault/internal/testfolder"
)

// mutants break one rule of the package doc each. A sleep makes the moment longer that a preempted goroutine has.
var mutants = []struct {
	name     string
	file     string
	from, to string
	holds    bool // it breaks no rule: the sleep alone
}{
	{"confirmation loaded after the entry", "cache.go", `	e := s.get(name)
	if e == nil {
		return Answer{}, absent, 0
	}
`, `	e := s.get(name)
	if e == nil {
		return Answer{}, absent, 0
	}
	time.Sleep(time.Duration(c.now() % 30e6))
	confirmed = c.confirmed.Load()
	if confirmed == nil {
		return Answer{}, absent, 0
	}
`, false},
	{"a long time between confirmation and entry", "cache.go", `	e := s.get(name)
`, `	time.Sleep(time.Duration(c.now() % 30e6))
	e := s.get(name)
`, true},
	{"time taken after the poll", "follow.go", `	return c.process(r, p), nil
`, `	r.at = c.now()
	return c.process(r, p), nil
`, false},
	{"confirmed before the names are dropped", "follow.go", `	case before == nil:
		c.dropAll(newSession)
`, `	case before != nil && !p.Overflow && before.xmin >= p.Floor && before.scope == p.Scope && !p.All:
		c.confirmed.Store(&confirmation{at: r.at, epoch: p.Epoch, clock: p.Now.UnixNano() - r.at})
		time.Sleep(5 * time.Millisecond)
		for _, name := range p.Names {
			c.drop(name, named)
		}
	case before == nil:
		c.dropAll(newSession)
`, false},
	{"loads that are not doomed", "shard.go", `	s.loads[name].doom()
`, ``, false},
	{"loads of one name that end in another order than they began", "cache.go", `	s.loads[name].doom()
`, ``, false},
	{"entries older than what was shown", "cache.go", `!old.reading.Shows(r)`, `false`, false},
	{"no floor", "follow.go", `before.xmin < p.Floor`, `false`, false},
	{"rows of another session stay", "follow.go", `		c.dropAll(newSession)
`, ``, false},
	{"names since the last poll, not since its xmin", "follow.go", `xmin: p.XMin,`, `xmin: p.XMin + 3,`, false},
	{"position of the same poll", "follow.go", `reached = before.position`, `reached = p.Position`, false},
	{"a position needs no later snapshot", "cache.go", `a.Fresh || a.MinLSN > confirmed.reached`, `a.Fresh`, false},
	{"epoch of the poll for newer rows", "cache.go", `confirmed.at >= e.done || confirmed.epoch == epoch`, `true`, false},
	{"ended versions stay", "cache.go", `there >= e.ends`, `false`, false},
	{"a change of this process is not dropped", "cache.go", `{ c.drop(name, changedHere) }`, `{}`, false},
}

// The checker finds every mutant, so what it finds correct is.
func TestTheCheckerFindsMutants(t *testing.T) {
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			source, err := os.ReadFile(m.file)
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(source), m.from); n != 1 {
				t.Fatalf("%s has the text %d times, want once:\n%s", m.file, n, m.from)
			}
			dir := t.TempDir()
			mutant := filepath.Join(dir, m.file)
			original, err := filepath.Abs(m.file)
			if err != nil {
				t.Fatal(err)
			}
			overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{original: mutant}})
			if err != nil {
				t.Fatal(err)
			}
			for path, text := range map[string][]byte{
				mutant: []byte(strings.Replace(string(source), m.from, m.to, 1)), filepath.Join(dir, "overlay"): overlay,
			} {
				if err := os.WriteFile(path, text, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			out, err := testfolder.Go("test", "-overlay", filepath.Join(dir, "overlay"), "-count=1", "-vet=off",
				"-run", "^TestAnswersAreNeverOld$", ".").CombinedOutput()
			found := regexp.MustCompile(`never_old_test.go:\d+: .*(committed|ended)`).Match(out)
			if err == nil == found || found == m.holds {
				t.Errorf("got %v, want the checker to fail: %v\n%s", err, !m.holds, out)
			}
		})
	}
}
