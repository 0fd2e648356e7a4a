// Package auditdb is the audit log in the database: [Log] reads and writes it, for commands, the daemon and the
// browser. Each statement on the log has one method, and runs over the sessions of package db; which rows a role may
// see, and what it may write, the database decides in sql/.
//
// What is where:
//   - events.go, search.go: pages of events ([Log.Events]) by a filter, at a cost that does not grow with the log
//   - counts.go, values.go: the histogram, completions, the secrets with their last read, the seal of an event
//   - follow.go: new events, each once ([Log.Follow])
//   - reads.go: records of reads ([Log.Record], and [Log.Ship] for the spool of a daemon); the report on graces
//   - seals.go, source.go: sealing ([Log] is a seal.Store), and the whole log in order, to verify or archive ([Source])
//   - prune.go: dropping rows that were exported
//
// The rows of changes are not written here: the functions in sql/ write them in the transaction of the change. Errors
// are those of package db.
package auditdb
