package db

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hyperiondb/vault/internal/failpoint"
)

// The limits of a change. Giving up before COMMIT is sent is safe, and the failure is definite. After that the outcome
// has to be found out.
const (
	changeTimeout = 30 * time.Second // until COMMIT is sent, over all attempts; the caller's context may be shorter
	// of one attempt until COMMIT; a frozen primary does not close the connection
	attemptTimeout = 10 * time.Second
	// A COMMIT that was sent is not interrupted by Ctrl-C or a client's cancellation: that would replace a known outcome
	// with an unknown one.
	commitTimeout = 10 * time.Second
	// How long an unanswered change is repeated, from the first COMMIT on, before its outcome is reported as unknown.
	resolveTimeout = 20 * time.Second
)

// changeSettings apply to the transaction of a change. A client that stalls loses the transaction and its locks after 4
// s, before a session that waits for those locks gives up (8 s), and before the attempt ends. Times are milliseconds.
// With remote_apply, COMMIT waits until a synchronous standby, if there is one, can show the change to its readers.
const changeSettings = `SELECT set_config('synchronous_commit', 'remote_apply', true),` +
	` set_config('idle_in_transaction_session_timeout', '4000', true), set_config('lock_timeout', '8000', true),` +
	` set_config('vault.client', '', true)` // not one that ALTER DATABASE or ROLE sets

const changeLineage = `SELECT ` + lineageNow

// Credential proves an admin token to the database without showing it.
type Credential struct {
	TokenID uuid.UUID
	Prove   func(nonce []byte) []byte
	Client  netip.Addr // that presented the token to this process; invalid: none, or over a unix socket
}

// client is its text for vault.client; "" = none.
func (c *Credential) client() string {
	if !c.Client.IsValid() {
		return ""
	}
	return c.Client.String()
}

// Settings of a secret; nil keeps, or at creation takes the default.
type Settings struct {
	Generator        *string
	RotationInterval *time.Duration
	GracePeriod      *time.Duration
	Rotator          *string // "" ends it
	Window           *string // "" ends it
}

// Committed is part of the result of every change: a position in the log, as text. A node that has replayed this far
// has the change. It is an upper bound, and empty if the connection broke right after the commit.
type Committed struct {
	LSN string `json:"lsn,omitempty"`
}

func (c *Committed) committedAt(lsn string) { c.LSN = lsn }

// Result is the result of a change of a secret.
type Result struct {
	Committed
	Name              string     `json:"name"`
	Version           int        `json:"version"`
	VersionID         string     `json:"version_id"`
	CreatedAt         *time.Time `json:"created_at"`
	PreviousExpiresAt *time.Time `json:"previous_expires_at"`
	NextRotationAt    *time.Time `json:"next_rotation_at"`
	RestoreUntil      *time.Time `json:"restore_until"`
	EndedVersions     []int      `json:"ended_versions"` // of the end of a grace
	PausedAt          *time.Time `json:"paused_at"`      // of a pause
}

// Standing is the state of a secret that a change is based on.
type Standing struct {
	CurrentVersion int
	DeletedAt      *time.Time
}

// Standing reads it from the primary; ErrNotFound if there is no such secret.
func (w *Writer) Standing(ctx context.Context, name string) (Standing, error) {
	var s Standing
	err := w.pool.QueryRow(ctx, `SELECT current_version, deleted_at FROM vault.secrets WHERE name = $1`,
		name).Scan(&s.CurrentVersion, &s.DeletedAt)
	return s, classify(err)
}

// PutVersion adds a version. action is put (which may create the secret), rotate or rollback.
func (w *Writer) PutVersion(ctx context.Context, c Credential, request uuid.UUID, action, name string, v SealedValue,
	createOnly bool, s Settings) (Result, error) {
	return change[Result](ctx, w, &c, Refusal{action, name, request},
		`SELECT vault.put_version($9, $10, `+sealedRow+`, $11, $12, $13, $14, $15, $16, $17)`,
		append(v.fields(), action, name, request, createOnly, s.Generator, s.RotationInterval, s.GracePeriod, s.Rotator,
			s.Window)...)
}

