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

// Fence refuses writes to an old primary: one that a promotion left behind and that comes back writable. A process that
// has seen the newer history does not write to the older one, in any order of the hosts in a connection string.
//
// A promotion begins a timeline, whose number only grows. Two nodes that were promoted from one primary have the same
// number; the epoch in vault.heartbeat, which the first heartbeat after a promotion creates, distinguishes them. The
// highest timeline seen is kept by cluster id and PostgreSQL's system identifier, so a database restored from a dump
// counts as another cluster.
//
// A fence protects only processes that share its memory or file. It is not consensus: if a partition hides a promotion
// from all of them, the failover tool has to stop the old primary.
type Fence struct {
	path string // "" = in memory only

	mu      sync.Mutex
	seen    map[cluster]Seen
	saveErr error // why the last write of the file failed
}

// Seen is the newest history of a cluster that this process, or one that shares the file, has met.
type Seen struct {
	Timeline int       `json:"timeline"`
	Epoch    uuid.UUID `json:"epoch,omitzero"` // zero: no heartbeat has created it yet
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

// OpenFence reads what was seen before. A file that exists and cannot be read is an error that names it, because going
// on would forget what was seen. A missing file is created at the first write. If the folder may not be entered, the
// fence works in memory, as without a path, and Unsaved says why.
func OpenFence(path string) (*Fence, error) {
	f := &Fence{path: path, seen: map[cluster]Seen{}}
	if path == "" {
		return f, nil
	}
	if err := Unreachable(path); err != nil {
		f.saveErr = newError(ErrState, "state file %q: %s", path, reasonOf(err))
		return f, nil
	}
	seen, err := readFence(path)
	if err != nil {
		return nil, err
	}
	f.seen = seen
	return f, nil
}

// Path is the path of the file; "" if there is none.
func (f *Fence) Path() string { return f.path }

// Unsaved is why the newest history is in memory only; nil if it is on disk.
func (f *Fence) Unsaved() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.saveErr
}

// Probe rewrites the file, to find out whether it can be written.
func (f *Fence) Probe() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.path != "" {
		f.saveErr = f.save()
	}
	return f.saveErr
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

// Unreachable is why a path cannot be looked up: a folder above it may not be entered, as when a container runs under
// another user with HOME=/root, or is not a folder. It is nil if the file exists, or is only missing.
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

// lineage is a node's own statement of the history it is in.
type lineage struct {
	cluster
	recovering   bool
	timeline     int // of a primary; 0 = unknown
	beatTimeline int // of the heartbeat row; 0 = there is none
	beatEpoch    uuid.UUID
	config       Config // its versions alone
}

// epoch is that of the node's own timeline; zero until its first heartbeat.
func (l lineage) epoch() uuid.UUID {
	if l.beatTimeline == l.timeline {
		return l.beatEpoch
	}
	return uuid.Nil
}

