// Package patroni runs a cluster with automatic failover: Debian's Patroni with three members, on PostgreSQL 15 and one
// etcd, all on this machine. Only tests import it. tools/install-patroni installs the programs; without them [Start]
// fails and names them.
//
// # What it guarantees
//
//   - Start returns when there is a leader, two replicas stream from it, and one of them is the synchronous standby
//     that may take over. [Cluster.WaitReady] waits for the same after every fault.
//   - All files are in one private folder below the system's for temporary files. The programs run as the user postgres
//     (as the caller, if that is not root). Servers listen on free ports of 127.0.0.1 and require a password made for
//     this cluster; etcd has no password and is on 127.0.0.1 too.
//   - Close ends every process by its id and removes the folder, in any state of the cluster.
//   - Every wait ends with the context.
//
// # What is different from a real one
//
// One etcd instead of three, fsync off, and a leader key that lives 8 seconds instead of 30, so that a test does not
// wait long for a leader that was killed. The other settings are those of docs/OPERATIONS.md.
package patroni
