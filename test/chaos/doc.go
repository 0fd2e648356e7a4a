// Package chaos proves that a vault loses nothing while its servers die: a [Workload] of writers, readers and rotations
// that writes down what it was told in a [Ledger], and an oracle that compares that with what the surviving primary
// holds at the end ([Gather], [Judge]).
//
// The ledger knows three outcomes of a write: acknowledged, failed, and unknown. With synchronous replication every
// acknowledged write must be there, with its version, and open to its value; no failed one may be; an unknown one is
// there once or not at all. Versions are dense, one of a secret is current, each has its one audit row, and no due time
// was rotated twice. The histories of single names, reads from the primary among them, must also be linearizable
// ([Linearizable]). With asynchronous replication a failover may lose acknowledged writes: they are counted.
//
// Who breaks the cluster, and how, is no concern of this package: it needs to be told how to reach it ([Cluster]) and,
// in a [Timeline], when the primary was dead and which node was being broken. Its tests have a nemesis for clusters on
// this machine.
package chaos
