// Package s3fake is one S3 bucket for tests only: its objects are in memory and it makes no network connection.
//
// It implements the part of the REST protocol that the vault uses (PutObject, GetObject and ListObjectsV2, by path)
// with the guarantees that the vault relies on: a put with If-None-Match: * fails with 412 if there is an object of its
// name, a listing is complete and in order, a wrong checksum is refused. As S3 does, it overwrites without that
// condition. It requires a SigV4 Authorization header of the right region and service, but does not recompute the
// signature.
//
// [Fake.Inject] makes it fail in a chosen way; [Fake.Set] and [Fake.Delete] act as another user of the bucket.
//
// It is a model of the public API reference: https://docs.aws.amazon.com/AmazonS3/latest/API/Welcome.html
package s3fake
