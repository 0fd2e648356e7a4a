package db_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/localpg"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

func mustFence(t *testing.T, path string) *db.Fence {
	t.Helper()
	f, err := db.OpenFence(path)
	must(t, err)
	return f
}

// failover stops the primary, promotes its standby and starts the old primary again, writable.
func failover(t *testing.T, store *vaulttest.Store) (old, next *localpg.Node) {
	t.Helper()
	old, next = store.Cluster.Primary(), store.Cluster.Standbys()[0]
	store.MustReplay(t)
	must(t, old.Stop(t.Context(), localpg.Fast))
	must(t, next.Promote(t.Context()))
	must(t, old.Start(t.Context()))
	return old, next
}

// The old primary is first in the connection string and takes writes. A writer that has seen the promotion passes over
// it; one that has not writes to it, which nothing here can prevent.
func TestOldPrimaryIsPassedOver(t *testing.T) {
	t.Parallel()
	store := vaulttest.Own(t)
	old, next := failover(t, store)
	state := filepath.Join(t.TempDir(), "deep", "primaries.json")

	met := mustWriter(t, db.Options{URL: next.URL(store.Database, vaulttest.Operator), Fence: mustFence(t, state)})
	_, err := putOne(t.Context(), t, met, "app/new")
	must(t, err)
	if info, err := os.Stat(state); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the state file: %v, error %v", info, err)
	}

	both := bothHosts(store, old, next, vaulttest.Operator)
	remembers := mustWriter(t, db.Options{URL: both, Fence: mustFence(t, state)})
	_, err = putOne(t.Context(), t, remembers, "app/remembered")
	must(t, err)
	forgets := mustWriter(t, db.Options{URL: both, Fence: mustFence(t, "")})
	_, err = putOne(t.Context(), t, forgets, "app/forgotten")
	must(t, err)
	reads, borrows, _ := lending(t, store, db.Options{URL: both, Fence: mustFence(t, state)})
	must(t, reads.Ping(t.Context())) // on the old primary
	_, err = putOne(t.Context(), t, borrows, "app/own")
	must(t, err)
	if got := store.MustQuery(t,
		`SELECT string_agg(name, ' ' ORDER BY name) FROM vault.secrets`); got != "app/new app/own app/remembered" {
		t.Errorf("the new primary has %q", got)
	}

	only := mustWriter(t, db.Options{URL: old.URL(store.Database, vaulttest.Operator), Fence: mustFence(t, state)})
	_, err = putOne(t.Context(), t, only, "app/refused")
	if !errors.Is(err, db.ErrFenced) || !strings.Contains(err.Error(),
		"it is on timeline 1, and timeline 2 was seen at 20") {
		t.Errorf("writing to the old primary alone: %v", err)
	}
	reader, err := db.NewReader(t.Context(), db.Options{URL: old.URL(store.Database, vaulttest.Daemon),
		Fence: mustFence(t, state)})
	must(t, err)
	defer reader.Close()
	if primary, err := reader.IsPrimary(t.Context()); primary || !errors.Is(err, db.ErrFenced) {
		t.Errorf("the old primary counts as primary: %v, error %v", primary, err)
	}
	if _, err := reader.Secrets(t.Context(), db.ListQuery{}); err != nil {
		t.Errorf("reads from the old primary: %v", err)
	}
}

// A session with the old primary from before the promotion ends as soon as its daemon learns of the new one, here from
// its reader.
func TestWhatTheReaderLearnsEndsSessions(t *testing.T) {
	t.Parallel()
	store := vaulttest.Own(t)
	fence := mustFence(t, "")
	old, next := failover(t, store)
	writer := mustWriter(t, db.Options{URL: bothHosts(store, old, next, vaulttest.Operator), Fence: fence})
	_, err := putOne(t.Context(), t, writer, "app/lost") // this process has not seen the promotion
	must(t, err)
	reader, err := db.NewReader(t.Context(), db.Options{URL: next.URL(store.Database, vaulttest.Daemon), Fence: fence})
	must(t, err)
	defer reader.Close()
	must(t, reader.CheckFence(t.Context()))
	_, err = putOne(t.Context(), t, writer, "app/kept")
	must(t, err)
	if got := store.MustQuery(t, `SELECT string_agg(name, ' ') FROM vault.secrets`); got != "app/kept" {
		t.Errorf("the new primary has %q", got)
	}
}

