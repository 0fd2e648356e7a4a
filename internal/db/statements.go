package db

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// The statements of some subjects are in packages beside this one, such as internal/audit/auditdb. They run over a
// Reader or a Writer by what this file exports: [Collect] and [One], [Reader.ReadInOrder], [Writer.InTx] and
// [Writer.Change]. All of these return the errors of this package.

// Querier runs a query: a Reader, a Writer, or the transaction of ReadInOrder and InTx.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// Query is for [Collect] and [One]: its errors are those of pgx. It takes at most the time of a statement.
func (r *Reader) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return r.pool.Query(ctx, sql, args...)
}

// Query is [Reader.Query] on the primary.
func (w *Writer) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return w.pool.Query(ctx, sql, args...)
}

// Collect returns the rows of a query. ErrIntegrity if a row cannot be scanned.
func Collect[T any](ctx context.Context, q Querier, scan pgx.RowToFunc[T], sql string, args ...any) ([]T, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, classify(err)
	}
	all, err := pgx.CollectRows(rows, scan)
	var scanErr pgx.ScanArgError
	if errors.As(err, &scanErr) {
		return nil, newError(ErrIntegrity, "a row has a column of the wrong kind: %s", oneLine(err))
	}
	return all, classify(err)
}

// One returns the first row of a query, which has one column; ErrNotFound if there is no row.
func One[T any](ctx context.Context, q Querier, sql string, args ...any) (one T, err error) {
	rows, err := Collect(ctx, q, pgx.RowTo[T], sql, args...)
	if err == nil && len(rows) == 0 {
		return one, ErrNotFound
	}
	if err == nil {
		one = rows[0]
	}
	return one, err
}

// orderTimeout is for a statement of ReadInOrder, if the caller has no deadline.
const orderTimeout = 30 * time.Second

// ReadInOrder runs a read-only transaction with one snapshot, whose statements end before the caller's deadline. Plans
// are made for the actual parameters (a prefix of "prod/" and one of "" need different plans), and not compiled: that
// takes longer than they run. Rows come from an index that has their order, one by one: a plan that gathers and then
// sorts has no bound.
func (r *Reader) ReadInOrder(ctx context.Context, f func(pgx.Tx) error) error {
	timeout := orderTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = min(timeout, max(time.Until(deadline), time.Millisecond))
	}
	err := r.pool.inTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `SELECT set_config('statement_timeout', $1, true),
			set_config('plan_cache_mode', 'force_custom_plan', true),
			set_config('jit', 'off', true), set_config('enable_seqscan', 'off', true),
			set_config('enable_bitmapscan', 'off', true)`, fmt.Sprintf("%dms", max(1, timeout.Milliseconds())))
		if err != nil {
			return err
		}
		return f(tx)
	})
	err = classify(err)
	var known *Error
	if errors.As(err, &known) && known.Code == "57014" {
		return &Error{Kind: ErrUnavailable, Text: "the query took too long", Code: known.Code}
	}
	return err
}

// InTx runs a transaction on the primary. After a lost reply to its COMMIT, the outcome is unknown and the error is
// ErrUnavailable: it is for work that the caller can find done, or do again. [Writer.Change] is for all other changes.
func (w *Writer) InTx(ctx context.Context, f func(pgx.Tx) error) error {
	return w.failedOver(classify(w.pool.inTx(ctx, pgx.TxOptions{}, f)))
}

// Refusal is the row of the audit log for a change that is refused.
type Refusal struct {
	Action  string
	Secret  string // "" = none
	Request uuid.UUID
}

// Change runs one transaction of the write API: challenge, proof of the credential (nil: the function takes none), the
// call, COMMIT. After a lost connection, a failover or a deadlock it repeats the same request; the function has to
// recognise a replay, by its request id or otherwise. ErrOutcomeUnknown if COMMIT was sent and its outcome could not be
// learned. With a credential, a refusal is recorded in the audit log as r.
//
// result is a pointer to what the call returns, in one column; if it embeds [Committed], that is set.
func (w *Writer) Change(ctx context.Context, c *Credential, r Refusal, result any, sql string, args ...any) error {
	b := newBudget(ctx)
	defer b.end()
	pause := newBackOff()
	for {
		err := w.once(b, c, result, sql, args)
		if err == nil {
			return nil
		}
		if !w.worthRepeating(err, b) || !b.wait(pause.NextBackOff()) {
			return w.explain(ctx, c, r, err, b)
		}
	}
}

// Narrow is [Writer.Change] for a change that takes access away. call is the call of a function that returns jsonb. It
// takes effect at its COMMIT on the primary; afterwards Narrow waits for the synchronous standbys, so that a failover
// does not undo it. If a standby was promoted in between, perhaps without the change, the same request is made again.
// ErrOutcomeUnknown if it was made, and whether the standbys have it could not be learned.
func (w *Writer) Narrow(ctx context.Context, c *Credential, r Refusal, result any, call string, args ...any) error {
	for first := true; ; first = false {
		var made struct {
			Result   json.RawMessage `json:"result"`
			Timeline int             `json:"timeline"`
			Committed
		}
		err := w.Change(ctx, c, r, &made,
			`SELECT jsonb_build_object('result', `+call+`, 'timeline', `+nodeTimeline+`)`, args...)
		if err != nil && first {
			return err
		}
		held := heldOn{Timeline: made.Timeline}
		if err == nil {
			err = w.Change(ctx, nil, Refusal{}, &held, holdsOnTimeline, nil)
		}
		if err != nil {
			return newError(ErrOutcomeUnknown,
				"it is changed on the primary; whether its standbys know could not be learned: %s", oneLine(err))
		}
		if held.Timeline != made.Timeline {
			continue
		}
		if a, ok := result.(interface{ committedAt(lsn string) }); ok {
			defer a.committedAt(made.LSN)
		}
		return classify(json.Unmarshal(made.Result, result))
	}
}

// holdsOnTimeline is vault.revocation_holds with the timeline of the server that it waited on.
const holdsOnTimeline = `SELECT vault.revocation_holds($1) || jsonb_build_object('timeline', ` + nodeTimeline + `)`

type heldOn struct {
	Timeline int `json:"timeline"`
	Committed
}

// Renew closes the connections that are idle, and the others when they are released.
func (w *Writer) Renew() { w.pool.Reset() }

// Records is the Writer for changes that only write audit records: the failpoints of changes do not apply.
func (w *Writer) Records() *Writer {
	r := *w
	r.recording = true
	return &r
}