// UpdateSecret edits settings.
func (w *Writer) UpdateSecret(ctx context.Context, c Credential, request uuid.UUID, name string, s Settings, manual,
	noRotation bool) (Result, error) {
	return change[Result](ctx, w, &c, Refusal{"update", name, request},
		`SELECT vault.update_secret($1, $2, $3, $4, $5, $6, $7, $8, $9)`, name, request, s.Generator, s.RotationInterval,
		s.GracePeriod, manual, noRotation, s.Rotator, s.Window)
}

// DeleteSecret hides a secret until it is restored or its window ends.
func (w *Writer) DeleteSecret(ctx context.Context, c Credential, request uuid.UUID, name string,
	window time.Duration) (Result, error) {
	return change[Result](ctx, w, &c, Refusal{"delete", name, request}, `SELECT vault.delete_secret($1, $2, $3)`, name,
		request, window)
}

// RestoreSecret undoes a delete.
func (w *Writer) RestoreSecret(ctx context.Context, c Credential, request uuid.UUID, name string) (Result, error) {
	return change[Result](ctx, w, &c, Refusal{"restore", name, request}, `SELECT vault.restore_secret($1, $2)`, name,
		request)
}

// PurgeSecret removes a secret and its versions for good.
func (w *Writer) PurgeSecret(ctx context.Context, c Credential, request uuid.UUID, name string) (Result, error) {
	return change[Result](ctx, w, &c, Refusal{"purge", name, request}, `SELECT vault.purge_secret($1, $2)`, name, request)
}

// EndGrace ends the grace of one superseded version, or (0) of all.
func (w *Writer) EndGrace(ctx context.Context, c Credential, request uuid.UUID, name string,
	version int) (Result, error) {
	var one *int
	if version != 0 {
		one = &version
	}
	return change[Result](ctx, w, &c, Refusal{"grace.end", name, request}, `SELECT vault.end_grace($1, $2, $3)`, name, one,
		request)
}

// TokenRow is an admin token without its fingerprint.
type TokenRow struct {
	ID         uuid.UUID  `json:"id"`
	Name       string     `json:"name"`
	Scope      string     `json:"scope"`
	CreatedAt  *time.Time `json:"created_at,omitempty"`
	CreatedBy  string     `json:"created_by,omitempty"`
	ExpiresAt  *time.Time `json:"expires_at,omitempty"`
	RevokedAt  *time.Time `json:"revoked_at,omitempty"`
	LastUsedAt *time.Time `json:"last_used_at,omitempty"`
	// Of a token just revoked: transactions that began before, and that it may have authorised.
	OpenChanges []OpenChange `json:"open_changes,omitempty"`
	Committed
}

// NewToken is a token to store: its fingerprint, not its secret.
type NewToken struct {
	ID          uuid.UUID
	Name        string
	Fingerprint [32]byte
	Scope       string     // name prefix; "" = everything
	ExpiresAt   *time.Time // nil = never
}

// CreateToken stores a token's fingerprint.
func (w *Writer) CreateToken(ctx context.Context, c Credential, request uuid.UUID, t NewToken) (TokenRow, error) {
	return change[TokenRow](ctx, w, &c, Refusal{"token.create", "", request},
		`SELECT vault.create_token($1, $2, $3, $4, $5, $6)`, t.ID, t.Name, t.Fingerprint[:], t.Scope, t.ExpiresAt, request)
}

// CreateTokenAsOwner stores a token without the authority of another token. It takes membership in vault_owner.
func (w *Writer) CreateTokenAsOwner(ctx context.Context, request uuid.UUID, t NewToken) (TokenRow, error) {
	return change[TokenRow](ctx, w, nil, Refusal{}, `SELECT vault.create_token_as_owner($1, $2, $3, $4, $5)`,
		t.ID, t.Name, t.Fingerprint[:], t.ExpiresAt, request)
}

