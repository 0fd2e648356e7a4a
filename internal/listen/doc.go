// Package listen opens the daemon's listeners and bounds their connections.
//
// # Bounds
//
// A Limiter counts the connections of one or more listeners: in all, from one address, and from strangers. A connection
// beyond a bound closes the one that has been idle longest, in all or of that address; if none is idle, the new one is
// closed. So connections without requests cannot keep a client out, and the descriptors that the daemon reserves (for
// the database, the spool, the health listener) stay free.
//
// A connection is idle between two requests, and from its start until its first request has been read.
//
// # Strangers
//
// A stranger is an address whose requests the handler refuses. Its connection is served, so that the refusal is
// answered and on record, but it gets only the answers of the handler, and not those that net/http sends itself to a
// request that it cannot parse. Only a few strangers are served at once.
//
// # Sockets of systemd
//
// Inherited has the sockets of a vaultd.socket unit. The settings stay the only source of addresses: each is looked for
// among the inherited sockets, opened if it is not there, and an inherited socket without a setting is an error.
//
// # Credentials of systemd
//
// A OneAnswer is the other kind of server: it answers a connection by who connects, and reads no request.
package listen
