package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The unit of the restore drill has a command line that this vaultctl takes.
func TestRestoreDrillUnit(t *testing.T) {
	text, err := os.ReadFile("../../deploy/vault-restore-drill.service")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^ExecStart=/usr/bin/vaultctl (.*) \$DRILL_ARGS$`).FindSubmatch(text)
	if line == nil {
		t.Fatal("the unit does not start vaultctl")
	}
	cmd, args, err := newRootCmd(&app{}).Find(strings.Fields(string(line[1])))
	if err != nil || cmd.Name() != "doctor" {
		t.Fatalf("got command %q, error %v, want doctor", cmd.Name(), err)
	}
	if err := cmd.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	for _, flag := range []string{"restore", "metrics-file"} {
		if !cmd.Flags().Changed(flag) {
			t.Errorf("the unit's command has no --%s", flag)
		}
	}
}

// A failed drill keeps the time of the last success; the alarm is set on its age.
func TestDrillMetricsKeepTheLastSuccess(t *testing.T) {
	path := t.TempDir() + "/drill.prom"
	var drill drilling
	began := time.Unix(1_800_000_000, 0)
	for i, step := range []struct {
		success bool
		want    string // the time of the last success
	}{{false, ""}, {true, "1800000001"}, {false, "1800000001"}, {true, "1800000003"}} {
		if err := drill.writeMetrics(path, step.success, began.Add(time.Duration(i)*time.Second)); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if match := lastSuccess().FindSubmatch(text); match != nil {
			got = string(match[1])
		}
		if got != step.want {
			t.Errorf("after drill %d: got last success %q, want %q", i, got, step.want)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("got mode %v, error %v, want 0644: another user reads it", info.Mode(), err)
	}
}
