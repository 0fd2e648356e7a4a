// Package db holds the rows: ciphertext and metadata, never plaintext. One Go function a statement; what a statement may
// do is decided in sql/, by the database.
//
// A [Reader] reads from the local node, which may be a standby whose primary is gone. A [Writer] insists on the primary:
// target_session_attrs is checked only when a connection is made, so a session that turns out to be read-only (SQLSTATE
// 25006) is dropped together with the whole pool.
//
// Every write carries a request id. A COMMIT that gets no definite answer is resolved by asking again with the same id and
// the same bytes; the database answers a replay with the first result and writes a row in doing so. Only when that stays
// impossible until the deadline is the outcome reported as [ErrOutcomeUnknown].
package db
