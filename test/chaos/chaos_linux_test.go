package chaos

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// putHits are the failpoints that a put passes; a rotation passes all.
func putHits() []string {
	return []string{"seal.done", "write.begun", "write.before_commit", "write.committed"}
}

// TestChaos breaks a cluster under load and has the oracle judge it. Without a setting it is short: the worst faults
// once with synchronous replication, and a few with asynchronous. `make chaos` sets CHAOS_TIME and CHAOS_MODE (sync,
// the default, or async), and CHAOS_SEED to repeat a schedule of faults; CHAOS_FAULTS, a regular expression, selects
// faults.
func TestChaos(t *testing.T) {
	seed := uint64(time.Now().UnixNano() % 1_000_000)
	if text := os.Getenv("CHAOS_SEED"); text != "" {
		seed = mustParse(t, text)
	}
	mode := os.Getenv("CHAOS_MODE")
	if mode != "" && mode != "sync" && mode != "async" {
		t.Fatalf("CHAOS_MODE=%q: sync or async", mode)
	}
	built := mustBuild(t)
	if text := os.Getenv("CHAOS_TIME"); text != "" {
		span, err := time.ParseDuration(text)
		if err != nil || span <= 0 {
			t.Fatalf("CHAOS_TIME=%q: a time such as 10m", text)
		}
		runChaos(t, built, plan{seed: seed, synchronous: mode != "async", span: span,
			faults: matching(t, os.Getenv("CHAOS_FAULTS"))})
		return
	}
	t.Run("sync", func(t *testing.T) {
		runChaos(t, built, plan{seed: seed, synchronous: true, faults: named(t,
			"promotion", "promotion after a canceled wait", "postmaster killed", "disk full", "kms down",
			"vaultd dies at write.committed", "vaultd frozen past its claim",
			"vaultd dies at rotation.target_set", "vaultctl dies at write.begun", "vaultctl dies at write.committed",
			"commit failed, FIN", "commit done, reply lost, RST", "commit done, reply lost, hang",
			"vault.complete_rotation done, reply lost, RST")})
	})
	t.Run("async", func(t *testing.T) {
		runChaos(t, built, plan{seed: seed, synchronous: false,
			faults: named(t, "promotion of a standby that is behind", "postmaster killed", "commit done, reply lost, RST")})
	})
}

func mustParse(t *testing.T, text string) uint64 {
	t.Helper()
	seed, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("CHAOS_SEED=%q: a number", text)
	}
	return seed
}

// A seed determines the faults, their order and their parameters.
func TestSeedRepeatsTheSchedule(t *testing.T) {
	describe := func(seed uint64) string {
		var all []string
		for f, choices := range schedule(seed, allFaults()) {
			if len(all) == 3*len(allFaults()) {
				break
			}
			all = append(all, fmt.Sprint(f.kind, choices.Uint64()))
		}
		return strings.Join(all, "\n")
	}
	first, again := describe(1), describe(1)
	if first != again {
		t.Error("a seed has two schedules")
	}
	if first == describe(2) {
		t.Error("two seeds have one schedule")
	}
}

// matching selects faults by an expression; "" selects all.
func matching(t *testing.T, expression string) []fault {
	t.Helper()
	pattern, err := regexp.Compile(expression)
	if err != nil {
		t.Fatalf("CHAOS_FAULTS: %v", err)
	}
	some := slices.DeleteFunc(allFaults(), func(f fault) bool { return !pattern.MatchString(f.kind) })
	if len(some) == 0 {
		t.Fatalf("CHAOS_FAULTS=%q: no fault is called so", expression)
	}
	return some
}

// named selects faults by their kinds, and fails on an unknown kind.
func named(t *testing.T, kinds ...string) []fault {
	t.Helper()
	faults := allFaults()
	var some []fault
	for _, kind := range kinds {
		i := slices.IndexFunc(faults, func(f fault) bool { return f.kind == kind })
		if i < 0 {
			t.Fatalf("no fault %q", kind)
		}
		some = append(some, faults[i])
	}
	return some
}

// plan is a run, for a span, or (span 0) until each of its faults was made once.
type plan struct {
	seed        uint64
	synchronous bool
	span        time.Duration
	faults      []fault
}

func (p plan) mode() string {
	if p.synchronous {
		return "sync"
	}
	return "async"
}