// OpenChange is an open transaction that may change the vault: of a session, or prepared.
type OpenChange struct {
	PID      int        `json:"pid,omitempty"`
	Role     string     `json:"role"`
	Client   string     `json:"client,omitempty"` // "" over a unix socket
	Prepared string     `json:"prepared,omitempty"`
	Since    *time.Time `json:"since,omitempty"`
}

// openChangesLimit is how long transactions that are open at a revocation have to end. The vault's own take
// milliseconds.
const openChangesLimit = 2 * time.Second

// RevokeToken ends a token at once: transactions that it has authorised fail at their COMMIT. The row lists those that
// began before the revocation and are still open.
func (w *Writer) RevokeToken(ctx context.Context, c Credential, request uuid.UUID, name string) (TokenRow, error) {
	revoke := func() (row revokedToken, err error) {
		return change[revokedToken](ctx, w, &c, Refusal{"token.revoke", "", request},
			`SELECT vault.revoke_token($1, $2) || jsonb_build_object('timeline', `+nodeTimeline+`)`, name, request)
	}
	row, err := revoke()
	if err != nil {
		return row.TokenRow, err
	}
	for {
		open, err := w.openChanges(ctx)
		if err == nil && open.Timeline == row.Timeline {
			row.OpenChanges = open.Open
			return row.TokenRow, nil
		}
		if err == nil { // a standby was promoted in between, perhaps without the revocation
			var again revokedToken
			if again, err = revoke(); errors.Is(err, ErrRefused) {
				again.Timeline, err = open.Timeline, nil // a token that revoked itself, also on the promoted standby
			}
			if err == nil {
				row.Timeline = again.Timeline
				continue
			}
		}
		return row.TokenRow, newError(ErrOutcomeUnknown,
			"token %q is revoked on the primary; whether its standbys know could not be learned: %s", name, oneLine(err))
	}
}

type revokedToken struct {
	TokenRow
	Timeline int `json:"timeline"`
}

type openChanges struct {
	Since    *time.Time   `json:"since"`
	Open     []OpenChange `json:"open"`
	Timeline int          `json:"timeline"`
	Committed
}

// openChanges waits for the transactions that began before the revocation, and returns those that do not end.
func (w *Writer) openChanges(ctx context.Context) (openChanges, error) {
	var found openChanges
	pause := newBackOff()
	for end := time.Now().Add(openChangesLimit); ; {
		var err error
		found, err = change[openChanges](ctx, w, nil, Refusal{}, holdsOnTimeline, found.Since)
		if err != nil || len(found.Open) == 0 || time.Now().After(end) {
			return found, err
		}
		select {
		case <-ctx.Done():
			return found, nil
		case <-time.After(pause.NextBackOff()):
		}
	}
}

// Tokens lists all tokens, revoked ones too.
func (w *Writer) Tokens(ctx context.Context, c Credential) ([]TokenRow, error) {
	return change[[]TokenRow](ctx, w, &c, Refusal{"token.list", "", uuid.New()},
		`SELECT coalesce(jsonb_agg(to_jsonb(t)), '[]') FROM vault.list_tokens() t`)
}

// Token is the row of the token that is presented.
func (w *Writer) Token(ctx context.Context, c Credential) (TokenRow, error) {
	return change[TokenRow](ctx, w, &c, Refusal{"token.show", "", uuid.New()}, `SELECT vault.my_token()`)
}

// Grant is a database role's access.
type Grant struct {
	Role     string   `json:"role"`
	Group    string   `json:"group,omitempty"` // vault_service, vault_worker or vault_auditor
	Prefix   *string  `json:"prefix,omitempty"`
	Prefixes []string `json:"prefixes,omitempty"` // all that the role has now
	Committed
}

