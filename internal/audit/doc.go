// Package audit says what goes on record: who did what to which secret, when, from where, and how it ended.
//
// A change's row is written in the change's own transaction, by the functions in sql/. A read has no transaction that
// could hold one, and may happen on a standby whose primary is gone; its row waits in the spool beside the daemon
// (package spool). Package seal makes the rows tamper-evident, package filter asks for them.
//
// An event holds names and metadata, never a value.
package audit