// An epoch lasts as long as its timeline.
func TestHeartbeat(t *testing.T) {
	store := vaulttest.New(t)
	worker := store.URL(vaulttest.Daemon)
	row := `SELECT epoch || ' ' || timeline FROM vault.heartbeat`
	must(t, runSession(t, worker, []string{`SELECT vault.beat()`}))
	first := store.MustQuery(t, row)
	must(t, runSession(t, worker, []string{`SELECT vault.beat()`}))
	if got := store.MustQuery(t, row); got != first {
		t.Errorf("got epoch and timeline %q after %q on one timeline", got, first)
	}
	store.MustExec(t, `UPDATE vault.heartbeat SET timeline = timeline - 1`) // as a promotion leaves it
	must(t, runSession(t, worker, []string{`SELECT vault.beat()`}))
	if got := store.MustQuery(t, row); got == first || got[37:] != first[37:] {
		t.Errorf("got %q, want another epoch on the timeline of %q", got, first)
	}
	wantCode(t, runSession(t, store.URL(vaulttest.Operator), []string{`UPDATE vault.heartbeat SET at = now()`}), denied)
}

// A standby's daemon learns from the replayed heartbeat, without any connection to a primary.
func TestStandbyLearnsFromTheHeartbeat(t *testing.T) {
	t.Parallel()
	store := vaulttest.Own(t)
	old, next := failover(t, store)
	state := filepath.Join(t.TempDir(), "primaries.json")
	beat(t, store, next)
	// The old primary's data, as a standby of the new one: here only its history is read.
	must(t, old.Rebuild(t.Context()))
	store.MustReplay(t)
	reader, err := db.NewReader(t.Context(), db.Options{URL: old.URL(store.Database, vaulttest.Daemon),
		Fence: mustFence(t, state)})
	must(t, err)
	defer reader.Close()
	must(t, reader.CheckFence(t.Context()))
	var file struct {
		Clusters []struct {
			Timeline int       `json:"timeline"`
			Epoch    uuid.UUID `json:"epoch"`
		} `json:"clusters"`
	}
	must(t, json.Unmarshal(mustRead(t, state), &file))
	if len(file.Clusters) != 1 || file.Clusters[0].Timeline != 2 || file.Clusters[0].Epoch == uuid.Nil {
		t.Errorf("the standby learned %+v", file)
	}
}

func beat(t *testing.T, store *vaulttest.Store, node *localpg.Node) {
	t.Helper()
	w := mustWriter(t, db.Options{URL: node.URL(store.Database, vaulttest.Daemon)})
	must(t, w.Beat(t.Context()))
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	return text
}

// Two nodes promoted from one primary have the same timeline. The epoch distinguishes them, also before the second
// one's supervisor has created its own.
func TestSameTimelineAnotherEpoch(t *testing.T) {
	t.Parallel()
	store := vaulttest.Own(t)
	beat(t, store, store.Cluster.Primary())
	store.MustReplay(t)
	first, second := store.Cluster.Standbys()[0], store.Cluster.Primary()
	must(t, second.Stop(t.Context(), localpg.Fast))
	must(t, first.Promote(t.Context()))
	promoteAgain(t, store, second)
	state := filepath.Join(t.TempDir(), "primaries.json")
	beat(t, store, first)
	met := mustWriter(t, db.Options{URL: first.URL(store.Database, vaulttest.Operator), Fence: mustFence(t, state)})
	must(t, met.Ping(t.Context()))

	other := mustWriter(t, db.Options{URL: second.URL(store.Database, vaulttest.Operator), Fence: mustFence(t, state)})
	for _, when := range []string{"before its first beat", "after it"} {
		if _, err := putOne(t.Context(), t, other, "app/x"); !errors.Is(err, db.ErrFenced) ||
			!strings.Contains(err.Error(), "another primary of timeline 2") {
			t.Errorf("%s: got %v", when, err)
		}
		beat(t, store, second)
	}
	_, err := putOne(t.Context(), t, met, "app/x")
	must(t, err)
}

// promoteAgain makes a stopped primary a standby without a primary and promotes it, to the same timeline as the real
// standby.
func promoteAgain(t *testing.T, store *vaulttest.Store, node *localpg.Node) {
	t.Helper()
	signal := filepath.Join(node.DataDir(), "standby.signal")
	must(t, os.WriteFile(signal, nil, 0o600))
	info, err := os.Stat(filepath.Join(node.DataDir(), "PG_VERSION"))
	must(t, err)
	must(t, chownLike(signal, info))
	must(t, node.Start(t.Context()))
	conn := mustConnect(t, node.URL(store.Database, vaulttest.Superuser))
	var promoted bool
	must(t, conn.QueryRow(t.Context(), `SELECT pg_promote(true, 30)`).Scan(&promoted))
	if !promoted {
		t.Fatal("it was not promoted in time")
	}
}

