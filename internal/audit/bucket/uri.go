package bucket

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/hyperiondb/vault/internal/awsclient"
	"github.com/hyperiondb/vault/internal/lazyregexp"
)

// ErrURI is wrapped by every refusal of a bucket's URI.
var ErrURI = errors.New("invalid s3 uri")

// Scheme is what every URI of a bucket begins with.
const Scheme = "s3://"

const acceptedForm = "accepted: s3://BUCKET/PREFIX?region=REGION&endpoint=URL, all but the bucket optional"

// Names that need no escaping anywhere: https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
// and https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html
var (
	bucketName = lazyregexp.New(`^[a-z0-9](?:[a-z0-9-]|\.[a-z0-9]){1,61}[a-z0-9]$`)
	ipv4       = lazyregexp.New(`^[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+$`)
	prefixName = lazyregexp.New(`^[A-Za-z0-9_.=-]+(?:/[A-Za-z0-9_.=-]+)*$`)
)

const maxPrefix = 512 // bytes, of the 1024 of a key

// URI is a parsed URI of a bucket.
type URI struct {
	bucket string
	prefix string // without slashes at its ends; "" = none
	place  awsclient.Place
}

// ParseURI accepts exactly the form in the package doc. Its errors wrap ErrURI and are one line.
func ParseURI(s string) (URI, error) {
	u, err := parseURI(s)
	if err != nil {
		return URI{}, fmt.Errorf("%w%s: %w (%s)", ErrURI, quoted(s), err, acceptedForm)
	}
	return u, nil
}

// quoted leaves out parts that may hold a password (key:secret@bucket, or an unknown parameter).
func quoted(s string) string {
	shown, _, _ := strings.Cut(s, "?")
	if len(shown) > maxPrefix || strings.Contains(s, "@") || strings.Contains(s, "%40") {
		return ""
	}
	return " " + strconv.QuoteToASCII(shown)
}

func parseURI(s string) (URI, error) {
	rest, ok := strings.CutPrefix(s, Scheme)
	if !ok {
		return URI{}, errors.New("it does not begin with s3://")
	}
	path, rawQuery, _ := strings.Cut(rest, "?")
	if strings.Contains(path, "@") {
		return URI{}, errors.New("credentials are not accepted, they come from the AWS configuration")
	}
	name, prefix, _ := strings.Cut(path, "/")
	prefix = strings.TrimSuffix(prefix, "/")
	switch {
	case name == "":
		return URI{}, errors.New("the bucket is missing")
	case !bucketName().MatchString(name) || ipv4().MatchString(name):
		return URI{}, errors.New("not the name of a bucket")
	case prefix != "" && !prefixName().MatchString(prefix) || len(prefix) > maxPrefix:
		return URI{}, fmt.Errorf("the prefix is letters, digits and _.=- between single slashes, at most %d bytes", maxPrefix)
	}
	for part := range strings.SplitSeq(prefix, "/") {
		if part == "." || part == ".." {
			return URI{}, errors.New("the prefix has a . or .. part")
		}
	}
	query, err := url.ParseQuery(rawQuery)
	if err != nil {
		return URI{}, errors.New("bad query")
	}
	place, err := awsclient.ParsePlace(query)
	return URI{bucket: name, prefix: prefix, place: place}, err
}

// String is the canonical form.
func (u URI) String() string { return u.name() + u.place.Query() }

// name is the URI without region and endpoint.
func (u URI) name() string {
	if u.prefix == "" {
		return Scheme + u.bucket
	}
	return Scheme + u.bucket + "/" + u.prefix
}
