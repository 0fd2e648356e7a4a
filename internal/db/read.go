package db

import (
	"context"
	"encoding/json"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// VersionRow is one sealed version and the times of its secret, from one statement. Nothing in it has been checked: the
// reader verifies lengths, AAD and key id. Concurrent readers may share its bytes, so they are read-only.
type VersionRow struct {
	Version        int
	VersionID      uuid.UUID
	Format         int
	KMSKeyID       string
	WrappedDEK     []byte
	Nonce          []byte
	Ciphertext     []byte
	KeyCommit      []byte
	AAD            string
	CreatedAt      time.Time
	ExpiresAt      *time.Time // nil = current
	RotatedAt      *time.Time // of the secret: when its current version was made. LiveVersions leaves it out
	NextRotationAt *time.Time // of the secret. LiveVersions leaves it out
}

// Current reads the current version. A secret that has none is ErrIntegrity, not ErrNotFound: clients act on a 404.
func (r *Reader) Current(ctx context.Context, name string) (VersionRow, error) {
	s, err := r.read(ctx, r.current, name)
	return s.current(err)
}

// ReadCurrent reads the current version and the access epoch of the same snapshot. The error is that there was no
// answer; that the secret is absent is in the reading.
func (r *Reader) ReadCurrent(ctx context.Context, name string) (Reading, error) {
	return reading(r.read(ctx, r.current, name))
}

// ReadLive reads the current version, those in grace and the access epoch of the same snapshot. The error is that there
// was no answer; that the secret is absent is in the reading.
func (r *Reader) ReadLive(ctx context.Context, name string) (Reading, error) {
	return reading(r.read(ctx, r.live, name))
}

// reading makes an error of a name that the server could not read: such an answer has no epoch.
func reading(s readResult, err error) (Reading, error) {
	if err == nil && s.unanswered {
		err = s.bad
	}
	return Reading{s}, err
}

// read joins the shared query for one name. A name without a row is looked into by another shared query, so that the
// other requests do not wait for it.
func (r *Reader) read(ctx context.Context, query *coalescer[readResult], name string) (readResult, error) {
	s, err := query.get(ctx, name)
	if err != nil || s.found {
		return s, err
	}
	ctx, cancel := context.WithTimeout(ctx, query.limit)
	defer cancel()
	for {
		l, err := r.missing.get(ctx, name)
		if err != nil || !l.found || l.bad != nil {
			return l, err
		}
		s, err := query.get(ctx, name) // created between the two queries
		if err != nil || s.found {
			return s, err
		}
	}
}

// Current reads the current version from the primary, as the base of a change.
func (w *Writer) Current(ctx context.Context, name string) (VersionRow, error) {
	found, err := current.withMissing(ctx, w.pool, []string{name})
	return found[name].current(err)
}

// LiveVersions reads the current version and those in grace, newest first. ErrNotFound if the secret is absent or
// deleted.
func (r *Reader) LiveVersions(ctx context.Context, name string) ([]VersionRow, error) {
	s, err := r.read(ctx, r.live, name)
	return s.rows, s.check(err)
}

// Version reads one live version by its number. ErrNotFound also if it has expired.
func (r *Reader) Version(ctx context.Context, name string, version int) (VersionRow, error) {
	s, err := r.read(ctx, r.live, name)
	return s.version(version, err)
}

// SecretRow is a secret without any value.
type SecretRow struct {
	Name           string     `json:"name"`
	Kind           string     `json:"kind"`
	CurrentVersion int        `json:"current_version"`
	Generator      string     `json:"generator,omitempty"`
	RotateSeconds  int64      `json:"rotation_interval_seconds,omitempty"`
	GraceSeconds   int64      `json:"grace_period_seconds"`
	Rotator        string     `json:"rotator,omitempty"`
	Window         string     `json:"rotation_window,omitempty"`
	PausedAt       *time.Time `json:"rotation_paused_at,omitempty"`
	CreatedAt      time.Time  `json:"created_at"`
	RotatedAt      *time.Time `json:"rotated_at,omitempty"`
	NextRotationAt *time.Time `json:"next_rotation_at,omitempty"`
	DeletedAt      *time.Time `json:"deleted_at,omitempty"`
	RestoreUntil   *time.Time `json:"restore_until,omitempty"`
	Job            *JobRow    `json:"rotation_job,omitempty"` // the newest job, if open or failed
}

// JobRow is the state of a rotation.
type JobRow struct {
	ID        int64     `json:"id"`
	State     string    `json:"state"`
	Attempt   int       `json:"attempt"`
	DueAt     time.Time `json:"due_at"`
	RunAfter  time.Time `json:"run_after"`
	ClaimedBy string    `json:"claimed_by,omitempty"`
	LastError string    `json:"last_error,omitempty"`
}

const secretColumns = `s.name, s.kind, s.current_version, coalesce(s.generator, ''),
	coalesce(extract(epoch FROM s.rotation_interval)::bigint, 0), extract(epoch FROM s.grace_period)::bigint,
	coalesce(s.rotator, ''), coalesce(s.rotation_window, ''), s.rotation_paused_at, s.created_at, s.rotated_at,
	s.next_rotation_at, s.deleted_at, s.restore_until`

// NewestJob is the newest job of secret s as JSON, if it is open or failed. A failed one counts until there is a newer
// version than the one that it failed to replace.
const NewestJob = `(SELECT jsonb_build_object('id', j.id, 'state', j.state, 'attempt', j.attempt, 'due_at', j.due_at,
	'run_after', j.run_after,
	'claimed_by', coalesce(j.claimed_by, ''), 'last_error', coalesce(j.last_error, '')) FROM vault.rotation_jobs j
	WHERE j.secret_id = s.id AND (j.state IN ('queued', 'claimed')
		OR (j.state = 'failed' AND j.from_version = s.current_version))
	ORDER BY j.id DESC LIMIT 1)`

func scanSecret(row pgx.CollectableRow) (SecretRow, error) {
	var s SecretRow
	var job []byte
	err := row.Scan(&s.Name, &s.Kind, &s.CurrentVersion, &s.Generator, &s.RotateSeconds, &s.GraceSeconds,
		&s.Rotator, &s.Window, &s.PausedAt, &s.CreatedAt, &s.RotatedAt, &s.NextRotationAt, &s.DeletedAt, &s.RestoreUntil,
		&job)
	if err == nil && job != nil {
		err = json.Unmarshal(job, &s.Job)
	}
	return s, err
}

// Secret reads one secret, deleted or not.
func (r *Reader) Secret(ctx context.Context, name string) (SecretRow, error) {
	return secret(ctx, r.pool, name)
}

// Secret reads one secret from the primary, deleted or not, as the base of a change.
func (w *Writer) Secret(ctx context.Context, name string) (SecretRow, error) {
	return secret(ctx, w.pool, name)
}

func secret(ctx context.Context, q Querier, name string) (SecretRow, error) {
	rows, err := Collect(ctx, q, scanSecret,
		`SELECT `+secretColumns+`, `+NewestJob+` FROM vault.secrets s WHERE s.name = $1`, name)
	if err != nil {
		return SecretRow{}, err
	}
	if len(rows) == 0 {
		return SecretRow{}, ErrNotFound
	}
	return rows[0], nil
}

// ListQuery selects secrets by name. Limit 0 = 1000; the next page begins After the last name of this one.
type ListQuery struct {
	Prefix  string
	After   string
	Deleted bool // deleted and restorable ones, instead of live ones
	Limit   int
}

// UnderPrefix holds for the names that begin with $1. It is a range of the index of names even if the plan does not
// know the prefix: '~' sorts after every character of a name.
const UnderPrefix = `s.name >= $1 AND s.name < $1 || '~'`

// Secrets lists secrets in the order of their names.
func (r *Reader) Secrets(ctx context.Context, q ListQuery) (page []SecretRow, err error) {
	err = r.ReadInOrder(ctx, func(tx pgx.Tx) (err error) {
		page, err = secrets(ctx, tx, q)
		return err
	})
	return page, err
}

func secrets(ctx context.Context, tx pgx.Tx, q ListQuery) ([]SecretRow, error) {
	if q.Limit == 0 {
		q.Limit = 1000
	}
	which := `s.deleted_at IS NULL`
	if q.Deleted {
		which = `s.deleted_at IS NOT NULL AND s.restore_until > now()`
	}
	return Collect(ctx, tx, scanSecret, `SELECT `+secretColumns+`, `+NewestJob+` FROM vault.secrets s
		WHERE `+UnderPrefix+` AND s.name > $2 AND `+which+` ORDER BY s.name LIMIT $3`, q.Prefix, q.After, q.Limit)
}

// HistoryRow is a version without its sealed bytes.
type HistoryRow struct {
	Version   int        `json:"version"`
	VersionID uuid.UUID  `json:"version_id"`
	State     string     `json:"state"` // current, grace or expired
	CreatedAt time.Time  `json:"created_at"`
	CreatedBy string     `json:"created_by"`
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
	KMSKeyID  string     `json:"kms_key_id"`
}

// History lists all versions of a secret, newest first.
func (r *Reader) History(ctx context.Context, name string) ([]HistoryRow, error) {
	return history(ctx, r.pool, name)
}

func history(ctx context.Context, q Querier, name string) ([]HistoryRow, error) {
	rows, err := Collect(ctx, q, func(row pgx.CollectableRow) (HistoryRow, error) {
		var h HistoryRow
		err := row.Scan(&h.Version, &h.VersionID, &h.State, &h.CreatedAt, &h.CreatedBy, &h.ExpiresAt, &h.KMSKeyID)
		return h, err
	}, `SELECT v.version, v.version_id, CASE WHEN v.expires_at IS NULL THEN 'current'
			WHEN v.expires_at > now() AND v.removed_at IS NULL THEN 'grace' ELSE 'expired' END,
			v.created_at, v.created_by, v.expires_at, v.kms_key_id
		FROM vault.secrets s JOIN vault.secret_versions v ON v.secret_id = s.id
		WHERE s.name = $1 ORDER BY v.version DESC`, name)
	if err == nil && len(rows) == 0 {
		return nil, ErrNotFound
	}
	return rows, err
}

// Health is the result of vault.health() on a node: the part of the status whose cost does not grow with the number of
// secrets. To a role with prefixes the counts are those of rotations and failures under them.
type Health struct {
	Role             string `json:"role"` // primary or standby
	RotationsQueued  int64  `json:"rotations_queued"`
	RotationsClaimed int64  `json:"rotations_claimed"`
	RotationsFailed  int64  `json:"rotations_failed"`
	// due for more than 5 minutes, and neither paused nor outside their window
	RotationsOverdue int64 `json:"rotations_overdue"`
	RotationsPaused  int64 `json:"rotations_paused"`
	// parts, secrets and months that the rounds of supervisor, workers and sealer fail on
	RoundFailures int64 `json:"round_failures"`
	MaxRotations  *int  `json:"max_rotations,omitempty"` // the cap on all workers together
	// behind the primary, by the heartbeat; nil = unknown
	LagSeconds *float64 `json:"lag_seconds,omitempty"`
	// of a primary: how long the oldest audit row has waited for its seal; nil = no seal yet
	UnsealedSeconds *float64 `json:"audit_unsealed_seconds,omitempty"`
}

// Status is the result of vault.status() on a node, which counts all secrets. To a role with prefixes the counts are
// those of the names and tokens under them; WrongProofs is 0, and RefusedLastHour its own.
type Status struct {
	Health
	Node          string `json:"node,omitempty"`
	ServerVersion string `json:"server_version"`
	ClusterID     string `json:"cluster_id"`
	SchemaVersion int    `json:"schema_version"`
	Compatible    int    `json:"compatible_since"` // the oldest schema version whose binaries work on this one
	Secrets       int64  `json:"secrets"`
	Deleted       int64  `json:"deleted"`
	LiveVersions  int64  `json:"live_versions"`
	Tokens        int64  `json:"tokens"`
	// of admin tokens, since the installation; up to 32 too many after a crash and on a standby
	WrongProofs     int64       `json:"wrong_proofs"`
	RefusedLastHour int64       `json:"refused_last_hour"`  // refused changes that clients have reported
	KeepJobs        int         `json:"keep_jobs_days"`     // ended rotations stay
	KeepVersions    int         `json:"keep_versions_days"` // removed versions stay
	NextRotationAt  *time.Time  `json:"next_rotation_at,omitempty"`
	Standbys        *int        `json:"standbys,omitempty"`                  // of a primary: connected now
	SyncNames       *string     `json:"synchronous_standby_names,omitempty"` // of a primary
	Durability      *Durability `json:"durability,omitempty"`                // of a primary
	// from the newest round of a supervisor to the newest heartbeat; nil = no round yet
	Unsupervised *float64 `json:"unsupervised_seconds,omitempty"`
	// of a primary: locks that one transaction holds too long
	HeldLocks []HeldLock `json:"held_locks,omitempty"`
	// of a standby: commit time of the last change replayed
	ReplayedUntil *time.Time `json:"replayed_until,omitempty"`
	LSN           string     `json:"lsn"`
}

// HeldLock is a lock of the vault's that one transaction has held for longer than the vault itself does.
type HeldLock struct {
	Lock   string      `json:"lock"` // what waits: "claims of rotations", "sealing", "the heartbeat", "migrations"
	Holder Transaction `json:"holder"`
}

// Transaction is a running or prepared transaction.
type Transaction struct {
	PID         int        `json:"pid"`
	Prepared    string     `json:"prepared"` // the name of a prepared one
	Application string     `json:"application"`
	Role        string     `json:"role"`
	Database    string     `json:"database"`
	State       string     `json:"state"` // "" without pg_read_all_stats for vault_owner
	WaitsFor    string     `json:"waits_for"`
	Since       *time.Time `json:"since"` // nil without it
}

// Durability describes which failures an acknowledged write survives.
type Durability struct {
	// asynchronous: a failover can lose it; synchronous: another node has it; blocked: fewer synchronous standbys are
	// connected than a write waits for; unknown: the vault has no right to see which standbys are connected.
	Replication string   `json:"replication"`
	Needed      int      `json:"needed"`      // synchronous standbys that a write waits for
	Synchronous []string `json:"synchronous"` // such standbys that are connected
	WeakenedBy  []string `json:"weakened_by"` // settings with which a crash of the machine can lose it
}

// Health reads what a scrape and a probe of the node ask.
func (r *Reader) Health(ctx context.Context) (Health, error) {
	var h Health
	err := r.pool.QueryRow(ctx, `SELECT vault.health()`).Scan(&h)
	return h, classify(err)
}

// Status reads the state of the node.
func (r *Reader) Status(ctx context.Context) (Status, error) {
	var s Status
	err := r.pool.QueryRow(ctx, `SELECT vault.status()`).Scan(&s)
	return s, classify(err)
}

// Ping checks that the node answers and that its schema fits: also that of connections made before a migration. If it
// does not fit, they are closed.
func (r *Reader) Ping(ctx context.Context) error {
	c, err := queryConfig(ctx, r.pool)
	if err != nil {
		return err
	}
	if err := c.fits(); err != nil {
		r.pool.Reset()
		return err
	}
	return nil
}

// Ping checks that there is a primary and that its schema fits. A connection that it had to make has found out both.
func (w *Writer) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, w.pool.limit)
	defer cancel()
	began := time.Now()
	return classify(w.pool.retryWhileFull(ctx, func() error {
		conn, err := w.pool.Acquire(ctx)
		if err != nil {
			return err
		}
		defer conn.Release()
		if made, known := conn.Conn().PgConn().CustomData()[madeKey].(time.Time); known && made.After(began) {
			return nil
		}
		_, err = session{conn.Conn()}.Exec(ctx, `SELECT 1`)
		return err
	}))
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