// Many processes write one file: its contents never go back, and it is never damaged.
func TestStateFileNeverGoesBack(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "primaries.json")
	id := uuid.New()
	var running sync.WaitGroup
	for n := range 8 {
		running.Go(func() {
			for timeline := 1 + n; timeline <= 80; timeline += 8 {
				f, err := db.OpenFence(path) // as another process would
				if err == nil {
					err = errors.Join(f.Meet(id, "1", timeline), f.Unsaved())
				}
				if err != nil && !errors.Is(err, db.ErrFenced) {
					t.Error(err)
				}
			}
		})
	}
	highest := 0
	stop := make(chan struct{})
	go func() { running.Wait(); close(stop) }()
	for done := false; !done; {
		select {
		case <-stop:
			done = true
		default:
		}
		f, err := db.OpenFence(path)
		must(t, err)
		now := f.Highest(id, "1")
		if now < highest {
			t.Fatalf("it went from timeline %d to %d", highest, now)
		}
		highest = now
	}
	if highest != 80 {
		t.Errorf("got timeline %d at the end, want 80", highest)
	}
	left, err := filepath.Glob(path + ".*")
	must(t, err)
	if len(left) != 1 || left[0] != path+".lock" {
		t.Errorf("left behind: %v", left)
	}
}

func TestDamagedStateFile(t *testing.T) {
	entry := func(id, system string, timeline int) string {
		return fmt.Sprintf(`{"version":1,"clusters":[{"cluster_id":%q,"system_identifier":%q,"timeline":%d}]}`, id, system,
			timeline)
	}
	good := "6fa459ea-ee8a-3ca4-894e-db77e160355e"
	for name, text := range map[string]string{
		"empty": "", "cut": entry(good, "1", 2)[:40], "not an object": `[]`, "no version": `{}`,
		"a later version": `{"version":2}`,
		"no cluster":      entry(uuid.Nil.String(), "1", 2), "no system": entry(good, "", 2),
		"no timeline": entry(good, "1", 0),
		"not a uuid":  entry("x", "1", 2), "too large": entry(good, strings.Repeat("1", 1<<20), 2),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "primaries.json")
			must(t, os.WriteFile(path, []byte(text), 0o600))
			_, err := db.OpenFence(path)
			if !errors.Is(err, db.ErrState) || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want one line that names the file", err)
			}
			if got := mustRead(t, path); string(got) != text {
				t.Errorf("the file was changed to %q", got)
			}
		})
	}
	path := filepath.Join(t.TempDir(), "primaries.json")
	must(t, os.WriteFile(path, []byte(entry(good, "1", 2)), 0o600))
	if got := mustFence(t, path).Highest(uuid.MustParse(good), "1"); got != 2 {
		t.Errorf("a good file: timeline %d", got)
	}
	if _, err := db.OpenFence(t.TempDir()); !errors.Is(err, db.ErrState) {
		t.Errorf("a folder in its place: %v", err)
	}
}

// A fence whose folder cannot be created works in memory, and reports why.
func TestStateThatCannotBeWritten(t *testing.T) {
	readOnly := filepath.Join("/proc", "primaries.json")
	f := mustFence(t, readOnly)
	if f.Probe() == nil {
		t.Fatal("it was written")
	}
	id := uuid.New()
	must(t, f.Meet(id, "1", 2))
	if err := f.Meet(id, "1", 1); !errors.Is(err, db.ErrFenced) || f.Unsaved() == nil {
		t.Errorf("got %v, unsaved %v", err, f.Unsaved())
	}
}

// chownLike gives a file to the owner of another: the server's user, if the tests run as root.
func chownLike(path string, info fs.FileInfo) error {
	owner := info.Sys().(*syscall.Stat_t)
	return os.Chown(path, int(owner.Uid), int(owner.Gid))
}

// A folder that cannot be entered is as none, and is reported; a bad file in one that can be entered stays an error.
func TestAFenceWithoutAFolder(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(file, "primaries.json"), filepath.Join(file, "deeper", "primaries.json"),
		"/dev/null/primaries.json"} {
		f, err := db.OpenFence(path)
		if err != nil {
			t.Errorf("%s: got %v, want a fence without a memory", path, err)
			continue
		}
		if f.Unsaved() == nil || f.Probe() == nil || !strings.Contains(f.Probe().Error(), "not a directory") {
			t.Errorf("%s: got %v, then %v, want to be told why nothing is kept", path, f.Unsaved(), f.Probe())
		}
	}
	if f, err := db.OpenFence(filepath.Join(dir, "none", "primaries.json")); err != nil || f.Unsaved() != nil ||
		f.Probe() != nil {
		t.Errorf("a folder that is not there yet: got %v", err)
	}
	for _, path := range []string{file, dir} {
		if _, err := db.OpenFence(path); !errors.Is(err, db.ErrState) {
			t.Errorf("%s: got %v, want an error", path, err)
		}
	}
}
