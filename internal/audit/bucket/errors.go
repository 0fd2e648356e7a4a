package bucket

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/smithy-go"

	"github.com/hyperiondb/vault/internal/awsclient"
)

const service = "the bucket's service"

// failure turns an error of the SDK into one of the package's: nil stays nil, and a cancelled context is no failure of
// the bucket.
func (b *remote) failure(ctx context.Context, permission string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.Canceled):
		return fmt.Errorf("%q: %w", b.uri.name(), context.Canceled)
	}
	reason := reasonOf(err, permission)
	if ctx.Err() != nil && awsclient.StatusOf(err) == 0 {
		reason = "no answer before the deadline"
	}
	if id := awsclient.RequestIDOf(err); id != "" {
		reason += " (aws request id " + id + ")"
	}
	return b.away(reason)
}

// reasonOf words the failure, without the server's text.
// https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
func reasonOf(err error, permission string) string {
	var answer smithy.APIError
	status := awsclient.StatusOf(err)
	if errors.Is(err, awsclient.ErrNoCredentials) {
		return "no usable AWS credentials (see the AWS configuration of this process)"
	}
	if errors.As(err, &answer) {
		switch code := answer.ErrorCode(); code {
		case "NoSuchBucket":
			return "there is no such bucket"
		case "NoSuchKey":
			return "an object that was listed is not there"
		case "AccessDenied":
			return "access denied to s3:" + permission
		case "PermanentRedirect", "AuthorizationHeaderMalformed":
			return "the bucket is in another region (add ?region=REGION to the uri)"
		case "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken":
			return "the AWS credentials are not accepted"
		case "RequestTimeTooSkewed":
			return "the clock of this machine differs from the bucket's"
		case "NotImplemented":
			return "the store does not have what this needs (a conditional put)"
		default:
			if _, ok := retry.DefaultThrottleErrorCodes[code]; ok {
				return "throttled"
			}
		}
	}
	switch {
	case status >= http.StatusInternalServerError:
		return fmt.Sprintf("%s failed (http status %d)", service, status)
	case awsclient.BrokenRead(err) && status != 0:
		return "the answer was cut short"
	case status != 0:
		return fmt.Sprintf("the answer is not one of S3 (http status %d)", status)
	}
	return awsclient.NetworkReason(err, service)
}