func runChaos(t *testing.T, built string, p plan) {
	say := func(format string, args ...any) {
		fmt.Println(time.Now().Format("15:04:05.000"), fmt.Sprintf(format, args...))
	}
	say("chaos: mode %s, seed %d; CHAOS_MODE=%[1]s CHAOS_SEED=%[2]d repeats the schedule", p.mode(), p.seed)
	l := mustLocal(t, built, p.synchronous)
	say("the cluster is up")
	ledger, timeline := &Ledger{}, &Timeline{}
	w := &Workload{Cluster: l.Cluster, Ledger: ledger, Timeline: timeline, Seed: p.seed, Writers: 6, CLIWriters: 2,
		Crashes: putHits(), Rotator: "exec program=keep adopt=yes"}
	if err := w.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.healthy(t.Context()); err != nil {
		t.Fatal(err)
	}

	working, stop := context.WithCancel(t.Context())
	defer stop()
	var running sync.WaitGroup
	running.Go(func() {
		if err := w.Run(working); err != nil {
			t.Errorf("the workload: %v", err)
		}
	})
	began := time.Now()
	breaking, enough, count := t.Context(), func() {}, len(p.faults)
	if p.span > 0 {
		breaking, enough = context.WithTimeout(t.Context(), p.span)
		count = 0
	}
	defer enough()
	n := &nemesis{local: l, timeline: timeline, workload: w, log: say}
	broken := n.run(breaking, p.seed, p.faults, count)
	stop()
	running.Wait()
	say("the workload has ended; judging")
	if broken != nil {
		t.Fatalf("the cluster did not recover: %v", broken)
	}
	if err := l.healthy(t.Context()); err != nil {
		t.Fatalf("at the end: %v", err)
	}

	report, err := Conclude(t.Context(), l.Cluster, ledger, timeline)
	if err != nil {
		t.Fatal(err)
	}
	report.Title = fmt.Sprintf("chaos on PostgreSQL %d, %s replication, %s, seed %d: "+
		"8 writers, 4 rotation workers, 3 nodes",
		l.servers.Binaries().Major, map[bool]string{true: "synchronous", false: "asynchronous"}[p.synchronous],
		time.Since(began).Round(time.Second), p.seed)
	if l.noDisks != "" {
		report.Skipped = append(report.Skipped, l.noDisks)
	}
	if report.Async {
		if report.Warned = l.durabilityWarning(t); report.Warned == "" {
			t.Error("vaultctl status does not say that acknowledged writes can be lost")
		}
	}
	if err := report.Print(os.Stdout); err != nil {
		t.Error(err)
	}
	if len(report.Verdict.Violations) > 0 {
		t.Errorf("%d violations; the table shows them", len(report.Verdict.Violations))
	}
	if report.Verdict.Acked == 0 || report.Verdict.Rotations == 0 {
		t.Error("nothing was written or rotated: this proves nothing")
	}
	if p.synchronous { // the short asynchronous run may be over before a standby was asked
		if a := report.Verdict.Apps; a.Ended == 0 || a.AfterReplay == 0 || a.Outside == 0 || len(a.FirstRefusals) == 0 {
			t.Errorf("no token was revoked, or none was refused after it: this proves nothing: %+v", a)
		}
		l.checkTargets(t)
	}
	l.checkLogs(t, w.apps.tokens())
}

// durabilityWarning is what vaultctl status says about acknowledged writes that could be lost.
func (l *local) durabilityWarning(t *testing.T) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), l.Vaultctl, "status")
	command.Env = l.VaultctlEnv
	out, err := command.CombinedOutput()
	if err != nil {
		t.Errorf("vaultctl status: %v: %s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "a failover can lose acknowledged writes") {
			return strings.TrimSpace(strings.TrimPrefix(line, "warning: "))
		}
	}
	return ""
}

// checkLogs searches the log of every vaultd for a panic and for tokens.
func (l *local) checkLogs(t *testing.T, tokens []string) {
	t.Helper()
	for name, d := range l.daemons {
		text, err := os.ReadFile(d.log)
		if err != nil {
			t.Error(err)
		}
		if strings.Contains(string(text), "panic") {
			t.Errorf("%s: vaultd panicked: %s", name, filepath.Base(d.log))
		}
		if slices.ContainsFunc(tokens, func(token string) bool { return strings.Contains(string(text), token) }) {
			t.Errorf("%s: vaultd logged the token of an app: %s", name, filepath.Base(d.log))
		}
	}
}
