package rowcache

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/hyperiondb/vault/internal/testfolder"
)

// mutants break one rule of the package doc each, in the process whose mutantSetting has their name. A sleep makes the
// moment longer that a preempted goroutine has. They are applied one after the other, so they may change one place.
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
	if MUTATED {
		time.Sleep(time.Duration(c.now() % 30e6))
		confirmed = c.confirmed.Load()
		if confirmed == nil {
			return Answer{}, absent, 0
		}
	}
`, false},
	{"a long time between confirmation and entry", "cache.go", `	e := s.get(name)
`, `	if MUTATED {
		time.Sleep(time.Duration(c.now() % 30e6))
	}
	e := s.get(name)
`, true},
	{"time taken after the poll", "follow.go", `	return c.process(r, p), nil
`, `	if MUTATED {
		r.at = c.now()
	}
	return c.process(r, p), nil
`, false},
	{"confirmed before the names are dropped", "follow.go", `	case before == nil:
`, `	case MUTATED && before != nil && !p.Overflow && before.xmin >= p.Floor && before.scope == p.Scope && !p.All:
		c.confirmed.Store(&confirmation{at: r.at, epoch: p.Epoch, clock: p.Now.UnixNano() - r.at})
		time.Sleep(5 * time.Millisecond)
		for _, name := range p.Names {
			c.drop(name, named)
		}
	case before == nil:
`, false},
	{"loads that are not doomed", "shard.go", `	s.loads[name].doom()
`, `	if !MUTATED {
		s.loads[name].doom()
	}
`, false},
	{"loads of one name that end in another order than they began", "cache.go", `	s.loads[name].doom()
`, `	if !MUTATED {
		s.loads[name].doom()
	}
`, false},
	{"entries older than what was shown", "cache.go", `!old.reading.Shows(r)`, `!MUTATED && !old.reading.Shows(r)`, false},
	{"no floor", "follow.go", `before.xmin < p.Floor`, `!MUTATED && before.xmin < p.Floor`, false},
	{"rows of another session stay", "follow.go", `		c.dropAll(newSession)
`, `		if MUTATED {
			c.stats.dropsOfAll[newSession].Add(1) // which says whether a run was long enough
		} else {
			c.dropAll(newSession)
		}
`, false},
	{"names since the last poll, not since its xmin", "follow.go", `	c.polled, c.failures = now, 0
`, `	if MUTATED {
		now.xmin += 3
	}
	c.polled, c.failures = now, 0
`, false},
	{"position of the same poll", "follow.go", `		reached = before.position`, `		reached = before.position
		if MUTATED {
			reached = p.Position
		}
`, false},
	{"a position needs no later snapshot", "cache.go", `a.Fresh || a.MinLSN > confirmed.reached`,
		`a.Fresh || !MUTATED && a.MinLSN > confirmed.reached`, false},
	{"epoch of the poll for newer rows", "cache.go", `confirmed.at >= e.done || confirmed.epoch == epoch`,
		`MUTATED || confirmed.at >= e.done || confirmed.epoch == epoch`, false},
	{"ended versions stay", "cache.go", `there >= e.ends`, `!MUTATED && there >= e.ends`, false},
	{"a change of this process is not dropped", "cache.go", `{ c.drop(name, changedHere) }`, `{
	if !MUTATED {
		c.drop(name, changedHere)
	}
}`, false},
}

// mutantSetting is an environment variable with the name of the mutant that is to run; without it the rules hold.
const mutantSetting = "ROWCACHE_MUTANT"

// mutatedTests builds this package's tests with all mutants in them, since a build for each takes longer than its run.
func mutatedTests(t *testing.T) (program string) {
	t.Helper()
	dir := t.TempDir()
	sources := map[string]string{"mutated.go": "package rowcache\n\nimport \"os\"\n\nvar mutant = os.Getenv(\"" +
		mutantSetting + "\")\n"}
	for _, m := range mutants {
		if _, there := sources[m.file]; !there {
			source, err := os.ReadFile(m.file)
			if err != nil {
				t.Fatal(err)
			}
			sources[m.file] = string(source)
		}
		if n := strings.Count(sources[m.file], m.from); n != 1 {
			t.Fatalf("%s: %s has the text %d times, want once:\n%s", m.name, m.file, n, m.from)
		}
		to := strings.ReplaceAll(m.to, "MUTATED", fmt.Sprintf("(mutant == %q)", m.name))
		sources[m.file] = strings.Replace(sources[m.file], m.from, to, 1)
	}
	replaced := map[string]string{}
	for file, text := range sources {
		original, err := filepath.Abs(file)
		if err != nil {
			t.Fatal(err)
		}
		replaced[original] = filepath.Join(dir, file)
		if err := os.WriteFile(replaced[original], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replaced})
	if err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(dir, "overlay")
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	program = filepath.Join(dir, "mutated.test")
	build := testfolder.Go("test", "-c", "-overlay", list, "-vet=off", "-o", program, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}

// The checker finds every mutant, so what it finds correct is. It may take more runs than the rules are tested with,
// until one has the fault: of the rarest mutant, every second run has it.
func TestTheCheckerFindsMutants(t *testing.T) {
	program := mutatedTests(t)
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			checker := exec.Command(program, "-test.run", "^TestAnswersAreNeverOld$", "-test.failfast")
			if !m.holds {
				checker.Args = append(checker.Args, "-test.count=5")
			}
			checker.Env = append(os.Environ(), mutantSetting+"="+m.name)
			out, err := checker.CombinedOutput()
			found := regexp.MustCompile(`never_old_test.go:\d+: .*(committed|ended)`).Match(out)
			if err == nil == found || found == m.holds {
				t.Errorf("got %v, want the checker to fail: %v\n%s", err, !m.holds, out)
			}
		})
	}
}
