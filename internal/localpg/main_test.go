package localpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/leaks"
	"github.com/hyperiondb/vault/internal/testfolder"
)

func TestMain(m *testing.M) {
	if parent := testfolder.Parent(); parent != "" {
		privateData = parent                                // as root
		if err := os.Setenv("TMPDIR", parent); err != nil { // as another user
			panic(err)
		}
	}
	if dir := os.Getenv(detachVariable); dir != "" {
		os.Exit(openAndLeave(dir))
	}
	filled := &filledFolders{dir: mustMakeFolder()}
	fillData = filled.fill
	leaks.Main(endsWith{m, filled.remove})
}

// endsWith runs the tests and then a function.
type endsWith struct {
	*testing.M
	last func()
}

func (e endsWith) Run() int {
	code := e.M.Run()
	e.last()
	return code
}

func mustMakeFolder() string {
	dir, err := os.MkdirTemp("", "localpg-initdb-")
	if err != nil {
		panic(err)
	}
	return dir
}

// filledFolders runs initdb once for each kind of cluster and copies what it made: initdb takes ten times the processor
// time of a copy.
type filledFolders struct {
	dir string

	mu    sync.Mutex
	kinds map[filledKind]string // the folder that is copied
}

type filledKind struct {
	binaries Binaries
	durable  bool
}

func (f *filledFolders) fill(c *Cluster, ctx context.Context, data string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	kind := filledKind{c.bin, c.rec.Durable}
	if from, ok := f.kinds[kind]; ok {
		return c.copier(fromStopped).copy(ctx, from, data)
	}
	if err := c.initdb(ctx, data); err != nil {
		return err
	}
	kept := filepath.Join(f.dir, strconv.Itoa(len(f.kinds)))
	if err := os.Mkdir(kept, 0o700); err != nil {
		return err
	}
	if err := c.copier(fromStopped).copy(ctx, data, kept); err != nil {
		return err
	}
	if f.kinds == nil {
		f.kinds = map[filledKind]string{}
	}
	f.kinds[kind] = kept
	return nil
}

func (f *filledFolders) remove() {
	if err := os.RemoveAll(f.dir); err != nil {
		fmt.Fprintln(os.Stderr, "removing what initdb made:", err)
	}
}

// eachVersion runs a test on the oldest and the newest supported version, those that are there.
// Without any it fails: a run that tests nothing must not look like a good one.
func eachVersion(t *testing.T, test func(t *testing.T, bin Binaries)) {
	t.Helper()
	found := 0
	for _, major := range []int{oldestMajor, newestMajor} {
		bin, err := Find(major)
		if errors.Is(err, ErrNoBinaries) {
			t.Logf("not tested on version %d: %v", major, err)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		found++
		t.Run(fmt.Sprint("pg", major), func(t *testing.T) { test(t, bin) })
	}
	if found == 0 {
		t.Fatal("no PostgreSQL to test on")
	}
}

// anyVersion returns binaries for tests that do not depend on the version.
func anyVersion(t *testing.T) Binaries {
	t.Helper()
	bin, err := Find(0)
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// newDir returns a path for a cluster that does not exist yet and is removed at the end.
func newDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "cluster")
	removeAtEnd(t, dir)
	return dir
}

// removeAtEnd removes a test's cluster, running or not, and checks that nothing is left.
func removeAtEnd(t *testing.T, dir string) {
	t.Helper()
	t.Cleanup(func() {
		c, err := load(dir)
		if errors.Is(err, ErrNoCluster) {
			return
		}
		if err != nil {
			t.Errorf("opening the cluster of this test to remove it: %v", err)
			return
		}
		var pids []int
		for _, n := range c.Nodes() {
			if pid := n.Pid(); pid != 0 {
				pids = append(pids, pid)
			}
		}
		if err := c.Remove(); err != nil {
			t.Errorf("removing the cluster of this test: %v", err)
		}
		// A server removes its process file right before it ends.
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		for _, pid := range pids {
			if err := poll(ctx, func() (bool, error) { return !alive(pid), nil }); err != nil {
				t.Errorf("server %d is left behind: %v", pid, err)
			}
		}
	})
}

func mustOpen(t *testing.T, o Options) *Cluster {
	t.Helper()
	if o.Dir == "" {
		o.Dir = newDir(t)
	}
	c, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, c)
	return c
}

func mustClone(t *testing.T, src *Cluster) *Cluster {
	t.Helper()
	c, err := Clone(t.Context(), src, newDir(t))
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, c)
	return c
}

// closeAtEnd closes a cluster that the test has not closed itself. It runs before newDir's
// removal, which needs the lock.
func closeAtEnd(t *testing.T, c *Cluster) {
	t.Helper()
	t.Cleanup(func() {
		if err := c.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Errorf("closing: %v", err)
		}
	})
}

func mustClose(t *testing.T, c *Cluster) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

func mustStart(t *testing.T, c *Cluster) {
	t.Helper()
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func mustStop(t *testing.T, c *Cluster) {
	t.Helper()
	if err := c.Stop(t.Context(), Fast); err != nil {
		t.Fatal(err)
	}
}

func mustKill(t *testing.T, n *Node) {
	t.Helper()
	if err := n.Kill(); err != nil {
		t.Fatal(err)
	}
	if n.Running() {
		t.Fatalf("%s is running after Kill", n.Name())
	}
}

func mustConnect(t *testing.T, n *Node) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), n.URL("postgres", "postgres"))
	if err != nil {
		t.Fatalf("connecting to %s: %v", n.Name(), err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) }) // the server may be gone by now
	return conn
}

func mustExec(t *testing.T, n *Node, sql string, args ...any) {
	t.Helper()
	conn := mustConnect(t, n)
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("on %s: %s: %v", n.Name(), sql, err)
	}
	mustDisconnect(t, conn)
}

func mustDisconnect(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// mustAsk returns the one value a query gives, as text.
func mustAsk(t *testing.T, n *Node, sql string) string {
	t.Helper()
	conn := mustConnect(t, n)
	var answer string
	if err := conn.QueryRow(t.Context(), sql).Scan(&answer); err != nil {
		t.Fatalf("on %s: %s: %v", n.Name(), sql, err)
	}
	mustDisconnect(t, conn)
	return answer
}

// mustWrite leaves a note in a table of the primary, and mustRead reads all notes on any node.
func mustWrite(t *testing.T, n *Node, note string) {
	t.Helper()
	mustExec(t, n, `create table if not exists notes (id serial, note text)`)
	mustExec(t, n, `insert into notes (note) values ($1)`, note)
}

func mustRead(t *testing.T, n *Node) string {
	t.Helper()
	return mustAsk(t, n, `select coalesce(string_agg(note, ' ' order by id), '') from notes`)
}

// mustReplicate waits until a standby has everything the primary has.
func mustReplicate(t *testing.T, primary, standby *Node) {
	t.Helper()
	lsn, err := primary.LSN(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := standby.WaitReplay(t.Context(), lsn); err != nil {
		t.Fatal(err)
	}
}

func wantError(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
}

// eventually polls a condition that some other process brings about.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := poll(ctx, func() (bool, error) { return done(), nil }); err != nil {
		t.Fatalf("waiting until %s: %v", what, err)
	}
}
