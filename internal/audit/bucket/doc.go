// Package bucket keeps the audit log's seals in a bucket of S3 or a compatible store: a [seal.Keeper] that the
// administrators of PostgreSQL and of the nodes need no right to change.
//
//	s3://BUCKET[/PREFIX][?region=REGION][&endpoint=https://HOST[:PORT]]
//
// A region that the URI does not name, and credentials, come from the AWS configuration of the process; an endpoint is
// addressed by path (HOST/BUCKET/KEY). A URI with credentials is refused.
//
// # Objects
//
// PREFIX/CLUSTER_ID/00000000000000000001.jsonl: seals as in the file of a node, one JSON document a line, named by the
// id of the first. Each object begins where the one before ends; the first may begin anywhere, so old ones may expire.
// Objects of other names are ignored. No object is ever overwritten or deleted: it is put on the condition that there
// is none of its name (If-None-Match: *), which is the commit point. If two daemons add after the same seal, one
// succeeds, and the other continues after its object.
//
// The reply to a put can get lost. The next attempt then finds its own object as it would find another daemon's, gets
// [seal.ErrAdded], and reads the end of the bucket: a lost reply needs no recovery code.
//
// # Errors
//
// [seal.ErrAway] is every failure that does not concern the seals: no connection, no permission, a cut answer, a
// service that fails. An object with other contents than this package writes is [seal.ErrCopies], and an alarm. Errors
// are one line and repeat nothing that a server sent but a request id. Of an object no more than 4 MiB are read; usual
// ones have a tenth.
//
// The permissions needed are s3:PutObject and s3:GetObject on PREFIX/* and s3:ListBucket on the bucket; for
// vaultctl audit verify, the latter two.
package bucket
