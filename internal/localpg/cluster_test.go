package localpg

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

func TestPrimaryAndStandby(t *testing.T) {
	eachVersion(t, func(t *testing.T, bin Binaries) {
		c := mustOpen(t, Options{Standbys: 1, Binaries: bin,
			Parameters: map[string]string{"work_mem": "5MB", "app.note": `it's a \ note`}})
		primary, standby := c.Primary(), c.Standbys()[0]
		if primary.Name() != "primary" || standby.Name() != "standby1" || len(c.Nodes()) != 2 {
			t.Fatalf("got %q, %q and %d nodes", primary.Name(), standby.Name(), len(c.Nodes()))
		}

		mustWrite(t, primary, "hello")
		mustReplicate(t, primary, standby)
		if got, want := mustRead(t, standby), "hello"; got != want {
			t.Errorf("on the standby: got %q, want %q", got, want)
		}
		for n, want := range map[*Node]bool{primary: false, standby: true} {
			if got, err := n.InRecovery(t.Context()); err != nil || got != want {
				t.Errorf("%s in recovery: got %v, %v, want %v", n.Name(), got, err, want)
			}
		}
		if got, want := mustAsk(t, primary, `select string_agg(slot_name || ' ' || active, ',') from pg_replication_slots`),
			"standby1 true"; got != want {
			t.Errorf("slots: got %q, want %q", got, want)
		}
		checkSettings(t, primary, bin)
		checkClosed(t, primary)
	})
}

func checkSettings(t *testing.T, n *Node, bin Binaries) {
	t.Helper()
	for setting, want := range map[string]string{
		"server_version":   bin.Version,
		"server_encoding":  "UTF8",
		"lc_collate":       "C",
		"data_checksums":   "on",
		"fsync":            "off",
		"wal_level":        "replica",
		"max_connections":  "60",
		"listen_addresses": "",
		"work_mem":         "5MB",
		"app.note":         `it's a \ note`,
	} {
		query := fmt.Sprintf(`select current_setting('%s')`, setting)
		if setting == "lc_collate" { // a property of the database and no longer a setting from 16 on
			query = `select datcollate from pg_database where datname = current_database()`
		}
		if got, _, _ := strings.Cut(mustAsk(t, n, query), " (Debian"); got != want {
			t.Errorf("%s: got %q, want %q", setting, got, want)
		}
	}
}

// checkClosed verifies that the server can only be reached through a socket in a private folder.
func checkClosed(t *testing.T, n *Node) {
	t.Helper()
	if got, want := mustAsk(t, n,
		`select count(*)::text from pg_hba_file_rules where type <> 'local' and auth_method <> 'reject'`), "0"; got != want {
		t.Errorf("rules that let remote clients in: got %s, want %s", got, want)
	}
	if conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(n.Port()))); err == nil {
		defer conn.Close()
		if pids, err := exec.Command("ss", "-ltnp").Output(); err == nil &&
			strings.Contains(string(pids), fmt.Sprintf("pid=%d,", n.Pid())) {
			t.Errorf("the server listens on TCP:\n%s", pids)
		}
	}
	for _, dir := range []string{n.SocketDir(), n.DataDir()} {
		info, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o700 || !n.c.user.owns(info) {
			t.Errorf("%q: got mode %v, want 0700 and the server user as owner", dir, info.Mode())
		}
	}
}

func TestServerDoesNotInheritTheEnvironment(t *testing.T) {
	t.Setenv("VAULTCTL_TOKEN", "must-not-be-passed-on")
	t.Setenv("PGOPTIONS", "-c work_mem=64kB")
	t.Setenv("PGDATA", "/nowhere")
	c := mustOpen(t, Options{Binaries: anyVersion(t)})
	out, err := exec.Command("ps", "eww", "-p", strconv.Itoa(c.Primary().Pid())).Output()
	if hasProc() {
		out, err = os.ReadFile(fmt.Sprintf("/proc/%d/environ", c.Primary().Pid()))
	}
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), "LC_ALL=C") {
		t.Errorf("got environment %q, want LC_ALL=C in it", out)
	}
	for _, name := range []string{"VAULTCTL_TOKEN", "PGOPTIONS", "PGDATA"} {
		if strings.Contains(string(out), name) {
			t.Errorf("the server's environment has %s", name)
		}
	}
}

