package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyperiondb/vault/internal/testfolder"
)

// TestMain also runs the baselines, which are this program, started again.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 1 && os.Args[1] == "serve":
		main()
		return
	case len(os.Args) > 1 && os.Args[1] == "server":
		serveStandIn(os.Args[2])
		return
	case len(os.Args) > 1 && os.Args[1] == "kv":
		putStandIn(os.Args[1:])
		return
	}
	inMemory = testfolder.Parent()
	os.Exit(m.Run())
}

// A short run of everything that needs no pgbench, with a peer, ends in the table and the file.
func TestRoundsFromEndToEnd(t *testing.T) {
	peer := newStandIn(t, "s.peer-token")
	t.Setenv("BENCH_PEER_URL", peer.URL)
	t.Setenv("BENCH_PEER_TOKEN", "s.peer-token")
	t.Setenv("BENCH_PEER_PATH", "/v1/secret/data/bench")
	other, err := testfolder.Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	file, profiles := filepath.Join(t.TempDir(), "figures", "bench.json"), filepath.Join(t.TempDir(), "profiles")
	var out, progress strings.Builder
	err = run(t.Context(), []string{"-rounds", "1", "-slice", "100ms", "-secrets", "8", "-due", "32", "-apps", "8",
		"-rest", "2s", "-json", file, "-profile", profiles, "-other", filepath.Join(other, "vaultd"), "-only",
		"^(bare|query|read .*|verify|idle|peer|put|rotate|read, rotating|vaultctl put)$"}, &out, &progress)
	if err != nil {
		t.Fatalf("%v\n%s", err, &progress)
	}
	if strings.Contains(out.String()+progress.String(), "s.peer-token") {
		t.Error("the peer's token is shown")
	}
	if !strings.Contains(progress.String(), "round 1 of 1") ||
		!strings.Contains(out.String(), "reads at 64 connections, of bare") {
		t.Errorf("got\n%s\n%s", &progress, &out)
	}
	if p, err := os.ReadFile(filepath.Join(profiles, readInterval+".pprof")); err != nil || len(p) == 0 {
		t.Errorf("got a profile of %d bytes, %v", len(p), err)
	}
	var got report
	mustReadJSON(t, file, &got)
	rows := map[cell]row{}
	for _, r := range got.Rows {
		if r.Figures[perSecond].Median <= 0 && r.Figures[corePercent].Median <= 0 {
			t.Errorf("%v did nothing: %+v", r.cell, r.Figures)
		}
		rows[r.cell] = r
	}
	for _, subject := range []string{bareHTTP, oneQuery, readOff, readInterval, readOther, readAlways, readAsked, verify,
		peerRead} {
		for _, n := range []int{1, 16, 64} {
			if _, found := rows[cell{subject, n}]; !found {
				t.Errorf("no row of %s at %d connections", subject, n)
			}
		}
	}
	command := rows[cell{cliPut, 1}]
	for _, f := range []figure{p50, daemonCPU, postgresCPU} {
		if command.Figures[f].Median <= 0 {
			t.Errorf("%s of %v is %+v", f, command.cell, command.Figures)
		}
	}
	always := rows[cell{readAlways, 64}]
	for _, f := range []figure{p50, p99, daemonCPU, postgresCPU, shippingCPU, peakMB} {
		if always.Figures[f].Median <= 0 {
			t.Errorf("%s of %v is %+v", f, always.cell, always.Figures[f])
		}
	}
	if always.Against["bare"].Median <= 0 || always.Against["query"].Median <= 0 {
		t.Errorf("%v stands against nothing: %+v", always.cell, always.Against)
	}
	// Aims that need pgbench or the peer's program have no verdict; the others have.
	if got, want := len(got.Aims), len(aims())-3; got != want {
		t.Errorf("got %d verdicts, want %d", got, want)
	}
}

func mustReadJSON(t *testing.T, file string, into any) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatal(err)
	}
}

func TestUsageIsRefused(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"race"}, `no command "race"`},
		{[]string{"-rounds", "0"}, "at least one round"},
		{[]string{"-due", "3"}, "32 due rotations"},
		{[]string{"-apps", "0"}, "-apps: "},
		{[]string{"-rest", "0s"}, "-rest: "},
		{[]string{"-only", "("}, "-only: "},
		{[]string{"-bytes", "0"}, "-bytes: "},
		{[]string{"-conns", "16,0"}, "-conns: "},
		{[]string{"-conns", "16,16"}, "-conns: "},
		{[]string{"-other", "/no/vaultd"}, "-other: "},
		{[]string{"-other", "/tmp"}, "-other: "},
		{[]string{"-conns", ""}, "-conns: "},
		{[]string{"-profile", "/dev/null/x"}, "-profile: "},
		{[]string{"-quick", "more"}, `unexpected "more"`},
		{[]string{"sustained", "-for", "10ms"}, "-for: at least 900ms"},
		{[]string{"sustained", "-only", "nothing"}, "no subject matches"},
		{[]string{"sustained", "-only", "("}, "-only: "},
		{[]string{"sustained", "-conns", "0"}, "-conns: "},
		{[]string{"sustained", "more"}, `unexpected "more"`},
		{[]string{"serve"}, "serve bare, or serve query"},
		{[]string{"serve", "other"}, `no baseline "other"`},
	} {
		var out strings.Builder
		if err := run(t.Context(), c.args, &out, &out); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v, want %q", c.args, err, c.want)
		}
	}
}
