// Package localpg finds PostgreSQL binaries and runs a cluster of its own on this machine: one
// primary and any number of physical streaming standbys. It is the engine of "vaultctl dev" and
// of every test that needs a real server.
//
//	bin, err := localpg.Find(0)
//	c, err := localpg.Open(ctx, localpg.Options{Dir: dir, Standbys: 1, Binaries: bin})
//	defer c.Close()
//	pool, err := pgxpool.New(ctx, c.Primary().URL("postgres", "postgres"))
//
// # What it guarantees
//
//   - Open returns with every node accepting connections and every standby streaming. A folder
//     that holds a cluster is reused; nothing in it is ever deleted except by Remove and, for
//     one node's data, by Rebuild.
//   - Nothing listens on TCP. Connections go through unix sockets in folders only the server
//     user (and root) may enter; inside, every local user name is trusted.
//   - The server runs in a session of its own: Ctrl-C in a terminal does not reach it and it
//     outlives the program that started it. A later Open or Load finds it again. It gets a
//     minimal environment, so no token of the starting program can be read in /proc.
//   - Root may call everything here: PostgreSQL refuses to run as root, so the server then runs
//     as "postgres" or, where there is no such user, as "nobody".
//   - Every wait ends: with the context, or after 60 seconds if the context has no deadline. The
//     error carries the last lines of that node's log.
//   - A call that fails leaves running only what was running before.
//
// # What the caller does
//
// Stop the nodes, or leave them running on purpose, then Close the cluster. A test that calls
// Open or Clone ends with Remove and not just with the removal of its folder: when the server
// user cannot reach the folder (as root, t.TempDir is such a place) the data lives in a private
// folder below /var/tmp, which cluster.json records and Remove deletes too.
//
// Tests share the cost of making a cluster through Clone: Open one cluster, prepare it, Stop it,
// then Clone it and Start the clone in each test.
//
// # What it refuses
//
// ErrInUse when another Cluster value, here or in another process, holds the folder; ErrUnusable
// when the folder holds foreign files, an unreadable or newer cluster.json, another major
// version, a cluster that was never finished or nodes whose data is gone; ErrNoBinaries when
// there is no PostgreSQL of the version asked for. User tablespaces cannot be copied, so a
// cluster that has one can be neither cloned nor given another standby.
//
// # Failover
//
// Standbys follow the primary through physical replication slots, so one that was stopped
// catches up. Promote makes a standby the primary, also in the eyes of this package, and points
// the other standbys at it. The old primary is then left alone: Start does not start it, as it
// would take writes. Rebuild makes it a standby of the new one, at the price of its data.
//
// # The folder
//
//	cluster.json             what was made, where (version 1)
//	lock                     held by the Cluster value that has the folder open
//	primary/data             the data folder; hyperiondb-vault.conf in it holds our settings
//	primary/postgres.log     what the server said, over all its starts
//	primary/socket           the unix socket
//	standby1/...
//
// A socket folder whose path is too long for a socket address is replaced by one below /tmp.
package localpg
