// Package httpapi is the HTTP interface of vaultd: secrets and verifies on one handler, health on another.
//
// # The steps of a request
//
// Every request takes the same steps, and an endpoint is only what differs: a request id, the guard (who is asking),
// the route, the query, the limits by address and in all, the app and its rules, the limits of the app, the admin
// token, the rate of verifies, the call, errors to a status, the record, the answer. A request that one step refuses
// does not reach the next: a refused client causes no read of a body, no statement and no call to a KMS.
//
// # Which clients are admitted
//
// Every path of the secrets handler requires an address on the allowlist, also those that require an admin token. An
// empty list admits no client. X-Forwarded-For counts only when the connection comes from a configured proxy; the
// client is then the rightmost hop that is not a proxy, and a header that does not parse up to there is refused. A
// connection over a unix socket is admitted: the file mode of the socket protects it, and a proxy that connects there
// answers for its clients.
//
// An address does not distinguish a client from a browser on the same machine. So the Host of a request has to be the
// daemon's own: localhost, the address that the connection came to, or one of Policy.Hosts; and a request with an
// Origin, or with fetch metadata of another site, is refused. That holds for every path of both handlers. Over a unix
// socket any Host is accepted: no name resolves to it.
//
// The database checks an admin token. This package only parses it; a missing or malformed one is 403, as a wrong one
// is. A client that presents many wrong ones is told to wait (429) before the database is asked, so that it does not
// use up what the database allows the daemon's role; a token that the database has accepted is not limited.
//
// # Which app
//
// A request for a secret presents a token of an app, a client certificate, its user over a unix socket, or nothing: the
// first of them that it has is its identity, and no other is tried. A credential that is presented is judged, in every
// configuration. Without one, Policy.Apps decides between the app "anonymous" and the address alone.
//
// Package access judges over the daemon's copy of the apps, before the name is looked for. The read returns the access
// epoch of its own snapshot, or of a later one with the same rows, and GetOptions.Permit compares it with the epoch of
// the copy before a key is unwrapped, and before a 404 or 304: if they differ, the copy is read again and the request
// is judged again. So a revocation holds on a node as soon as its values do. Before a 403 the node is asked for its
// epoch, by one query for all requests that wait, ten times a second at most; a request that would be refused waits for
// that. Without a copy, or where the question is not answered, it is 503.
//
// Every refusal has the same body, whatever the reason and whether or not the secret exists. The reason is in the
// record.
//
// # Limits
//
// Limits of requests a second refuse with 429, after a pause; limits of requests at once let a request wait for a
// second first. An app, an address and the daemon have both. A request waits for its app before it takes a turn of
// the others.
//
// # Paths
//
// Routing is done on the decoded path, uncleaned, so "a%2F..%2Fb" and "a//b" fail the name grammar and are 400. Names
// may hold "/": for GET, HEAD, PUT and DELETE everything after /v1/secrets/ is the name, for POST everything up to the
// last "/verify" or "/rotate".
//
// # Statuses
//
// 404 is an absent or deleted secret or version and nothing else: clients act on it. So a path that is no route is 400,
// and a method that a path does not have is 405 with Allow, which is empty where a path has no method because the admin
// API is off.
//
//	400 bad_request         403 not_allowed        404 not_found       405 method_not_allowed
//	409 conflict            412 behind             413 too_large       415 media_type
//	429 rate_limited        429 too_many_waits     500 integrity          500 internal
//	503 unavailable         503 outcome_unknown    503 key_refused
//	503 stale               503 audit_unavailable
//
// 429, 412 and those 503 that pass by themselves carry Retry-After. key_refused does not: the KMS refused, and an
// operator of the vault must act. The message of every 5xx is constant; its cause is in the log, under the request id.
//
// outcome_unknown is a write whose COMMIT got no reply. Its answer has an idempotency_key; a repeat that carries it as
// Idempotency-Key is made only if the first one was not. A repeated delete then gets the first answer. A repeated value
// gets 409, because it would be sealed into other bytes than those that are stored.
//
// # Clients of Vault
//
// With Options.KVMount the handler also has the routes by which clients of HashiCorp Vault and OpenBao read (kv.go):
// the same steps, reads and records under other paths, and errors in Vault's form, {"errors": [...]}. There too 404 is
// an absent or deleted secret, or a folder without secrets, and nothing else.
//
// # Credentials of systemd
//
// AnswerCredential (cred.go) is the third way in: a connection of systemd to a unix socket takes the same steps, reads
// and records, and its answer is the value alone.
//
// # A node that is behind
//
// The answer to a write has a position in the log, as "lsn" and as the header Vault-LSN. A read or verify that sends it
// as X-Vault-Min-LSN is answered from a node that has the write: it waits a while for the node to replay that far, and
// is 412 behind if the node does not. After a failover that lost writes, a position from before it proves nothing.
//
// stale is a read or verify on a node that is further behind the primary than the daemon's limit. Both are checked
// right before the node is read, after the body of the request.
//
// Where the vault keeps rows in memory (package rowcache), an answer is what the node had at most read_confirm before
// the request. A position that a request names, and the look after a wait, take a later snapshot. While the node is
// away and reads go on all the same, the header Vault-Unconfirmed has the seconds since the node was last heard, and so
// has the record of the read.
//
// # Waiting for a change
//
// GET with wait= (a duration from 1s to 5m) and If-None-Match with the one version that the client has is answered when
// the current version on this node is another one (200), when the secret is deleted (404), when the node cannot answer
// (503), or with 304 when the time is over. It is a conditional read whose answer is held back while it would be 304:
// package vault tells it when to look again, with one small query a round for all waits, and each look is a whole read
// with the guard, freshness, fence and rights of that moment. One answer is one event on record, whatever the wait.
// Without If-None-Match a wait is 400: it would be answered at once, and repeated at once.
//
// A connection that waits is not idle, so it cannot be closed to make room. Waits are therefore bounded, in all and for
// one address (429 too_many_waits), below the bounds of connections. A client that leaves ends its wait at once; a
// daemon that stops answers every wait first. Metrics and the access log have waits under a route of their own, with
// "?wait", since their durations are chosen by clients.
//
// # On record
//
// Every read, verify and refusal is put on record when its answer is known and before a byte of it is sent, in one
// place. A request that cannot be put on record is not answered: 503 audit_unavailable (package spool says when, and
// how to configure the daemon otherwise). The database writes the row of a change.
//
// # Values
//
// A value is "utf8" if it is valid UTF-8 without U+0000, which many JSON readers cannot hold, else "base64" (RFC 4648,
// section 4, padded). Both give the bytes back exactly, and requests use the same form: "value" with "encoding", or
// "value_base64". The buffers of this package that held a value (body, decoded value, answer) are overwritten; those of
// net/http are not. No value, token, query or header is ever logged.
//
// Bodies are strict JSON: one flat object, names compared exactly, no name twice, no unknown name, no null, valid
// UTF-8, no half surrogate pair, nothing after it.
package httpapi
