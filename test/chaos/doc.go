// Package chaos checks that a vault loses nothing while its servers die: a [Workload] of writers, readers and rotations
// records every answer in a [Ledger], and an oracle compares the ledger with the rows of the surviving primary at the
// end ([Gather], [Judge]).
//
// The ledger knows three outcomes of a write: acknowledged, failed, and unknown. With synchronous replication every
// acknowledged write must be there, with its version, and open to its value; no failed one may be; an unknown one is
// there once or not at all. Versions are dense, one of a secret is current, each has its one audit row, and no due time
// was rotated twice. The histories of single names, reads from the primary among them, must also be linearizable
// ([Linearizable]). With asynchronous replication a failover may lose acknowledged writes: they are counted.
//
// Apps read too, with tokens that are made and revoked during the run. Each reader looks at the tables of its node
// before and after a request. A token that the node shows as revoked opens nothing from then on; one that it shows as
// live is not refused for the app's own name; and no name outside the app's rules is answered. An acknowledged
// revocation is kept like an acknowledged write.
//
// The package does not break clusters. Its caller says how to reach the cluster ([Cluster]) and, in a [Timeline], when
// the primary was dead and which node was being broken. The tests of this package have a nemesis, which breaks clusters
// on this machine.
package chaos