// GrantServiceRole lets a role read the names under a prefix and call the write API.
func (w *Writer) GrantServiceRole(ctx context.Context, c Credential, request uuid.UUID, role,
	prefix string) (Grant, error) {
	return change[Grant](ctx, w, &c, Refusal{"grant", "", request}, `SELECT vault.grant_service_role($1, $2, $3)`, role,
		prefix, request)
}

// GrantWorkerRole lets a role run rotations.
func (w *Writer) GrantWorkerRole(ctx context.Context, c Credential, request uuid.UUID, role string) (Grant, error) {
	return change[Grant](ctx, w, &c, Refusal{"grant", "", request}, `SELECT vault.grant_worker_role($1, $2)`, role,
		request)
}

// GrantAuditorRole lets a role read the audit log.
func (w *Writer) GrantAuditorRole(ctx context.Context, c Credential, request uuid.UUID, role string) (Grant, error) {
	return change[Grant](ctx, w, &c, Refusal{"grant", "", request}, `SELECT vault.grant_auditor_role($1, $2)`, role,
		request)
}

// RevokeServiceRole takes one prefix (nil: all access) from a role.
func (w *Writer) RevokeServiceRole(ctx context.Context, c Credential, request uuid.UUID, role string,
	prefix *string) (Grant, error) {
	return change[Grant](ctx, w, &c, Refusal{"grant.revoke", "", request}, `SELECT vault.revoke_service_role($1, $2, $3)`,
		role, prefix, request)
}

// change is [Writer.Change] with the result as its value.
func change[T any](ctx context.Context, w *Writer, c *Credential, r Refusal, sql string, args ...any) (T, error) {
	var result T
	err := w.Change(ctx, c, r, &result, sql, args...)
	return result, err
}

func newBackOff() *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval = 50*time.Millisecond, 2*time.Second
	return b
}

// budget is the time that a change has. The caller can end it until COMMIT is sent, and not afterwards.
type budget struct {
	ctx    context.Context // before, or after COMMIT one that only resolveTimeout ends
	before context.Context // the caller's, with changeTimeout
	cancel []context.CancelFunc
	sent   bool // a COMMIT was sent that has no definite answer
}

func newBudget(ctx context.Context) *budget {
	before, cancel := context.WithTimeout(ctx, changeTimeout)
	return &budget{ctx: before, before: before, cancel: []context.CancelFunc{cancel}}
}

// commit is called before COMMIT is sent, the last point at which the change can be given up.
func (b *budget) commit() error {
	if err := b.ctx.Err(); err != nil {
		return err
	}
	if !b.sent {
		after, cancel := context.WithTimeout(context.WithoutCancel(b.before), resolveTimeout)
		b.ctx, b.cancel, b.sent = after, append(b.cancel, cancel), true
	}
	return nil
}

// settled is called when the server has reported that nothing was changed.
func (b *budget) settled() { b.ctx, b.sent = b.before, false }

// wait pauses between two attempts, and reports whether there is time for another.
func (b *budget) wait(pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-b.ctx.Done():
		return false
	}
}

func (b *budget) end() {
	for _, cancel := range b.cancel {
		cancel()
	}
}

// errConnect means that nothing was sent, because no primary could be reached.
var errConnect = errors.New("connecting")

// errUnreplicated means that the server has committed without waiting for its synchronous standby.
var errUnreplicated = errors.New("the server did not wait for its synchronous standby")

// worthRepeating reports whether another attempt can have another outcome, and drops the connections that are no use
// for it.
func (w *Writer) worthRepeating(err error, b *budget) bool {
	var known *Error
	errors.As(classify(err), &known)
	code := ""
	if known != nil {
		code = known.Code
	}
	switch {
	case errors.Is(err, errConnect):
		return b.sent // else fail at once: an operator waits
	case code == "25006", errors.Is(err, ErrFenced):
		w.pool.Reset() // the sessions date from before a failover
		return true
	case errors.Is(err, context.DeadlineExceeded):
		w.pool.Reset() // the other connections lead to the same frozen server
		return true
	case code == "40001", code == "40P01":
		return true
	case errors.Is(err, ErrSchema), errors.Is(err, ErrNotInitialised):
		return false
	case errors.Is(err, context.Canceled):
		return false
	case isDefinite(err):
		// The error is about this attempt only; the outcome of an earlier one is still open.
		return b.sent && !settlesEarlierAttempt(code)
	default:
		return true // the connection broke
	}
}

