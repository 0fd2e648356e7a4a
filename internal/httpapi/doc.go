// Package httpapi is what vaultd says over HTTP: secrets and verifies on one handler, health on another.
//
// # One funnel
//
// Every request takes the same steps, and an endpoint is only what differs: a request id, the guard (who is asking),
// the route, the query, the token, the rate limit, the call, errors to a status, the record, the answer. What the
// earlier steps refuse never reaches a later one: a refused client causes no read of a body, no statement and no call
// to a KMS.
//
// # Who gets in
//
// Every path of the secrets handler is behind the allowlist, also those that want an admin token. An empty list lets
// nobody in. X-Forwarded-For counts only when the connection comes from a configured proxy; the client is then the
// rightmost hop that is not a proxy, and a header that does not parse up to there is a refusal. A connection over a
// unix socket is let in: the file mode of the socket is its guard, and a proxy that connects there answers for its
// clients.
//
// An address does not tell a client from a browser beside it. So the Host of a request has to be the daemon's own:
// localhost, the address that the connection came to, or one of Policy.Hosts; and a request with an Origin, or with
// fetch metadata of another site, is refused. That holds for every path of both handlers. Over a unix socket any Host
// will do: no name leads there.
//
// An admin token is checked by the database. Here it is only parsed; a missing or broken one is 403, as a wrong one is.
// A client that presents many wrong ones is told to wait (429) before the database is asked, so that it does not use up
// what the database allows the daemon's role; a token that the database has accepted goes through all the same.
//
// # Paths
//
// Routing is done on the decoded path, uncleaned, so "a%2F..%2Fb" and "a//b" meet the name grammar and are 400. Names
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
//	429 rate_limited        500 integrity          500 internal
//	503 unavailable         503 outcome_unknown    503 key_refused
//	503 stale               503 audit_unavailable
//
// 429, 412 and those 503 that pass by themselves carry Retry-After. key_refused does not: the KMS said no, and that
// takes an operator, though not the client's. The message of every 5xx is constant; what was behind it is in the log,
// under the request id.
//
// outcome_unknown is a write whose commit went unanswered. Its answer has an idempotency_key; a repeat that carries it
// as Idempotency-Key is made only if the first one was not. A repeated delete then gets the first answer. A repeated
// value gets 409, because it would be sealed into other bytes than those that are stored.
//
// # A node that is behind
//
// A write answers with a position in the log, as "lsn" and as the header Vault-LSN. A read or verify that brings it
// back as X-Vault-Min-LSN is answered from a node that has the write: it waits a while for the node to replay so far,
// and is 412 behind if that does not come. After a failover that lost writes a position from before says nothing any
// more.
//
// stale is a read or verify on a node that is further behind the primary than the daemon lets it be. Both are asked
// right before the node is, when a body has been read.
//
// # On record
//
// Every read, verify and refusal is put on record when its answer is known and before a byte of it leaves, in one
// place. What cannot be put on record is not answered: 503 audit_unavailable (package spool says when, and what the
// daemon can be told to do instead). A change has its row from the database.
//
// # Values
//
// A value is "utf8" if it is valid UTF-8 without U+0000, which many JSON readers cannot hold, else "base64" (RFC 4648,
// section 4, padded). Both give the bytes back exactly, and what takes a value takes it so: "value" with "encoding", or
// "value_base64". The buffers of this package that held a value (body, decoded value, answer) are overwritten; the ones
// of net/http are out of reach. No value, token, query or header is ever logged.
//
// Bodies are strict JSON: one flat object, names compared exactly, no name twice, no unknown name, no null, valid
// UTF-8, no half surrogate pair, nothing after it.
package httpapi
