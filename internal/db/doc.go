// Package db holds the rows: ciphertext and metadata, never plaintext. Each statement has one Go function; the
// database decides, in sql/, what a statement may do. The statements of the audit log are in internal/audit/auditdb,
// and run over what statements.go exports.
//
// A [Reader] reads from the local node, which may be a standby whose primary is gone. A [Writer] writes to the primary
// only: target_session_attrs is checked only when a connection is made, so a session that turns out to be read-only
// (SQLSTATE 25006) is dropped together with the whole pool.
//
// A [Fence] refuses writes to a primary that a promotion has left behind, in processes that have seen the promotion.
//
// Every wait has a limit, because a frozen server never answers: connecting has one for each host, a statement has one,
// a change has one until its COMMIT is sent (when it ends, the failure is definite) and one after.
//
// Every write carries a request id. A COMMIT without a definite answer is repeated with the same id and the same bytes.
// So is a success with a warning: the server did not wait for its synchronous standby. The database answers a replay
// with the first result, and writes a row for it. If that is impossible until the deadline, the outcome is reported as
// [ErrOutcomeUnknown].
package db