// settlesEarlierAttempt reports whether an error with this code proves that an earlier attempt has not committed and
// will not. The functions of the write API look up the request id before they can fail with these codes, and the lookup
// waits for the transaction of an earlier attempt.
func settlesEarlierAttempt(code string) bool {
	return strings.HasPrefix(code, "VA") || strings.HasPrefix(code, "22") || strings.HasPrefix(code, "23")
}

// failedOver drops every connection if one turned out to be read-only.
func (w *Writer) failedOver(err error) error {
	if e, ok := err.(*Error); ok && e.Code == "25006" {
		w.pool.Reset()
	}
	return err
}

func (w *Writer) explain(ctx context.Context, c *Credential, r Refusal, err error, b *budget) error {
	var server *pgconn.PgError
	settled := errors.As(err, &server) && settlesEarlierAttempt(server.Code)
	if b.sent && !settled {
		return newError(ErrOutcomeUnknown,
			"the change was sent, but whether it was made could not be learned (request %s): %s", r.Request, oneLine(err))
	}
	var known *Error
	if errors.As(err, &known) {
		err = known // drops errConnect, whose text repeats the beginning
	}
	err = classify(err)
	if c != nil && errors.Is(err, ErrRefused) {
		w.recordRefusal(ctx, c, r, err)
	}
	return err
}

// once is one attempt, in three round trips: begin, call, commit. The commit point is b.commit: until then nothing has
// happened. Afterwards b.sent says whether the outcome is open.
func (w *Writer) once(b *budget, c *Credential, result any, sql string, args []any) error {
	pooled, err := w.pool.Acquire(b.ctx)
	if err != nil {
		return notConnected(b.ctx, err)
	}
	defer pooled.Release()
	conn := pooled.Conn()
	ctx, cancel := context.WithTimeout(b.ctx, attemptTimeout)
	defer cancel()
	defer rollback(ctx, conn)
	nonce, err := w.begin(ctx, conn, c)
	if err != nil {
		return err
	}
	if !w.recording {
		failpoint.Hit("write.begun")
	}
	if err := call(ctx, conn, c, nonce, result, sql, args); err != nil {
		return err
	}
	if !w.recording {
		failpoint.Hit("write.before_commit")
	}
	inDoubt := b.sent // an earlier attempt may have committed; then this is its replay
	if err := b.commit(); err != nil {
		return err
	}
	limit, stop := context.WithTimeout(b.ctx, commitTimeout)
	defer stop()
	lsn, err := commit(limit, conn)
	if err != nil {
		if isDefinite(err) && !inDoubt {
			b.settled()
		}
		return err
	}
	if !w.recording {
		failpoint.Hit("write.committed")
	}
	if r, ok := result.(interface{ committedAt(lsn string) }); ok && lsn != "" {
		r.committedAt(lsn)
	}
	return nil
}

