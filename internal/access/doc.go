// Package access decides which app may do what with which secret. It is pure: no I/O, no database, no clock.
//
// An app is a name for a client, with rules and credentials. A rule allows actions (read, verify, list) on the names
// of one [Pattern]; there are only rules that allow, and what no rule covers is refused. A credential proves that a
// request is the app's: a token, a client certificate, or the user of a local process.
//
// A [Snapshot] is all apps at one epoch, as a database node holds them. Every change of an app, a rule or a
// credential gives the node a new random epoch, in the transaction of the change. So two snapshots with one epoch are
// the same, and a caller that reads the epoch with a secret knows whether its snapshot is as new as the secret.
// [NewIndex] prepares a snapshot for [Index.Judge], which takes about a microsecond and never looks at whether the
// secret exists.
//
// A request is judged by exactly one identity. [Index.Judge] never tries another one after the first was refused.
package access
