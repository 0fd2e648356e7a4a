// Package target changes credentials where they are used: it implements [rotation.Target] for the rotators an operator
// can set on a secret. [Parse] reads the spec of a rotator; [Targets] makes the change.
//
//	postgres-role role=app via=prod/db/admin          the password of one role of another PostgreSQL
//	postgres-role roles=app_a,app_b via=prod/db/admin two roles in alternation; the one before keeps its password
//	webhook url=https://HOST/PATH key=prod/hooks/hmac a signed HTTPS call
//	exec program=reload-billing                       a program of this machine, which gets the value on stdin
//
// # What it guarantees
//
//   - Nothing is changed at a target that Check refuses, and Restore takes back a change that Test did not confirm:
//     readers keep a value that works. Both do the steps of Test and Set with the value in force.
//   - Set may be repeated. After an attempt that crashed anywhere, the next one has the same candidate and ends in the
//     same state; this package keeps no state of an attempt.
//   - Every call returns by its deadline, and a panic inside one is its error: neither ends the worker. A call that
//     cannot be stopped keeps running with copies of its own.
//   - An attempt that was suspended past its deadline changes nothing: the server ends an idle PostgreSQL session, the
//     clock is read again before the statement that changes the role, and the claim is checked before its commit.
//   - No value, no password of a connection string and no output of a program is in an error or a log. A password
//     reaches PostgreSQL as a SCRAM verifier only, and a new one is proven to it by SCRAM only.
//
// # What a spec can make vaultd do
//
// A spec is written by a caller who may change the secret, so it can only choose among what vaultd's configuration
// lists: hosts of webhooks and of PostgreSQL, programs and certificates. An address of this machine is reached only if
// that address is listed. A connection string is another secret's value: [Spec.Opens] names that secret, and the caller
// that stores a spec must check that its author may change that secret too. vaultd's own PostgreSQL environment
// (PGPASSWORD, .pgpass and the rest) is not used for a target.
//
// # What is not wiped
//
// Buffers are overwritten after use, except where a library needs a string or has a buffer of its own: the password
// inside pgx, the administrator's connection string, the write buffers of net/http.
package target