// rollback does nothing after COMMIT. If it fails, the pool closes the connection, which ends the transaction.
func rollback(ctx context.Context, conn *pgx.Conn) {
	if conn.IsClosed() || conn.PgConn().TxStatus() == 'I' {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_, _ = conn.Exec(ctx, `ROLLBACK`)
}

// notConnected keeps the reason why a connection was refused, and separates an unreachable primary from a caller's
// cancellation.
func notConnected(ctx context.Context, err error) error {
	if errors.Is(err, ErrSchema) || errors.Is(err, ErrNotInitialised) || errors.Is(ctx.Err(), context.Canceled) {
		return err
	}
	return errors.Join(errConnect, classify(err))
}

// begin opens the transaction of a change: the settings, the check that the server is still the primary to write to (a
// pooler may have led to another server than the connection was made to), and the challenge.
func (w *Writer) begin(ctx context.Context, conn *pgx.Conn, c *Credential) (nonce []byte, err error) {
	s, kind := session{conn}, fmt.Sprintf("a change, with a credential: %t", c != nil)
	batch := &pgx.Batch{}
	switch pin, pooled := behindPooler(conn.PgConn()); {
	case !pooled:
		batch.Queue(beginPlain)
	case s.described(kind, nil):
		batch.Queue(beginPlain)
		batch.Queue(pin)
	default:
		if err := s.open(ctx, pin, true); err != nil {
			return nil, err
		}
		defer func() { conn.PgConn().CustomData()[describedKey].(map[string]bool)[kind] = err == nil }()
	}
	batch.Queue(changeSettings)
	var timeline, beatTimeline int
	var beatEpoch uuid.UUID
	batch.Queue(changeLineage).QueryRow(func(row pgx.Row) error { return row.Scan(&timeline, &beatTimeline, &beatEpoch) })
	if c != nil {
		batch.Queue(`SELECT vault.challenge()`).QueryRow(func(row pgx.Row) error { return row.Scan(&nonce) })
	}
	if err := conn.SendBatch(ctx, batch).Close(); err != nil {
		return nil, err
	}
	return nonce, w.fence.recheck(conn, timeline, beatTimeline, beatEpoch)
}

// call proves the credential, if there is one, and calls the function. If the server refuses the proof, it skips the
// call.
func call(ctx context.Context, conn *pgx.Conn, c *Credential, nonce []byte, result any, sql string, args []any) error {
	batch := &pgx.Batch{}
	if c != nil && c.client() != "" {
		batch.Queue(`SELECT set_config('vault.client', $1, true)`, c.client())
	}
	if c != nil {
		batch.Queue(`SELECT vault.authorize_proof($1, $2)`, c.TokenID, c.Prove(nonce))
	}
	batch.Queue(sql, args...).QueryRow(func(row pgx.Row) error { return row.Scan(result) })
	return conn.SendBatch(ctx, batch).Close()
}

// commit sends COMMIT, and after it a query for the position of the log, which is an upper bound of the commit record's
// position. If that query fails, lsn is "" and the outcome of COMMIT is not affected.
//
// A success with a warning is an error: when the wait for a synchronous standby is cancelled, by hand or by
// statement_timeout, the server answers that it has committed, and only the warning says that no standby has the
// change.
func commit(ctx context.Context, conn *pgx.Conn) (lsn string, err error) {
	forgetWarning(conn)
	batch := &pgx.Batch{}
	batch.Queue(`COMMIT`)
	batch.Queue(positionQuery)
	answers := conn.SendBatch(ctx, batch)
	defer answers.Close()
	tag, err := answers.Exec()
	switch {
	case err != nil:
		return "", err
	case tag.String() == "ROLLBACK":
		return "", pgx.ErrTxCommitRollback
	}
	if text := lastWarning(conn); text != "" {
		return "", fmt.Errorf("%w: %s", errUnreplicated, text)
	}
	_ = answers.QueryRow().Scan(&lsn)
	return lsn, nil
}

// recordRefusal writes the audit row of a refused change, because the refused transaction has rolled back. It is
// tried for commitTimeout while another session, such as one that prunes, has a lock of the log.
func (w *Writer) recordRefusal(ctx context.Context, c *Credential, r Refusal, why error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	pause := newBackOff()
	for {
		// Best effort: a role without any right to the vault cannot write here either; the server's log has the refusal.
		_, err := w.pool.Exec(ctx, `SELECT set_config('vault.client', $6, true), vault.record_refusal($1, $2, $3, $4, $5)`,
			r.Action, r.Secret, why.Error(), c.TokenID, r.Request, c.client())
		if !errors.Is(classify(err), ErrBusy) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause.NextBackOff()):
		}
	}
}
