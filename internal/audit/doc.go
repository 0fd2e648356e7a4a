// Package audit defines the events that go on record: who did what to which secret, when, from where, and the outcome.
//
// The row of a change is written in the change's own transaction, by the functions in sql/. A read has no transaction
// that could hold a row, and may happen on a standby whose primary is gone; its row waits in the spool of the daemon
// (package spool). Package seal makes the rows tamper-evident, package filter is the language of queries.
//
// The log itself is read and written through package auditdb; a [Row] is an event in it, and [Query] chooses a page.
//
// An event holds names and metadata, never a value.
package audit