// Without pg_basebackup a standby comes from a low-level backup. The oldest version usually has
// the program, so it is hidden here.
func TestStandbyWithoutBaseBackupProgram(t *testing.T) {
	eachVersion(t, func(t *testing.T, bin Binaries) {
		few := bin
		few.Dir = openFolder(t)
		for _, name := range []string{"initdb", "pg_ctl", "postgres"} {
			mustLink(t, bin.program(name), few.program(name))
		}
		c := mustOpen(t, Options{Binaries: few})
		mustWrite(t, c.Primary(), "before")
		mustExec(t, c.Primary(), `create unlogged table scratch as select generate_series(1, 1000) as n`)
		dir := c.Dir()
		mustClose(t, c)

		// Writes go on while the files are copied.
		stop := writeAllTheTime(t, c.Primary())
		c = mustOpen(t, Options{Dir: dir, Binaries: few, Standbys: 1})
		rows := stop()
		standby := c.Standbys()[0]
		mustReplicate(t, c.Primary(), standby)
		if got := mustAsk(t, standby, `select count(*)::text from busy`); got != strconv.Itoa(rows) {
			t.Errorf("rows on the standby: got %s, want %d", got, rows)
		}
		if got, want := mustRead(t, standby), "before"; got != want {
			t.Errorf("on the standby: got %q, want %q", got, want)
		}
		if _, err := os.Stat(filepath.Join(standby.DataDir(), "backup_manifest")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("got %v, want no trace of pg_basebackup", err)
		}
	})
}

// writeAllTheTime inserts rows until the returned function is called, which gives their number.
func writeAllTheTime(t *testing.T, n *Node) (stop func() int) {
	t.Helper()
	mustExec(t, n, `create table busy (n int, filler text)`)
	conn := mustConnect(t, n)
	quit := make(chan struct{})
	rows := 0
	var group errgroup.Group
	group.Go(func() error {
		for {
			select {
			case <-quit:
				return nil
			default:
			}
			if _, err := conn.Exec(t.Context(), `insert into busy values ($1, repeat('x', 2000))`, rows); err != nil {
				return err
			}
			rows++
		}
	})
	return func() int {
		close(quit)
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		if rows == 0 {
			t.Fatal("nothing was written in the meantime")
		}
		mustDisconnect(t, conn)
		return rows
	}
}

func TestStopModes(t *testing.T) {
	eachVersion(t, func(t *testing.T, bin Binaries) {
		c := mustOpen(t, Options{Binaries: bin})
		n := c.Primary()
		mustWrite(t, n, "one")

		// Smart waits for the client; the wait ends with its context.
		client := mustConnect(t, n)
		for end := time.Now().Add(time.Minute); ; { // until the server has logged the request
			short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			err := n.Stop(short, Smart)
			cancel()
			wantError(t, err, context.DeadlineExceeded)
			if strings.Contains(err.Error(), "received smart shutdown request") {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("got error %q, want the end of the log in it", err)
			}
		}
		if !n.Running() {
			t.Fatal("the server ended before its client did")
		}
		mustDisconnect(t, client)
		if err := n.Stop(t.Context(), Smart); err != nil {
			t.Fatal(err)
		}
		if n.Running() || n.Pid() != 0 {
			t.Fatal("running after Stop")
		}

		// Fast does not wait.
		mustStart(t, c)
		client = mustConnect(t, n)
		if err := n.Stop(t.Context(), Fast); err != nil {
			t.Fatal(err)
		}
		if err := client.Ping(t.Context()); err == nil {
			t.Error("a client outlived a fast stop")
		}

		// Immediate leaves the rest to recovery.
		mustStart(t, c)
		mustWrite(t, n, "two")
		if err := n.Stop(t.Context(), Immediate); err != nil {
			t.Fatal(err)
		}
		mustStart(t, c)
		if got, want := mustRead(t, n), "one two"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}

		if err := n.Stop(t.Context(), StopMode(9)); err == nil {
			t.Error("an unknown stop mode was accepted")
		}
	})
}

func TestStoppedNodesRefuse(t *testing.T) {
	c := mustOpen(t, Options{Standbys: 1, Binaries: anyVersion(t)})
	primary, standby := c.Primary(), c.Standbys()[0]
	mustStop(t, c)
	if err := c.Stop(t.Context(), Fast); err != nil {
		t.Errorf("stopping what is stopped: %v", err)
	}
	mustKill(t, primary)
	if _, err := primary.LSN(t.Context()); err == nil {
		t.Error("LSN of a stopped primary: got no error")
	}
	for name, err := range map[string]error{
		"WaitReady":  primary.WaitReady(t.Context()),
		"WaitReplay": standby.WaitReplay(t.Context(), "0/1"),
		"Rebuild":    standby.Rebuild(t.Context()),
	} {
		if !errors.Is(err, errNotRunning) {
			t.Errorf("%s: got error %v, want %v", name, err, errNotRunning)
		}
	}
	if err := standby.Promote(t.Context()); err == nil {
		t.Error("promoting a stopped standby: got no error")
	}
}

