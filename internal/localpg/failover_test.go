package localpg

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestKillAndRestart(t *testing.T) {
	eachVersion(t, func(t *testing.T, bin Binaries) {
		c := mustOpen(t, Options{Standbys: 1, Binaries: bin})
		primary, standby := c.Primary(), c.Standbys()[0]
		mustWrite(t, primary, "before")
		mustReplicate(t, primary, standby)
		mustConnect(t, primary) // one more child to end
		server, standbyPid := primary.Pid(), standby.Pid()
		family, err := children(server)
		if err != nil || len(family) < 3 {
			t.Fatalf("got children %v, %v, want some", family, err)
		}

		mustKill(t, primary)
		for _, pid := range append(family, server) {
			if alive(pid) {
				t.Errorf("process %d of the killed server is alive", pid)
			}
		}
		if got := standby.Pid(); got != standbyPid {
			t.Errorf("the standby's process: got %d, want still %d", got, standbyPid)
		}
		if got, want := mustRead(t, standby), "before"; got != want {
			t.Errorf("on the standby: got %q, want %q", got, want)
		}

		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		mustWrite(t, primary, "after")
		mustReplicate(t, primary, standby)
		if got, want := mustRead(t, standby), "before after"; got != want {
			t.Errorf("on the standby: got %q, want %q", got, want)
		}

		mustKill(t, standby)
		mustWrite(t, primary, "later")
		mustStart(t, c)
		mustReplicate(t, primary, standby)
		if got, want := mustRead(t, standby), "before after later"; got != want {
			t.Errorf("on the standby: got %q, want %q", got, want)
		}
	})
}

// A server killed from outside leaves its children for a moment and its postmaster.pid for good.
func TestStaleProcessFile(t *testing.T) {
	eachVersion(t, func(t *testing.T, bin Binaries) {
		c := mustOpen(t, Options{Binaries: bin})
		n := c.Primary()
		mustWrite(t, n, "kept")
		mustConnect(t, n)

		if err := unix.Kill(n.Pid(), unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the server is seen as ended", func() bool { return !n.Running() })
		mustStart(t, c)

		// After a reboot the number in the file is any program of the server user ...
		stranger, end := startAs(t, c.user, "/bin/sleep", "600")
		mustCrashAs(t, n, stranger)
		mustStart(t, c)
		if !alive(stranger) {
			t.Error("a stranger's process was ended")
		}

		// ... or a zombie.
		mustCrashAs(t, n, stranger)
		if err := unix.Kill(stranger, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the stranger is a zombie", func() bool { return !alive(stranger) })
		mustStart(t, c)
		end()

		if got, want := mustRead(t, n), "kept"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// mustCrashAs kills a node and makes its process file name another process.
func mustCrashAs(t *testing.T, n *Node, pid int) {
	t.Helper()
	old := strconv.Itoa(n.Pid())
	mustKill(t, n)
	path := filepath.Join(n.DataDir(), "postmaster.pid")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rest, ok := strings.CutPrefix(string(raw), old+"\n")
	if !ok {
		t.Fatalf("got process file %q, want it to begin with %s", raw, old)
	}
	if err := os.WriteFile(path, []byte(strconv.Itoa(pid)+"\n"+rest), 0o600); err != nil {
		t.Fatal(err)
	}
	if n.Running() {
		t.Fatal("a stranger's process was taken for the server")
	}
}

func TestFailoverAndReturn(t *testing.T) {
	eachVersion(t, func(t *testing.T, bin Binaries) {
		dir := newDir(t)
		c := mustOpen(t, Options{Dir: dir, Standbys: 2, Binaries: bin})
		old, heir, other := c.Primary(), c.Standbys()[0], c.Standbys()[1]
		mustWrite(t, old, "before")
		mustReplicate(t, old, heir)
		mustReplicate(t, old, other)

		mustKill(t, old)
		if err := heir.Promote(t.Context()); err != nil {
			t.Fatal(err)
		}
		if c.Primary() != heir {
			t.Fatalf("primary: got %s, want %s", c.Primary().Name(), heir.Name())
		}
		mustWrite(t, heir, "after")
		mustReplicate(t, heir, other)
		if got, want := mustRead(t, other), "before after"; got != want {
			t.Errorf("on the other standby: got %q, want %q", got, want)
		}
		if err := heir.Promote(t.Context()); err != nil {
			t.Errorf("promoting the primary: %v", err)
		}

		// The new order outlives the program, and the old primary stays out of it.
		mustStop(t, c)
		mustClose(t, c)
		c = mustOpen(t, Options{Dir: dir})
		heir, old = c.Primary(), mustNode(t, c, "primary")
		if heir.Name() != "standby1" {
			t.Fatalf("primary after reuse: got %s, want standby1", heir.Name())
		}
		if old.Running() {
			t.Fatal("the old primary was started beside the new one")
		}
		if err := heir.Rebuild(t.Context()); err == nil {
			t.Fatal("the primary let itself be rebuilt")
		}

		if err := old.Rebuild(t.Context()); err != nil {
			t.Fatal(err)
		}
		mustWrite(t, heir, "together")
		mustReplicate(t, heir, old)
		if got, want := mustRead(t, old), "before after together"; got != want {
			t.Errorf("on the old primary: got %q, want %q", got, want)
		}

		// And back, in order.
		if err := heir.Stop(t.Context(), Fast); err != nil {
			t.Fatal(err)
		}
		if err := old.Promote(t.Context()); err != nil {
			t.Fatal(err)
		}
		mustWrite(t, old, "home")
		if err := heir.Rebuild(t.Context()); err != nil {
			t.Fatal(err)
		}
		mustReplicate(t, old, heir)
		if got, want := mustRead(t, heir), "before after together home"; got != want {
			t.Errorf("on the other node: got %q, want %q", got, want)
		}
	})
}

func mustNode(t *testing.T, c *Cluster, name string) *Node {
	t.Helper()
	for _, n := range c.Nodes() {
		if n.Name() == name {
			return n
		}
	}
	t.Fatalf("no node %q", name)
	return nil
}

// A standby that was promoted by hand must not come up as a second primary.
func TestStartRefusesASecondPrimary(t *testing.T) {
	c := mustOpen(t, Options{Standbys: 1, Binaries: anyVersion(t)})
	standby := c.Standbys()[0]
	mustExec(t, standby, `select pg_promote()`)
	mustStop(t, c)
	wantError(t, c.Start(t.Context()), ErrUnusable)
	for _, n := range c.Nodes() {
		if n.Running() {
			t.Errorf("%s is running after a refusal", n.Name())
		}
	}

	// Saying which one is meant settles it.
	if err := standby.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, c.Primary(), "settled")
	mustStart(t, c)
	if old := c.Standbys()[0]; old.Name() != "primary" || old.Running() {
		t.Errorf("the old primary: got %q, running %v, want it left alone", old.Name(), old.Running())
	}
}
