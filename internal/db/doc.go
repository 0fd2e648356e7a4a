// Package db holds the rows: ciphertext and metadata, never plaintext. One Go function a statement; what a statement
// may do is decided in sql/, by the database.
//
// A [Reader] reads from the local node, which may be a standby whose primary is gone. A [Writer] insists on the
// primary: target_session_attrs is checked only when a connection is made, so a session that turns out to be read-only
// (SQLSTATE 25006) is dropped together with the whole pool.
//
// A [Fence] keeps writes from a primary that a promotion has left behind, for whoever has seen the promotion.
//
// Nothing waits without a bound: connecting has one for each host, a statement has one, a change has one until its
// COMMIT is sent (then the failure is definite) and one after. A server that is frozen answers none of them.
//
// Every write carries a request id. A COMMIT that gets no definite answer is resolved by asking again with the same id
// and the same bytes, and so is a success with a warning, which is how a server says that it did not wait for its
// synchronous standby. The database answers a replay with the first result and writes a row in doing so. Only when that
// stays impossible until the deadline is the outcome reported as [ErrOutcomeUnknown].
package db