func TestWaitReplay(t *testing.T) {
	c := mustOpen(t, Options{Standbys: 1, Binaries: anyVersion(t)})
	primary, standby := c.Primary(), c.Standbys()[0]

	// Right after a switch the insert position is behind a page header that no record follows.
	mustWrite(t, primary, "x")
	mustExec(t, primary, `select pg_switch_wal()`)
	mustReplicate(t, primary, standby)

	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err := standby.WaitReplay(short, "FFFFFFFF/0")
	wantError(t, err, context.DeadlineExceeded)
	if !strings.Contains(err.Error(), "started streaming WAL") {
		t.Errorf("got error %q, want the end of the log in it", err)
	}
	for _, bad := range []string{"", "0", "0/", "0/G", "123456789/0", "0/1; select 1"} {
		if err := standby.WaitReplay(t.Context(), bad); err == nil || !strings.Contains(err.Error(), "not an LSN") {
			t.Errorf("LSN %q: got error %v, want a refusal", bad, err)
		}
	}
	if _, err := standby.LSN(t.Context()); err == nil {
		t.Error("LSN of a standby: got no error")
	}
	if err := primary.WaitReplay(t.Context(), "0/1"); err != nil {
		t.Errorf("on the primary: %v", err)
	}
}

func TestReachable(t *testing.T) {
	for _, test := range []struct {
		insert  string
		segment uint32
		want    string
	}{
		{"0/3000148", 16 << 20, "0/3000148"},
		{"0/3000028", 16 << 20, "0/3000000"}, // behind the long header that opens a segment
		{"0/3100028", 16 << 20, "0/3100028"}, // 40 bytes into a page that has a short header: a record
		{"0/3100028", 1 << 20, "0/3100000"},
		{"0/3002018", 16 << 20, "0/3002000"}, // behind a short header
		{"A/FF000028", 16 << 20, "A/FF000000"},
	} {
		if got, err := reachable(test.insert, test.segment); err != nil || got != test.want {
			t.Errorf("%s: got %s, %v, want %s", test.insert, got, err, test.want)
		}
	}
	if got, err := reachable("nonsense", 1<<20); err == nil {
		t.Errorf("got %s for nonsense", got)
	}
}

func TestReuse(t *testing.T) {
	eachVersion(t, func(t *testing.T, bin Binaries) {
		dir := newDir(t)
		c := mustOpen(t, Options{Dir: dir, Binaries: bin, Durable: true, Parameters: map[string]string{"work_mem": "5MB"}})
		mustWrite(t, c.Primary(), "kept")
		pid := c.Primary().Pid()
		mustClose(t, c)

		// Still running: taken over as it is, with another setting and one more standby.
		c = mustOpen(t, Options{Dir: dir, Standbys: 1, Parameters: map[string]string{"work_mem": "6MB"}})
		if got := c.Primary().Pid(); got != pid {
			t.Errorf("process of the primary: got %d, want still %d", got, pid)
		}
		if got := c.Binaries(); got != bin {
			t.Errorf("binaries: got %+v, want %+v", got, bin)
		}
		eventually(t, "the new setting is there", func() bool {
			return mustAsk(t, c.Primary(), `select current_setting('work_mem')`) == "6MB"
		})
		mustStop(t, c)
		mustClose(t, c)

		// Stopped, and nothing said but where it is.
		c = mustOpen(t, Options{Dir: dir})
		if got := len(c.Standbys()); got != 1 {
			t.Fatalf("got %d standbys, want 1", got)
		}
		mustReplicate(t, c.Primary(), c.Standbys()[0])
		if got, want := mustRead(t, c.Standbys()[0]), "kept"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		for setting, want := range map[string]string{"fsync": "on", "work_mem": "6MB"} {
			if got := mustAsk(t, c.Standbys()[0], `select current_setting('`+setting+`')`); got != want {
				t.Errorf("%s: got %q, want %q", setting, got, want)
			}
		}
	})
}

func TestCreateLoadStart(t *testing.T) {
	dir := newDir(t)
	c, err := Create(t.Context(), Options{Dir: dir, Standbys: 2, Binaries: anyVersion(t)})
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, c)
	for _, n := range c.Nodes() {
		if n.Running() {
			t.Errorf("%s is running after Create", n.Name())
		}
	}
	mustClose(t, c)

	c, err = Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, c)
	if got := len(c.Nodes()); got != 3 {
		t.Fatalf("got %d nodes, want 3", got)
	}
	if c.Primary().Running() {
		t.Error("Load has started a node")
	}
	mustStart(t, c)
	mustWrite(t, c.Primary(), "x")
	for _, n := range c.Standbys() {
		mustReplicate(t, c.Primary(), n)
	}
}

