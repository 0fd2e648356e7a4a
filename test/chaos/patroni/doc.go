// Package patroni runs a cluster that somebody else fails over: Debian's Patroni with three members, on PostgreSQL 15
// and one etcd, all on this machine. Only tests import it. tools/install-patroni installs the programs; without them
// [Start] fails and says so.
//
// # What it guarantees
//
//   - Start returns when there is a leader, two replicas stream from it, and one of them is the synchronous standby that
//     may take over: what [Cluster.WaitReady] waits for, after every fault too.
//   - Everything is in one private folder below the system's for temporary files and runs as the user postgres (as the
//
// caller, if that is not root). Servers listen on free ports of 127.0.0.1 and want a password made for this cluster;
//
//	  etcd has no password and is on 127.0.0.1 too.
//	- Close ends every process by its id and removes the folder, whatever state the cluster is in.
//	- Every wait ends with the context.
//
// # What is different from a real one
//
// One etcd instead of three, fsync off, and a leader key that lives 8 seconds instead of 30, so that a test does not
// wait long for a leader that was killed. The rest is what docs/OPERATIONS.md tells an operator to set.
package patroni
