package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The tests below run this test binary as process 1 would run vaultd: the environment says which part a process plays.
const part = "VAULT_TEST_PART"

func init() {
	switch os.Getenv(part) {
	case "init":
		os.Setenv(part, os.Getenv(part+"_CHILD"))
		os.Exit(superviseAsInit(os.Args))
	case "exits":
		os.Exit(5)
	case "dies":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		time.Sleep(time.Minute)
	case "waits": // for a signal, as the daemon does; each line that it prints is one that it got
		signals := notified()
		fmt.Println("ready")
		for s := range signals {
			fmt.Println(s)
			if s == syscall.SIGTERM {
				os.Exit(0)
			}
		}
	}
}

func initCommand(child string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), part+"=init", part+"_CHILD="+child)
	cmd.Stderr = os.Stderr
	return cmd
}

func TestInitEndsAsTheDaemonDoes(t *testing.T) {
	for child, want := range map[string]int{"exits": 5, "dies": 128 + 9} {
		cmd := initCommand(child)
		_ = cmd.Run() // its exit code is what counts
		if got := cmd.ProcessState.ExitCode(); got != want {
			t.Errorf("%s: got exit code %d, want %d", child, got, want)
		}
	}
}

func TestInitPassesSignalsOn(t *testing.T) {
	cmd := initCommand("waits")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	next := func() string { lines.Scan(); return lines.Text() }
	if got := next(); got != "ready" {
		t.Fatalf("got %q, want the child ready", got)
	}
	for _, s := range []syscall.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGHUP, syscall.SIGTERM} {
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		if got := next(); !strings.EqualFold(got, s.String()) {
			t.Errorf("got %q, want %q passed on", got, s)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("got %v, want the daemon's exit code, 0", err)
	}
}

func notified() <-chan os.Signal {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM)
	return signals
}
