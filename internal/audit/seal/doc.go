// Package seal makes the audit log tamper-evident: rows are gathered into seals, seals are chained, each is signed with
// a key that PostgreSQL never sees. [Verify] finds every edit, deletion, insertion or reordering of sealed rows or of
// seals, and names the first row or seal that does not fit.
//
// It cannot find rows that were forged or suppressed before the sealer read them, or the loss of the newest seals
// together with their rows. Every node that has seen those seals finds the latter ([Copies]).
//
// # Row
//
// A row becomes one leaf. Format 1 of its bytes is the text "hyperiondb-vault/audit-row/1" and a zero byte, then every
// column in this order, each as one byte (0 = null, 1 = value) and, for a value, its length in four bytes and the
// bytes:
//
//	id, system_id, tx      8 bytes
//	at, recorded_at        8 bytes, microseconds since 1970; the least and the greatest number for -infinity and infinity
//	actor, db_role         UTF-8
//	client                 the address in 4 or 16 bytes and one byte of prefix length
//	node, action, secret   UTF-8
//	version                8 bytes
//	outcome                UTF-8
//	request_id             16 bytes
//	detail                 JSON without white space, keys in the order of their bytes, strings as encoding/json
//	                       writes them with HTML escaping off, numbers as PostgreSQL writes them; a document nested
//	                       too deep for encoding/json as PostgreSQL writes it
//
// All numbers are big-endian.
//
// A row of several reads (one that has a since) has format 2: the text "hyperiondb-vault/audit-row/2" and a zero byte,
// the same columns, then
//
//	since                  as at
//	earlier                the other columns as [Earlier], as detail
//
// # Tree
//
// The root is the Merkle tree hash of RFC 6962, section 2.1, with SHA-256: leaf = H(0x00 || bytes), node = H(0x01 ||
// left || right), over the rows in the order of (tx, id). A seal also keeps the first four bytes of each leaf (its
// marks). They prove nothing: they identify the changed row after the root has shown that one does not fit.
//
// # Seal
//
// A seal covers the rows of one month (of their at, in UTC) that one window of transaction ids wrote, from_tx <= tx <
// to_tx. The windows of one system (PostgreSQL's system identifier) follow one another without a gap from 0 on; a
// cluster restored from a dump begins with its own, because its transaction ids begin anew. A window closes when no
// older transaction runs, so a long transaction delays sealing and is never missed. Format 1 of a seal is the text
// "hyperiondb-vault/audit-seal/1" and a zero byte, then
//
//	id, system_id          8 bytes each; ids count from 1 without a gap
//	month                  7 bytes, "2026-11"; "0001-01" also has earlier times, and "9999-12" later ones
//	from_tx, to_tx         8 bytes each
//	rows, first_id, last_id 8 bytes each
//	sealed_at              8 bytes, microseconds since 1970
//	root, previous         32 bytes each
//	key_id                 the rest
//
// and its hash is the SHA-256 of that. The first seal's previous is the SHA-256 of "hyperiondb-vault/audit-chain/1", a
// zero byte and the 16 bytes of the vault's cluster id: a chain cannot be another vault's. The signature is Ed25519
// over "hyperiondb-vault/audit-signature/1", a zero byte and the hash; key_id is "ed25519:" and the public key in
// base64url.
package seal
