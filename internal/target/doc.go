// Package target changes credentials where they are used: it implements [rotation.Target] for the rotators an operator
// can set on a secret. [Parse] reads what was set; [Targets] does it.
//
//	postgres-role role=app via=prod/db/admin          the password of one role of another PostgreSQL
//	postgres-role roles=app_a,app_b via=prod/db/admin two roles that take turns; the one before goes on working
//	webhook url=https://HOST/PATH key=prod/hooks/hmac a signed HTTPS call
//	exec program=reload-billing                       a program of this machine, which gets the value on stdin
//
// # What it guarantees
//
//   - Nothing is changed at a target that Check refuses, and Restore takes back what Test did not confirm: readers keep
//     a value that works. Both are made of the same steps as Set and Test, with the value in force.
//   - Set may be repeated. An attempt that crashed anywhere is followed by one with the same candidate, which ends in
//     the same place; nothing about an attempt is remembered here.
//   - Every call ends by its deadline, and a panic inside one is its error: neither takes the worker down. A call that
//     cannot be stopped is left behind with copies of its own.
//   - An attempt that wakes up late changes nothing: a PostgreSQL session that idles is ended by the server, the clock
//     is read again before the statement that counts, and the claim is asked for before its commit.
//   - No value, no password of a connection string and no output of a program is in an error or a log. A password
//     reaches PostgreSQL as a SCRAM verifier only, and a new one is proven to it by SCRAM only.
//
// # What a spec can make vaultd do
//
// A spec is written by a caller who may change the secret, so it names nothing that the operator of vaultd has not
// named: hosts of webhooks and of PostgreSQL, programs and certificates come from vaultd's configuration, and an
// address of this machine is reached only where it is listed as such. A connection string is another secret's value;
// which secrets a spec opens is told by [Spec.Opens], and the caller that stores a spec must ask whether its author may
// change that secret too. vaultd's own PostgreSQL environment (PGPASSWORD, .pgpass and the rest) is not used for a
// target.
//
// # What is not wiped
//
// Buffers are overwritten after use, except where a library wants a string or keeps a buffer of its own: the password
// inside pgx, the administrator's connection string, what net/http has on its way to a socket.
package target
