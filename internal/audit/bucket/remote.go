package bucket

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/hyperiondb/vault/internal/audit/seal"
	"github.com/hyperiondb/vault/internal/awsclient"
)

// ErrThere means that there is an object of the name, which stays as it is: another writer's, or one's own whose reply
// was lost.
var ErrThere = errors.New("an object of this name is there")

// remote is a bucket and the requests to it. It is safe for concurrent use.
type remote struct {
	uri       URI
	client    *s3.Client
	transport *http.Transport
	limits    timing
}

// connect reads the AWS configuration and sends no request. An answer of more than most bytes is cut short.
func connect(ctx context.Context, uri string, limits timing, most int64) (remote, error) {
	u, err := ParseURI(uri)
	if err != nil {
		return remote{}, err
	}
	cfg, err := awsclient.Load(ctx, u.place.Region)
	if err != nil {
		return remote{}, fmt.Errorf("%q: %w", u.name(), err)
	}
	b := remote{uri: u, limits: limits}
	cfg.HTTPClient, b.transport = awsclient.HTTPClient(cfg, limits.attempt, most+1)
	b.client = s3.NewFromConfig(cfg, func(o *s3.Options) {
		if u.place.Endpoint != "" { // it overrides the configuration's
			o.BaseEndpoint = &u.place.Endpoint
		}
		o.UsePathStyle = o.BaseEndpoint != nil // self-hosted stores seldom have a host name for each bucket
		o.Retryer = retry.NewStandard(func(r *retry.StandardOptions) {
			r.MaxAttempts, r.MaxBackoff = limits.attempts, limits.longest
		})
	})
	if err := awsclient.CheckEndpoint(b.client.Options().BaseEndpoint); err != nil {
		return remote{}, fmt.Errorf("%q: %w", u.name(), err)
	}
	return b, nil
}

// Close drops idle connections.
func (b *remote) Close() error {
	b.transport.CloseIdleConnections()
	return nil
}

func (b *remote) away(why string) error {
	return fmt.Errorf("%q: %w: %s", b.uri.name(), seal.ErrAway, why)
}

// putNew puts an object on the condition that there is none of its name: ErrThere.
func (b *remote) putNew(ctx context.Context, key, contentType string, content []byte) error {
	ctx, cancel := context.WithTimeout(ctx, b.limits.operation)
	defer cancel()
	sum := sha256.Sum256(content) // Object Lock needs a checksum, and every store accepts one in a header
	_, err := b.client.PutObject(ctx, &s3.PutObjectInput{
		Bucket: &b.uri.bucket, Key: &key, Body: bytes.NewReader(content), IfNoneMatch: aws.String("*"),
		ContentType: &contentType, ChecksumAlgorithm: types.ChecksumAlgorithmSha256,
		ChecksumSHA256: aws.String(base64.StdEncoding.EncodeToString(sum[:])),
	})
	switch awsclient.StatusOf(err) {
	case http.StatusPreconditionFailed, http.StatusConflict:
		return ErrThere
	}
	return b.failure(ctx, "PutObject", err)
}

// getObject returns an object's content, or more than most bytes of it.
func (b *remote) getObject(ctx context.Context, key string, most int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, b.limits.operation)
	defer cancel()
	out, err := b.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &b.uri.bucket, Key: &key})
	if err != nil {
		return nil, b.failure(ctx, "GetObject", err)
	}
	defer out.Body.Close()
	content, err := io.ReadAll(io.LimitReader(out.Body, most+1))
	if int64(len(content)) > most {
		return content, nil
	}
	return content, b.failure(ctx, "GetObject", err)
}

// listKeys returns a page of the names of objects after one, in order, and whether there are more.
func (b *remote) listKeys(ctx context.Context, prefix, after string) (keys []string, more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, b.limits.operation)
	defer cancel()
	out, err := b.client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &b.uri.bucket, Prefix: &prefix,
		StartAfter: &after})
	if err := b.failure(ctx, "ListBucket", err); err != nil {
		return nil, false, err
	}
	if aws.ToString(out.Name) != b.uri.bucket || aws.ToString(out.Prefix) != prefix {
		return nil, false, b.away("the answer is not a list of its objects") // a proxy's page has none either
	}
	for _, o := range out.Contents {
		key := aws.ToString(o.Key)
		if key <= after || !strings.HasPrefix(key, prefix) {
			return nil, false, b.away("its objects are not listed in order")
		}
		keys, after = append(keys, key), key
	}
	return keys, aws.ToBool(out.IsTruncated) && len(out.Contents) > 0, nil
}
