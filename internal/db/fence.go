package db

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"
)

// Fence keeps writes away from an old primary: one that was left behind by a promotion and comes back writable. Whoever
// has seen the newer history does not write to the older one, whatever the order of the hosts in a connection string.
//
// A promotion begins a timeline, whose number only grows. Two nodes that were promoted from one primary have the same
// number; the epoch in vault.heartbeat, which the first beat after a promotion makes, tells them apart. The highest
// seen is kept by cluster id and PostgreSQL's own system identifier, so a database restored from a dump is another one.
//
// It protects only those who have seen. It is no consensus: a partition in which nobody here saw the promotion is for
// the tool that promotes to handle.
type Fence struct {
	path string // "" = in memory only

	mu     sync.Mutex
	seen   map[cluster]Seen
	unsave error // why the file could not be written, the last time
}

// Seen is the newest history of a cluster that anybody here has met.
type Seen struct {
	Timeline int       `json:"timeline"`
	Epoch    uuid.UUID `json:"epoch,omitzero"` // zero: no supervisor has begun it yet
	At       time.Time `json:"seen_at"`
}

type cluster struct {
	ID     uuid.UUID
	System string // pg_control_system's
}

const (
	fenceVersion = 1
	maxFenceFile = 1 << 20
)

type fenceFile struct {
	Version  int         `json:"version"`
	Clusters []seenEntry `json:"clusters"`
}

type seenEntry struct {
	ClusterID        uuid.UUID `json:"cluster_id"`
	SystemIdentifier string    `json:"system_identifier"`
	Seen
}

// OpenFence reads what was seen before. A file that is there and cannot be read or understood is an error that names
// it: to go on without it would be to forget. A file that is not there yet is made when there is something to keep.
// Where the folder may not be entered there is no memory to lose: that is as without a path, and Unsaved says why.
func OpenFence(path string) (*Fence, error) {
	f := &Fence{path: path, seen: map[cluster]Seen{}}
	if path == "" {
		return f, nil
	}
	if err := Unreachable(path); err != nil {
		f.unsave = newError(ErrState, "state file %q: %s", path, reasonOf(err))
		return f, nil
	}
	seen, err := readFence(path)
	if err != nil {
		return nil, err
	}
	f.seen = seen
	return f, nil
}

// Path is the file's; "" if there is none.
func (f *Fence) Path() string { return f.path }

// Unsaved is why the last that was seen is in memory only; nil if it is on disk.
func (f *Fence) Unsaved() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.unsave
}

// Probe finds out whether the file could be written, by writing it as it is.
func (f *Fence) Probe() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.path != "" {
		f.unsave = f.save()
	}
	return f.unsave
}

func readFence(path string) (map[cluster]Seen, error) {
	seen := map[cluster]Seen{}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return seen, nil
	}
	if err != nil {
		return nil, newError(ErrState, "state file %q: %s", path, reasonOf(err))
	}
	var file fenceFile
	if len(text) > maxFenceFile || json.Unmarshal(text, &file) != nil {
		return nil, newError(ErrState, "state file %q is damaged", path)
	}
	if file.Version != fenceVersion {
		return nil, newError(ErrState, "state file %q has format %d, and this binary knows %d", path, file.Version,
			fenceVersion)
	}
	for _, e := range file.Clusters {
		if e.ClusterID == uuid.Nil || e.SystemIdentifier == "" || e.Timeline < 1 {
			return nil, newError(ErrState, "state file %q is damaged", path)
		}
		seen[cluster{e.ClusterID, e.SystemIdentifier}] = e.Seen
	}
	return seen, nil
}