// observe checks a node, and records its history if that is newer. A nil fence admits every node.
func (f *Fence) observe(l lineage) error {
	if f == nil || l.System == "" {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.checkHistory(l); err != nil {
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
		f.saveErr = f.save()
	}
	return f.checkHistory(l) // again: the file may have had a newer history
}

// checkHistory fails if a node belongs to an older history than the newest that was seen.
func (f *Fence) checkHistory(l lineage) error {
	seen := f.seen[l.cluster]
	switch {
	case l.recovering:
		// A standby's row may lag behind, but another epoch of the newest timeline is another primary's.
		if l.beatTimeline == seen.Timeline && seen.Epoch != uuid.Nil && l.beatEpoch != seen.Epoch {
			return fenced("the node follows another primary of timeline %d than the one seen %s", seen.Timeline, seen)
		}
	case l.timeline == 0:
	case l.timeline < seen.Timeline:
		return fenced("an old primary: it is on timeline %d, and timeline %d was seen %s", l.timeline, seen.Timeline, seen)
	case l.timeline == seen.Timeline && seen.Epoch != uuid.Nil && l.beatTimeline != 0 && l.epoch() != seen.Epoch:
		// The first heartbeat of an epoch is durable before it is visible, so the node that created the epoch has it.
		return fenced("another primary of timeline %d was seen %s", l.timeline, seen)
	}
	return nil
}

func fenced(format string, args ...any) error { return newError(ErrFenced, format, args...) }

// String completes "seen ...".
func (s Seen) String() string { return "at " + s.At.UTC().Format(time.RFC3339) }

// newer returns the newer of two histories. It adds the epoch to a timeline once that is known.
func newer(a, b Seen) Seen {
	if b.Timeline > a.Timeline || (b.Timeline == a.Timeline && a.Epoch == uuid.Nil && b.Epoch != uuid.Nil) {
		return b
	}
	return a
}

// save merges memory and file under a lock, so that two processes do not overwrite each other's entries. The rename is
// the commit point.
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
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil { // held for milliseconds
		return fmt.Errorf("state file %q: locking: %w", f.path, err)
	}
	stored, err := readFence(f.path)
	if err != nil {
		return err // never overwritten: an operator has to check it
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

// The timeline is that of the file that the next WAL record goes to: a promotion changes it at once, pg_control only at
// the next checkpoint.
const nodeTimeline = `CASE WHEN NOT pg_is_in_recovery()
	THEN ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int ELSE 0 END`

// lineageNow is what of a lineage can change during a session, as the rest of a SELECT.
const lineageNow = nodeTimeline + `, coalesce(h.timeline, 0),
	coalesce(h.epoch, '00000000-0000-0000-0000-000000000000') FROM (SELECT) AS one LEFT JOIN vault.heartbeat h ON true`

const (
	readOnlyQuery = `SHOW transaction_read_only`
	clusterQuery  = `SELECT c.cluster_id, s.system_identifier, pg_is_in_recovery(), ` + nodeTimeline +
		`, ` + versions + ` FROM vault.config c, pg_control_system() s`
	beatQuery = `SELECT timeline, epoch FROM vault.heartbeat`
)

// queryLineage sends two statements, because a schema from before the heartbeat has only the table of the first. A
// server that refuses the first (no vault, no right to it, or a managed service without these functions) has no
// lineage, and that is not an error: other checks report what it lacks.
func queryLineage(ctx context.Context, conn *pgconn.PgConn) (lineage, error) {
	return lineageIn(conn.Exec(ctx, clusterQuery+"; "+beatQuery).ReadAll())
}

func lineageIn(results []*pgconn.Result, err error) (lineage, error) {
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
	if err := l.config.setVersions(row[4], row[5]); err != nil {
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

// admit is the ValidateConnect of connections that write. If the string lists several hosts, pgx passes over a refused
// one. All that it asks is one round trip.
func (f *Fence) admit(ctx context.Context, conn *pgconn.PgConn) error {
	results, err := conn.Exec(ctx, readOnlyQuery+"; "+clusterQuery+"; "+beatQuery).ReadAll()
	switch {
	case len(results) == 0 || len(results[0].Rows) != 1:
		return err
	case string(results[0].Rows[0][0]) == "on":
		return errors.Join(readOnlyByDefault(ctx, conn), pgconn.ErrReadOnlyConnection)
	}
	l, err := lineageIn(results[1:], err)
	if err != nil || f == nil {
		return err
	}
	conn.CustomData()[lineageKey] = l
	return f.observe(l)
}

// readOnlyByDefault names the setting that makes a primary read-only. The vault does not override it: some tools set it
// to stop writes while they move a database.
func readOnlyByDefault(ctx context.Context, conn *pgconn.PgConn) error {
	results, err := conn.Exec(ctx, `SELECT source FROM pg_settings
		WHERE name = 'default_transaction_read_only' AND setting = 'on'
		AND NOT pg_is_in_recovery()`).ReadAll()
	if err != nil || len(results[0].Rows) == 0 {
		return err
	}
	return newError(ErrUnavailable, "default_transaction_read_only is on (set by: %s), so nothing can be changed here",
		results[0].Rows[0][0])
}

// stillAdmits reports whether a connection that was admitted would still be.
func (f *Fence) stillAdmits(conn *pgx.Conn) bool {
	l, known := conn.PgConn().CustomData()[lineageKey].(lineage)
	return f == nil || !known || f.observe(l) == nil
}

// recheck judges the server within the transaction of a change: a pooler may have led to another server than the
// connection was made to, and a promotion may have been seen since.
func (f *Fence) recheck(conn *pgx.Conn, timeline, beatTimeline int, beatEpoch uuid.UUID) error {
	l, known := conn.PgConn().CustomData()[lineageKey].(lineage)
	if f == nil || !known {
		return nil
	}
	l.timeline, l.beatTimeline, l.beatEpoch = timeline, beatTimeline, beatEpoch
	return f.observe(l)
}

// CheckFence queries the local node for its history and records it if it is newer. ErrFenced if a newer one was seen.
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
	l, err := lineageOf(ctx, conn.Conn())
	if err != nil {
		return l, classify(err)
	}
	return l, r.fence.observe(l)
}

const knownKey = "hyperiondb-vault: lineage of a reader" // in a connection's CustomData

// lineageOf asks a connection for all of its lineage once, and later only for what can change while it lasts. That is
// one prepared statement, which takes the server a third of the time: the heartbeat asks every second.
func lineageOf(ctx context.Context, conn *pgx.Conn) (l lineage, err error) {
	raw := conn.PgConn()
	if l, known := raw.CustomData()[knownKey].(lineage); known {
		err := conn.QueryRow(ctx, `SELECT pg_is_in_recovery(), `+lineageNow).
			Scan(&l.recovering, &l.timeline, &l.beatTimeline, &l.beatEpoch)
		var server *pgconn.PgError
		if err == nil || !errors.As(err, &server) || isDisconnect(server) {
			return l, err
		}
		delete(raw.CustomData(), knownKey) // a right was taken away: queryLineage judges that
	}
	err = pinned(ctx, raw, func() (err error) {
		l, err = queryLineage(ctx, raw)
		return err
	})
	_, pooled := behindPooler(raw) // there the next statement may run in another server's session
	if err == nil && l.System != "" && l.beatTimeline != 0 && !pooled {
		raw.CustomData()[knownKey] = l
	}
	return l, err
}
