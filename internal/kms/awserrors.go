package kms

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/smithy-go"

	"github.com/hyperiondb/vault/internal/awsclient"
	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/lazyregexp"
)

const (
	incomplete = "the answer is incomplete"
	otherKey   = "the answer names another key"
)

// attempts is the retryer of one operation. It remembers why the last attempt failed, because
// a deadline that passes between two attempts otherwise hides the reason.
type attempts struct {
	*retry.Standard
	last error
}

// MaxAttempts 0 is no limit but the deadline and the retry budget.
func (a *attempts) MaxAttempts() int { return 0 }

func (a *attempts) IsErrorRetryable(err error) bool {
	a.last = err
	return a.Standard.IsErrorRetryable(err)
}

func newRetryer(limits timing) *retry.Standard {
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.Retryables = append([]retry.IsErrorRetryable{retry.IsErrorRetryableFunc(retryable)}, o.Retryables...)
		o.Backoff = retry.BackoffDelayerFunc(func(attempt int, _ error) (time.Duration, error) {
			return limits.delay(attempt), nil
		})
	})
}

// delay doubles with each attempt, and half of it is random, so that daemons that failed together
// do not retry together.
func (l timing) delay(attempt int) time.Duration {
	d := l.longestWait
	if shift := max(attempt-1, 0); shift < 16 {
		d = min(l.firstDelay<<shift, l.longestWait)
	}
	return d/2 + rand.N(d/2+1)
}

// retryable overrides the SDK's standard rules where they are wrong here.
func retryable(err error) aws.Ternary {
	var certificate *tls.CertificateVerificationError
	var answer smithy.APIError
	switch {
	case errors.Is(err, awsclient.ErrNoCredentials): // the credential chain has already retried
		return aws.FalseTernary
	case errors.As(err, &certificate):
		return aws.FalseTernary
	case errors.As(err, &answer) && permanent(answer):
		return aws.FalseTernary
	case errors.Is(err, io.ErrUnexpectedEOF): // the connection broke inside the answer
		return aws.TrueTernary
	}
	return aws.UnknownTernary
}

func permanent(answer smithy.APIError) bool {
	_, kind := meaning(answer)
	return kind != nil && kind != envelope.ErrKeyUnavailable
}

// failure turns an error of the SDK into one of the package's. A definite answer counts even when the
// context has ended meanwhile.
func (k *awsKey) failure(ctx context.Context, err, last error) error {
	var answer smithy.APIError
	if errors.As(err, &answer) && permanent(answer) {
		if code := answer.ErrorCode(); code == "IncorrectKeyException" || code == "NotFoundException" {
			k.forget()
		}
		return k.explain(err)
	}
	if ctx.Err() == nil {
		return k.explain(err)
	}
	end := ended(k.name(), ctx.Err())
	// Report the failure before the end of the context, if there was one.
	if last != nil && !errors.Is(end, context.Canceled) && !errors.Is(last, context.DeadlineExceeded) {
		cause := k.explain(last)
		end.reason = cause.reason + ", until the deadline"
		end.requestID = cause.requestID
	}
	return end
}

func (k *awsKey) explain(err error) *keyError {
	reason, kind := reasonOf(err)
	if reason == wrongKind {
		reason = "not " + k.kind
	}
	return &keyError{key: k.name(), reason: reason, requestID: awsclient.RequestIDOf(err), kinds: []error{kind}}
}

func reasonOf(err error) (reason string, kind error) {
	var answer smithy.APIError
	var operation *smithy.OperationError
	switch {
	case errors.Is(err, awsclient.ErrNoCredentials):
		if transient(err) {
			return "AWS credentials could not be fetched", envelope.ErrKeyUnavailable
		}
		return "no usable AWS credentials (see the AWS configuration of this process)", envelope.ErrKeyRefused
	case errors.As(err, &answer):
		reason, kind := meaning(answer)
		if kind == nil {
			return unknownAnswer(err)
		}
		if errors.As(err, &operation) && reason == accessDenied {
			reason += " to " + operation.Operation()
		}
		return reason, kind
	case awsclient.StatusOf(err) != 0:
		return unknownAnswer(err)
	}
	return awsclient.NetworkReason(err, "the key service"), envelope.ErrKeyUnavailable
}

