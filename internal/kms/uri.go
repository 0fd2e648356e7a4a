package kms

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/hyperiondb/vault/internal/awsclient"
	"github.com/hyperiondb/vault/internal/lazyregexp"
)

// ErrURI is wrapped by every refusal of a key URI.
var ErrURI = errors.New("invalid kms key uri")

const (
	schemeAWS   = "awskms"
	schemeLocal = "local"

	maxURI        = 2048 // bytes
	acceptedForms = "accepted: awskms:///alias/NAME?region=REGION, awskms:///KEY-ARN, awskms:///KEY-UUID, local:///PATH"
)

// Key identifiers as AWS prints them:
// https://docs.aws.amazon.com/kms/latest/developerguide/concepts.html#key-id
var (
	awsKeyID = lazyregexp.New(`^(?:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|mrk-[0-9a-f]{32})$`)
	awsAlias = lazyregexp.New(`^alias/[A-Za-z0-9/_-]{1,250}$`)
	awsARN   = lazyregexp.New(`^arn:aws[a-z-]{0,20}:kms:([^:]*):[0-9]{12}:(.*)$`)
)

// URI is a parsed key URI. Two URIs that say the same are equal with ==.
// The zero URI names no key.
type URI struct {
	scheme string
	name   string // awskms: alias/NAME, ARN or key id. local: clean absolute path

	place awsclient.Place // awskms only
}

// ParseURI accepts the forms in the package doc and nothing near them: no host part, no
// relative path, no fragment, no unknown or repeated query parameter, no control character.
// Its errors wrap ErrURI, are one line and list the accepted forms.
func ParseURI(s string) (URI, error) {
	u, err := parseURI(s)
	if err != nil {
		return URI{}, fmt.Errorf("%w%s: %w (%s)", ErrURI, quoted(s), err, acceptedForms)
	}
	return u, nil
}

// quoted leaves out a URI that may hold a password (user:password@host).
func quoted(s string) string {
	if len(s) > maxURI || strings.Contains(s, "@") || strings.Contains(s, "%40") {
		return ""
	}
	return " " + strconv.QuoteToASCII(s)
}

// LocalURI is the URI of a key file: an absolute path, with what a URI takes for itself written as %23 and the like.
func LocalURI(path string) string { return schemeLocal + "://" + (&url.URL{Path: path}).EscapedPath() }

func parseURI(s string) (URI, error) {
	if len(s) > maxURI {
		return URI{}, fmt.Errorf("longer than %d bytes", maxURI)
	}
	scheme, rest, found := strings.Cut(s, ":")
	if !found || (scheme != schemeAWS && scheme != schemeLocal) {
		return URI{}, errors.New("unknown scheme")
	}
	if !strings.HasPrefix(rest, "//") {
		return URI{}, errors.New("the scheme is followed by three slashes")
	}
	if !strings.HasPrefix(rest, "///") {
		return URI{}, errors.New("a host part is not accepted, or the path is relative")
	}
	if strings.Contains(rest, "#") {
		return URI{}, errors.New("a fragment is not accepted (write # as %23)")
	}
	rawPath, rawQuery, _ := strings.Cut(rest[len("//"):], "?")
	name, err := url.PathUnescape(rawPath)
	if err != nil {
		return URI{}, errors.New("bad percent-encoding")
	}
	query, err := url.ParseQuery(rawQuery)
	if err != nil {
		return URI{}, errors.New("bad query")
	}
	if !printable(name) {
		return URI{}, errors.New("a control character or invalid UTF-8")
	}
	if scheme == schemeLocal {
		return parseLocal(name, query)
	}
	return parseAWS(strings.TrimPrefix(name, "/"), query)
}

// printable is stricter than "no control characters": it also keeps out line separators and
// the marks that reverse the direction of text, so that a key is displayed as what it is.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

func parseLocal(name string, query url.Values) (URI, error) {
	if len(query) > 0 {
		return URI{}, errors.New("a local key takes no query parameters")
	}
	if name == "/" || path.Clean(name) != name {
		return URI{}, errors.New("the path must be absolute, without empty, . or .. parts")
	}
	return URI{scheme: schemeLocal, name: name}, nil
}

func parseAWS(name string, query url.Values) (URI, error) {
	u := URI{scheme: schemeAWS, name: name}
	if !awsKeyID().MatchString(name) && !awsAlias().MatchString(name) && !validARN(name) {
		return URI{}, errors.New("not an alias, a key ARN or a key id")
	}
	var err error
	if u.place, err = awsclient.ParsePlace(query); err != nil {
		return URI{}, err
	}
	if inARN := arnRegion(name); inARN != "" && u.place.Region != "" && inARN != u.place.Region {
		return URI{}, fmt.Errorf("region %q differs from %q in the ARN", u.place.Region, inARN)
	}
	return u, nil
}

func validARN(s string) bool {
	m := awsARN().FindStringSubmatch(s)
	if m == nil || !awsclient.RegionName(m[1]) {
		return false
	}
	id, isKey := strings.CutPrefix(m[2], "key/")
	return isKey && awsKeyID().MatchString(id) || awsAlias().MatchString(m[2])
}

// isKeyARN reports whether text is the ARN of a key, not of an alias.
func isKeyARN(s string) bool {
	return validARN(s) && strings.Contains(s, ":key/")
}

// isMultiRegion: such a key has the same id and material in every region that has it, so each of them opens what
// another has wrapped (https://docs.aws.amazon.com/kms/latest/developerguide/multi-region-keys-overview.html).
func isMultiRegion(arn string) bool { return isKeyARN(arn) && strings.Contains(arn, ":key/mrk-") }

// sameKey compares two ARNs; those of a multi-region key may differ in their region.
func sameKey(a, b string) bool {
	if a == "" || a == b || !isMultiRegion(a) || !isMultiRegion(b) {
		return a != "" && a == b
	}
	return strings.Replace(a, ":kms:"+arnRegion(a)+":", ":kms::", 1) == strings.Replace(b, ":kms:"+arnRegion(b)+":",
		":kms::", 1)
}

// arnRegion is "" for text that is not an ARN.
func arnRegion(s string) string {
	m := awsARN().FindStringSubmatch(s)
	if m == nil {
		return ""
	}
	return m[1]
}

// String is the canonical form: ParseURI(u.String()) == u.
func (u URI) String() string {
	switch u.scheme {
	case schemeLocal:
		return schemeLocal + "://" + (&url.URL{Path: u.name}).EscapedPath()
	case schemeAWS:
		return schemeAWS + ":///" + u.name + u.place.Query()
	}
	return ""
}

// HasEndpoint reports whether the URI chooses the server that is called.
func (u URI) HasEndpoint() bool { return u.place.Endpoint != "" }

// LocalPath is the path of a key file; "" for a key in AWS KMS.
func (u URI) LocalPath() string {
	if u.scheme != schemeLocal {
		return ""
	}
	return u.name
}

// isAlias reports whether the name is an alias, which can be pointed to another key.
func (u URI) isAlias() bool {
	return strings.HasPrefix(u.name, "alias/") || strings.Contains(u.name, ":alias/")
}

// HasEndpoint reports whether a key URI chooses the server that is called, which a URI out of the
// database may not. It is true for a text that ParseURI refuses.
func HasEndpoint(uri string) bool {
	u, err := ParseURI(uri)
	return err != nil || u.HasEndpoint()
}
