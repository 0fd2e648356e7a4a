// Package awsclient has the parts of every client of an AWS service: the AWS configuration of this machine, an HTTP
// client that follows no redirect and bounds the size of an answer, the grammar of region= and endpoint= in a URI, and
// the texts of failures. No text of this package repeats what a server sent.
package awsclient

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go/logging"
)

// ErrNoCredentials marks a failure of the credential chain, which the SDK does not distinguish from other errors before
// the request.
var ErrNoCredentials = errors.New("no AWS credentials")

type markedCredentials struct{ aws.CredentialsProvider }

func (m markedCredentials) Retrieve(ctx context.Context) (aws.Credentials, error) {
	c, err := m.CredentialsProvider.Retrieve(ctx)
	if err != nil {
		return aws.Credentials{}, errors.Join(ErrNoCredentials, err)
	}
	return c, nil
}

type credentialsFile struct{}

// WithCredentialsFile makes Load read the file at path in place of the user's own ~/.aws/credentials; "" changes
// nothing. Credentials in the environment come first, as they do with every AWS tool.
func WithCredentialsFile(ctx context.Context, path string) context.Context {
	if path == "" {
		return ctx
	}
	return context.WithValue(ctx, credentialsFile{}, path)
}

// Load reads the AWS configuration the way every AWS tool does: environment, shared files, profile. Credentials are
// fetched later, by the first operation. Region "" leaves it to the configuration.
func Load(ctx context.Context, region string) (aws.Config, error) {
	options := []func(*config.LoadOptions) error{
		config.WithRegion(region),
		config.WithLogger(logging.Nop{}),
		config.WithClientLogMode(0), // a logged body would be a logged data key
	}
	if path, ok := ctx.Value(credentialsFile{}).(string); ok {
		options = append(options, config.WithSharedCredentialsFiles([]string{path}))
	}
	cfg, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return aws.Config{}, configReason(err)
	}
	if cfg.Region == "" {
		return aws.Config{}, errors.New("no region (add ?region=REGION to the uri, or set AWS_REGION)")
	}
	cfg.Credentials = markedCredentials{cfg.Credentials}
	return cfg, nil
}

// configReason does not repeat the SDK's text, which can quote a line of a credentials file.
func configReason(err error) error {
	var profile config.SharedConfigProfileNotExistError
	if errors.As(err, &profile) {
		return errors.New("the AWS profile does not exist")
	}
	return errors.New("the AWS configuration cannot be read")
}

// HTTPClient keeps the proxy, CA bundle and TLS settings of the AWS configuration. One exchange takes at most as long
// as attempt, and of an answer no more than maxAnswer bytes are read. The transport is for closing idle connections.
func HTTPClient(cfg aws.Config, attempt time.Duration, maxAnswer int64) (*http.Client, *http.Transport) {
	buildable, ok := cfg.HTTPClient.(*awshttp.BuildableClient)
	if !ok {
		buildable = awshttp.NewBuildableClient()
	}
	transport := buildable.GetTransport()
	// there is one host, and an import asks it for many keys at once
	transport.MaxIdleConnsPerHost = transport.MaxIdleConns
	return &http.Client{
		Transport: cappedAnswers{readOnlyBodies{transport}, maxAnswer},
		Timeout:   attempt,
		// A signed request must not be sent to another server.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, transport
}

// cappedAnswers cuts an endless answer short.
type cappedAnswers struct {
	http.RoundTripper
	most int64
}

func (c cappedAnswers) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := c.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, c.most), resp.Body}
	return resp, nil
}

// readOnlyBodies hides the WriteTo of a request's body. The SDK closes the body as soon as it has the answer, when the
// transport may be about to look for the body's end. Read of a closed body says io.EOF, but WriteTo fails, and then the
// transport closes the connection from which the answer is still being read.
type readOnlyBodies struct{ http.RoundTripper }

func (b readOnlyBodies) RoundTrip(r *http.Request) (*http.Response, error) {
	if body := r.Body; body != nil && body != http.NoBody {
		r = r.WithContext(r.Context()) // a RoundTripper must not change its request
		r.Body = struct {
			io.Reader
			io.Closer
		}{body, body}
	}
	return b.RoundTripper.RoundTrip(r)
}

// CheckEndpoint applies the rule for endpoints in a URI to one of the AWS configuration.
func CheckEndpoint(endpoint *string) error {
	if endpoint == nil {
		return nil
	}
	u, err := url.Parse(*endpoint)
	if err != nil {
		return errors.New("the endpoint in the AWS configuration is not a url")
	}
	return plainOnlyToLoopback(u)
}