// transient reports whether a credential service was reached and failed, instead of being absent.
func transient(err error) bool {
	var answer smithy.APIError
	if errors.As(err, &answer) {
		_, kind := meaning(answer)
		return kind == envelope.ErrKeyUnavailable || awsclient.StatusOf(err) >= http.StatusInternalServerError
	}
	return false
}

const (
	accessDenied = "access denied"
	wrongKind    = "not a key of this kind" // replaced by the expected kind
)

// meaning translates an error code; kind is nil for an unknown one.
// https://docs.aws.amazon.com/kms/latest/APIReference/CommonErrors.html and the errors listed with
// each operation.
func meaning(answer smithy.APIError) (reason string, kind error) {
	switch code := answer.ErrorCode(); code {
	case "InvalidCiphertextException":
		return "the data key does not open in this context", envelope.ErrIntegrity
	case "IncorrectKeyException":
		return "the data key was wrapped by another key than the row names", envelope.ErrIntegrity
	case "DisabledException":
		return "disabled", envelope.ErrKeyRefused
	case "KMSInvalidStateException":
		if strings.Contains(answer.ErrorMessage(), "pending deletion") {
			return "pending deletion", envelope.ErrKeyRefused
		}
		return "not usable in its present state", envelope.ErrKeyRefused
	case "NotFoundException":
		return "not found", envelope.ErrKeyRefused
	case "AccessDeniedException", "AccessDenied", "NotAuthorized":
		return accessDenied, envelope.ErrKeyRefused
	case "InvalidKeyUsageException", "UnsupportedOperationException":
		return wrongKind, envelope.ErrKeyRefused
	case "ExpiredTokenException", "ExpiredToken":
		return "the AWS credentials have expired", envelope.ErrKeyRefused
	case "UnrecognizedClientException", "InvalidClientTokenId", "InvalidSignatureException", "SignatureDoesNotMatch",
		"IncompleteSignature", "IncompleteSignatureException", "MissingAuthenticationToken",
		"MissingAuthenticationTokenException", "OptInRequired":
		return "the AWS credentials are not accepted", envelope.ErrKeyRefused
	case "RequestExpired", "RequestTimeTooSkewed":
		return "the clock of this machine differs from AWS's", envelope.ErrKeyRefused
	case "ValidationException", "ValidationError", "InvalidArnException", "InvalidGrantTokenException",
		"SerializationException", "UnknownOperationException", "InvalidAction", "MalformedQueryString":
		return "the request is not accepted (" + code + ")", envelope.ErrKeyRefused
	case "KMSInternalException", "InternalFailure", "InternalServerError", "InternalError",
		"ServiceUnavailable", "ServiceUnavailableException", "DependencyTimeoutException", "KeyUnavailableException",
		"RequestTimeout", "RequestTimeoutException":
		return "the key service failed", envelope.ErrKeyUnavailable
	}
	if _, ok := retry.DefaultThrottleErrorCodes[answer.ErrorCode()]; ok {
		return "throttled", envelope.ErrKeyUnavailable
	}
	return "", nil
}

// ownCode is the shape of an AWS error code; anything else a server put there is not repeated.
var ownCode = lazyregexp.New(`^[A-Z][A-Za-z]{2,60}Exception$`)

// unknownAnswer judges by the status alone. An answer without an AWS error code is not from KMS but from
// a proxy or balancer, and says nothing about the key.
func unknownAnswer(err error) (reason string, kind error) {
	var answer smithy.APIError
	status := awsclient.StatusOf(err)
	isClientError := status >= http.StatusBadRequest && status < http.StatusInternalServerError
	if errors.As(err, &answer) && isClientError && ownCode().MatchString(answer.ErrorCode()) {
		return "refused (" + answer.ErrorCode() + ")", envelope.ErrKeyRefused
	}
	if awsclient.BrokenRead(err) {
		return "the answer was cut short", envelope.ErrKeyUnavailable
	}
	if status >= http.StatusInternalServerError {
		return fmt.Sprintf("the key service failed (http status %d)", status), envelope.ErrKeyUnavailable
	}
	return fmt.Sprintf("the answer is not one of KMS (http status %d)", status), envelope.ErrKeyUnavailable
}