// Unreachable is why a file cannot be looked for: a folder above it may not be entered, as when a container runs under
// another user with HOME=/root, or is no folder. A file that is there, or is missing, is none of that.
func Unreachable(path string) error {
	if _, err := os.Lstat(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func reasonOf(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}

// lineage is what a node says of the history it is in.
type lineage struct {
	cluster
	recovering   bool
	timeline     int // of a primary; 0 = it did not say
	beatTimeline int // of the heartbeat row; 0 = there is none
	beatEpoch    uuid.UUID
}

// epoch is that of the node's own timeline; zero while no supervisor has begun it.
func (l lineage) epoch() uuid.UUID {
	if l.beatTimeline == l.timeline {
		return l.beatEpoch
	}
	return uuid.Nil
}

// meet judges a node, and learns from it. A nil fence admits everybody.
func (f *Fence) meet(l lineage) error {
	if f == nil || l.System == "" {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.judge(l); err != nil {
		return err
	}
	news := newer(f.seen[l.cluster], Seen{l.beatTimeline, l.beatEpoch, time.Now().UTC()})
	if !l.recovering {
		news = newer(news, Seen{l.timeline, l.epoch(), time.Now().UTC()})
	}
	if news == f.seen[l.cluster] {
		return nil
	}
	f.seen[l.cluster] = news
	if f.path != "" {
		f.unsave = f.save()
	}
	return f.judge(l) // again: the file may have known more than we did
}

// judge says whether a node belongs to an older history than the newest that was seen.
func (f *Fence) judge(l lineage) error {
	seen := f.seen[l.cluster]
	switch {
	case l.recovering:
		// A standby's row may merely be late; another epoch of the newest timeline is not.
		if l.beatTimeline == seen.Timeline && seen.Epoch != uuid.Nil && l.beatEpoch != seen.Epoch {
			return fenced("the node follows another primary of timeline %d than the one seen %s", seen.Timeline, seen)
		}
	case l.timeline == 0:
	case l.timeline < seen.Timeline:
		return fenced("an old primary: it is on timeline %d, and timeline %d was seen %s", l.timeline, seen.Timeline, seen)
	case l.timeline == seen.Timeline && seen.Epoch != uuid.Nil && l.beatTimeline != 0 && l.epoch() != seen.Epoch:
		// The first beat of an epoch is durable before anybody can see it: the node that made it has it.
		return fenced("another primary of timeline %d was seen %s", l.timeline, seen)
	}
	return nil
}

func fenced(format string, args ...any) error { return newError(ErrFenced, format, args...) }

// String is for "seen ...".
func (s Seen) String() string { return "at " + s.At.UTC().Format(time.RFC3339) }

// newer never goes back, and adds the epoch to a timeline once it is known.
func newer(a, b Seen) Seen {
	if b.Timeline > a.Timeline || (b.Timeline == a.Timeline && a.Epoch == uuid.Nil && b.Epoch != uuid.Nil) {
		return b
	}
	return a
}

// save joins what is in memory with what is in the file, under a lock, so that of two processes neither takes the
// other's away. The rename is where the new file becomes the file.
func (f *Fence) save() error {
	folder := filepath.Dir(f.path)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return fmt.Errorf("state file %q: %w", f.path, reasonOf(err))
	}
	lock, err := os.OpenFile(f.path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("state file %q: locking: %w", f.path, reasonOf(err))
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil { // held for a few milliseconds by whoever has it
		return fmt.Errorf("state file %q: locking: %w", f.path, err)
	}
	stored, err := readFence(f.path)
	if err != nil {
		return err // never overwritten: somebody has to look at it
	}
	for c, s := range stored {
		f.seen[c] = newer(s, f.seen[c])
	}
	if err := writeFence(f.path, f.seen); err != nil {
		return fmt.Errorf("state file %q: %w", f.path, reasonOf(err))
	}
	return nil
}

func writeFence(path string, seen map[cluster]Seen) (err error) {
	file := fenceFile{Version: fenceVersion, Clusters: []seenEntry{}}
	for c, s := range seen {
		file.Clusters = append(file.Clusters, seenEntry{c.ID, c.System, s})
	}
	text, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		return err
	}
	partial, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".") // with mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(partial.Name())
		}
	}()
	_, err = partial.Write(append(text, '\n'))
	if err = errors.Join(err, partial.Sync(), partial.Close()); err != nil {
		return err
	}
	if err = os.Rename(partial.Name(), path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// The timeline is that of the file the next record goes to: a promotion changes it at once, pg_control only with the
// next checkpoint.
const nodeTimeline = `CASE WHEN NOT pg_is_in_recovery() THEN ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int ELSE 0 END`

const (
	clusterQuery = `SELECT c.cluster_id, s.system_identifier, pg_is_in_recovery(), ` + nodeTimeline +
		` FROM vault.config c, pg_control_system() s`
	beatQuery = `SELECT timeline, epoch FROM vault.heartbeat`
)

// askLineage asks with two statements, as a schema of before the heartbeat has only the first's table. A server that
// refuses the first (no vault, no right to it, or a managed service without these functions) has no lineage, and no
// error: what it is unfit for is found out and said elsewhere.
func askLineage(ctx context.Context, conn *pgconn.PgConn) (lineage, error) {
	results, err := conn.Exec(ctx, clusterQuery+"; "+beatQuery).ReadAll()
	var server *pgconn.PgError
	if err != nil && (!errors.As(err, &server) || isDisconnect(server)) {
		return lineage{}, err
	}
	var l lineage
	if len(results) == 0 || len(results[0].Rows) != 1 {
		return l, nil
	}
	row := results[0].Rows[0]
	l.ID, err = uuid.ParseBytes(row[0])
	if err != nil {
		return l, err
	}
	l.System, l.recovering = string(row[1]), string(row[2]) == "t"
	if l.timeline, err = strconv.Atoi(string(row[3])); err != nil {
		return l, err
	}
	if len(results) > 1 && len(results[1].Rows) == 1 {
		return l, l.setBeat(string(results[1].Rows[0][0]), string(results[1].Rows[0][1]))
	}
	return l, nil
}

func (l *lineage) setBeat(timeline, epoch string) (err error) {
	if l.beatTimeline, err = strconv.Atoi(timeline); err == nil {
		l.beatEpoch, err = uuid.Parse(epoch)
	}
	return err
}

const lineageKey = "hyperiondb-vault: lineage" // in a connection's CustomData

// admit is the ValidateConnect of connections that write: where several hosts are named, a refused one is passed over.
func (f *Fence) admit(ctx context.Context, conn *pgconn.PgConn) error {
	if err := pgconn.ValidateConnectTargetSessionAttrsReadWrite(ctx, conn); err != nil {
		return errors.Join(readOnlyByDefault(ctx, conn), err)
	}
	if f == nil {
		return nil
	}
	l, err := askLineage(ctx, conn)
	if err != nil {
		return err
	}
	conn.CustomData()[lineageKey] = l
	return f.meet(l)
}

// readOnlyByDefault names the setting that keeps a primary from being changed. It is left in force: some tools hold
// writes back with it while they move a database.
func readOnlyByDefault(ctx context.Context, conn *pgconn.PgConn) error {
	results, err := conn.Exec(ctx, `SELECT source FROM pg_settings WHERE name = 'default_transaction_read_only' AND setting = 'on'
		AND NOT pg_is_in_recovery()`).ReadAll()
	if err != nil || len(results[0].Rows) == 0 {
		return err
	}
	return newError(ErrUnavailable, "default_transaction_read_only is on (set by: %s), so nothing can be changed here",
		results[0].Rows[0][0])
}

// keeps reports whether a connection that was admitted once would be again.
func (f *Fence) keeps(conn *pgx.Conn) bool {
	l, known := conn.PgConn().CustomData()[lineageKey].(lineage)
	return f == nil || !known || f.meet(l) == nil
}

// recheck is asked in the transaction of a change itself: a pooler may have led to another server than the connection
// was made to, and a promotion may have been seen since.
func (f *Fence) recheck(conn *pgx.Conn, timeline, beatTimeline int, beatEpoch uuid.UUID) error {
	l, known := conn.PgConn().CustomData()[lineageKey].(lineage)
	if f == nil || !known {
		return nil
	}
	l.timeline, l.beatTimeline, l.beatEpoch = timeline, beatTimeline, beatEpoch
	return f.meet(l)
}

// CheckFence asks the local node which history it is in: ErrFenced if a newer one was seen, and what is newer is
// learned.
func (r *Reader) CheckFence(ctx context.Context) error {
	_, err := r.lineage(ctx)
	return err
}

func (r *Reader) lineage(ctx context.Context) (lineage, error) {
	ctx, cancel := context.WithTimeout(ctx, r.pool.limit)
	defer cancel()
	conn, err := r.pool.Acquire(ctx)
	if err != nil {
		return lineage{}, classify(err)
	}
	defer conn.Release()
	var l lineage
	err = pinned(ctx, conn.Conn().PgConn(), func() (err error) {
		l, err = askLineage(ctx, conn.Conn().PgConn())
		return err
	})
	if err != nil {
		return l, classify(err)
	}
	return l, r.fence.meet(l)
}
