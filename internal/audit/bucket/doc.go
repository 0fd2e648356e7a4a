// Package bucket keeps the audit log's seals in an S3 bucket, or one of a store that speaks its language: a
// [seal.Keeper] that neither PostgreSQL's administrators nor the nodes' need to be able to change.
//
//	s3://BUCKET[/PREFIX][?region=REGION][&endpoint=https://HOST[:PORT]]
//
// Region and credentials come from the AWS configuration of the process where the URI leaves them to it; an endpoint is
// asked by path (HOST/BUCKET/KEY). A URI with credentials is refused.
//
// # What lies there
//
// PREFIX/CLUSTER_ID/00000000000000000001.jsonl: seals as the file of a node has them, one JSON document a line, named
// by the id of the first. Each object begins where the one before ends; the first may begin anywhere, so old ones may
// expire. What has another name is left alone. Nothing is ever overwritten or deleted: an object is put on the
// condition that there is none of its name (If-None-Match: *), which is the commit point. Of two that add after the
// same seal one comes first, and the other goes on from there.
//
// The answer to a put can get lost. The next attempt then meets its own object as it would meet anybody's, is told
// [seal.ErrAdded], and reads where the bucket ends: no recovery of its own.
//
// # Errors
//
// [seal.ErrAway] is everything that says nothing about the seals: no connection, no permission, a cut answer, a service
// that fails. An object that is there and is not what was written here is [seal.ErrCopies], and an alarm. Errors are
// one line and repeat nothing that a server sent but a request id. Of an object no more than 4 MiB are read; honest
// ones have a tenth.
//
// The permissions needed are s3:PutObject and s3:GetObject on PREFIX/* and s3:ListBucket on the bucket; for
// vaultctl audit verify, the latter two.
package bucket