func TestStoppedStandbyCatchesUp(t *testing.T) {
	eachVersion(t, func(t *testing.T, bin Binaries) {
		c := mustOpen(t, Options{Standbys: 1, Binaries: bin})
		primary, standby := c.Primary(), c.Standbys()[0]
		mustWrite(t, primary, "early")
		if err := standby.Stop(t.Context(), Fast); err != nil {
			t.Fatal(err)
		}
		// More than enough that the primary would drop the log without the slot.
		mustExec(t, primary, `create table bulk as select repeat('x', 1000) as filler from generate_series(1, 40000)`)
		for range 3 {
			mustExec(t, primary, `select pg_switch_wal()`)
			mustExec(t, primary, `checkpoint`)
		}
		mustWrite(t, primary, "late")
		if err := standby.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		mustReplicate(t, primary, standby)
		if got, want := mustRead(t, standby), "early late"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// detachVariable makes the test binary open a cluster, leave it running and exit.
const detachVariable = "LOCALPG_TEST_DETACH"

func openAndLeave(dir string) int {
	if _, err := Open(context.Background(), Options{Dir: dir}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func TestServerOutlivesItsStarter(t *testing.T) {
	dir := newDir(t)
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), detachVariable+"="+dir)
	// Output also waits for the pipe: a server that had inherited it would keep this hanging.
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("starting from another process: %v\n%s", err, out)
	}

	c, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, c)
	n := c.Primary()
	if !n.Running() {
		t.Fatal("the server has ended with its starter")
	}
	if session, err := unix.Getsid(n.Pid()); err != nil || session != n.Pid() {
		t.Errorf("got session %d, %v, want the server's own, %d", session, err, n.Pid())
	}
	mustWrite(t, n, "found again")
	mustStop(t, c)
	if n.Running() {
		t.Error("running after Stop")
	}
}

func TestCloneIsIndependent(t *testing.T) {
	eachVersion(t, func(t *testing.T, bin Binaries) {
		original := mustOpen(t, Options{Standbys: 1, Binaries: bin})
		mustWrite(t, original.Primary(), "template")
		_, err := Clone(t.Context(), original, newDir(t))
		wantError(t, err, ErrRunning)
		mustStop(t, original)

		clone := mustClone(t, original)
		if clone.Primary().Running() {
			t.Error("a clone is running before its Start")
		}
		mustStart(t, original)
		mustStart(t, clone)
		mustWrite(t, clone.Primary(), "clone")
		mustWrite(t, original.Primary(), "original")
		for c, want := range map[*Cluster]string{original: "template original", clone: "template clone"} {
			mustReplicate(t, c.Primary(), c.Standbys()[0])
			if got := mustRead(t, c.Standbys()[0]); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		if err := original.Remove(); err != nil {
			t.Fatal(err)
		}
		mustWrite(t, clone.Primary(), "alone")
	})
}

func TestClonesAtTheSameTime(t *testing.T) {
	template := mustOpen(t, Options{Standbys: 1, Binaries: anyVersion(t)})
	mustWrite(t, template.Primary(), "template")
	mustKill(t, template.Primary()) // a copy of a crashed node recovers like the node itself
	mustStop(t, template)
	var group errgroup.Group
	for i := range 3 {
		dir := newDir(t)
		group.Go(func() error {
			c, err := Clone(t.Context(), template, dir)
			if err != nil {
				return err
			}
			closeAtEnd(t, c)
			if err := c.Start(t.Context()); err != nil {
				return err
			}
			mustWrite(t, c.Primary(), fmt.Sprint("clone", i))
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}

func TestDataLivesWhereTheServerUserGets(t *testing.T) {
	bin := anyVersion(t)
	t.Run("reachable", func(t *testing.T) {
		dir := filepath.Join(openFolder(t), "made", "on the way")
		removeAtEnd(t, dir)
		c := mustOpen(t, Options{Dir: dir, Binaries: bin})
		if got, want := c.Primary().DataDir(), filepath.Join(dir, "primary", "data"); got != want {
			t.Errorf("data: got %q, want %q", got, want)
		}
		if got := c.Primary().SocketDir(); !strings.HasPrefix(got, "/tmp/hyperiondb-vault-") {
			t.Errorf("socket: got %q, want a folder without a space", got)
		}
		if err := c.Remove(); err != nil {
			t.Fatal(err)
		}
		mustBeGone(t, dir)
	})
	t.Run("private", func(t *testing.T) {
		dir := newDir(t) // below a folder of mode 0700
		c := mustOpen(t, Options{Dir: dir, Binaries: bin, Standbys: 1})
		mustWrite(t, c.Primary(), "kept")
		data := c.Primary().DataDir()
		if outside := !strings.HasPrefix(data, c.Dir()); outside != (os.Geteuid() == 0) {
			t.Errorf("data: got %q for user %d", data, os.Geteuid())
		}
		mustStop(t, c)
		mustClose(t, c)
		c = mustOpen(t, Options{Dir: dir})
		if got, want := mustRead(t, c.Primary()), "kept"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		mustClose(t, c)
		if err := Remove(dir); err != nil { // while it runs
			t.Fatal(err)
		}
		for _, path := range []string{data, filepath.Dir(filepath.Dir(data)), dir} {
			mustBeGone(t, path)
		}
	})
}

func TestLongPathGetsAShortSocket(t *testing.T) {
	dir := filepath.Join(openFolder(t), strings.Repeat("long", 20))
	removeAtEnd(t, dir)
	c := mustOpen(t, Options{Dir: dir, Standbys: 1, Binaries: anyVersion(t)})
	sockets := filepath.Dir(c.Primary().SocketDir())
	if !isPrivate(sockets, "/tmp") {
		t.Fatalf("got %q, want a private folder below /tmp", sockets)
	}
	mustWrite(t, c.Primary(), "kept")
	mustStop(t, c)
	mustClose(t, c)

	// A reboot empties /tmp.
	if err := os.RemoveAll(sockets); err != nil {
		t.Fatal(err)
	}
	c = mustOpen(t, Options{Dir: dir})
	if got, want := mustRead(t, c.Standbys()[0]), "kept"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	sockets = filepath.Dir(c.Primary().SocketDir())
	if err := c.Remove(); err != nil {
		t.Fatal(err)
	}
	mustBeGone(t, sockets)
}

// A cluster whose making failed is removed, at any step.
func TestFailedMakingLeavesNothing(t *testing.T) {
	bad := map[string]string{"shared_buffers": "plenty"}
	for name, standbys := range map[string]int{"at the start": 0, "at the first standby": 1} {
		t.Run(name, func(t *testing.T) {
			dir := newDir(t)
			_, err := Open(t.Context(), Options{Dir: dir, Standbys: standbys, Binaries: anyVersion(t), Parameters: bad})
			if err == nil || !strings.Contains(err.Error(), `invalid value for parameter "shared_buffers"`) {
				t.Errorf("got error %v, want what the server says", err)
			}
			mustBeGone(t, dir)
		})
	}
	t.Run("context ended", func(t *testing.T) {
		dir := newDir(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := Open(ctx, Options{Dir: dir, Binaries: anyVersion(t)})
		wantError(t, err, context.Canceled)
		mustBeGone(t, dir)
	})
}

func mustBeGone(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%q: got %v, want it gone", path, err)
	}
}

func TestFailedReuseStopsWhatItStarted(t *testing.T) {
	c := mustOpen(t, Options{Standbys: 1, Binaries: anyVersion(t)})
	mustStop(t, c)
	// The standby cannot find a consistent state: its log is gone.
	for _, name := range mustList(t, filepath.Join(c.Standbys()[0].DataDir(), "pg_wal")) {
		if err := os.RemoveAll(filepath.Join(c.Standbys()[0].DataDir(), "pg_wal", name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(c.Standbys()[0].DataDir(), "global", "pg_control"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "end of "+c.Standbys()[0].LogFile()) {
		t.Errorf("got error %v, want the end of the standby's log", err)
	}
	for _, n := range c.Nodes() {
		if n.Running() {
			t.Errorf("%s is running after a failed Start", n.Name())
		}
	}
}

func mustList(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func mustRecord(t *testing.T, dir string, change func(*record)) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, recordName))
	if err != nil {
		t.Fatal(err)
	}
	var rec record
	if err := json.Unmarshal(raw, &rec); err != nil {
		t.Fatal(err)
	}
	change(&rec)
	if err := rec.write(dir); err != nil {
		t.Fatal(err)
	}
}

// startAs starts a program as the server user and returns its process id; it is ended by the
// returned function or with the test.
func startAs(t *testing.T, user serverUser, args ...string) (pid int, end func()) {
	t.Helper()
	cmd := user.command(context.Background(), args[0], args[1:]...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	end = func() {
		if !ended {
			ended = true
			_ = cmd.Process.Signal(syscall.SIGKILL) // it may have ended by itself
			_ = cmd.Wait()
		}
	}
	t.Cleanup(end)
	return cmd.Process.Pid, end
}
