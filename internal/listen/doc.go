// Package listen opens the daemon's listeners and bounds their connections.
//
// # Bounds
//
// A Limiter counts the connections of one or more listeners: in all, from one address, and from addresses that are
// let in nowhere. A connection beyond a bound closes the one that has been idle longest, in all or of that address;
// where none is idle the new one is closed. So connections that ask for nothing cannot keep a client out, and what
// the daemon keeps back of its descriptors (for the database, the spool, the health listener) stays free.
//
// Idle is a connection between two requests, and a new one until its first request has been read.
//
// # Strangers
//
// A stranger's connection is served, so that the refusal has a name and is on record, but nothing reaches it except
// what the handler answers: not what net/http says by itself of a request that it cannot parse. Only a few are
// served at once.
package listen
