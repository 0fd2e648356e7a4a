// Package s3fake is one S3 bucket for tests, and for tests only: its objects lie in memory and it asks nobody for a
// name.
//
// It speaks the part of the REST protocol that the vault uses (PutObject, GetObject and ListObjectsV2, by path) and
// keeps the promises that the vault builds on: a put with If-None-Match: * finds nothing of its name or fails with 412,
// a listing is complete and in order, a checksum that does not fit is refused. As S3 does, it overwrites without that
// condition. It looks for a SigV4 Authorization header of the right region and service, but does not recompute the
// signature.
//
// [Fake.Inject] makes it fail in a chosen way, [Fake.Set] and [Fake.Delete] are somebody else's hands.
//
// It is a model of the public API reference: https://docs.aws.amazon.com/AmazonS3/latest/API/Welcome.html
package s3fake
