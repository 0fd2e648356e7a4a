package kms

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
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
	awsKeyID  = regexp.MustCompile(`^(?:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|mrk-[0-9a-f]{32})$`)
	awsAlias  = regexp.MustCompile(`^alias/[A-Za-z0-9/_-]{1,250}$`)
	awsARN    = regexp.MustCompile(`^arn:aws[a-z-]{0,20}:kms:([^:]*):[0-9]{12}:(.*)$`)
	awsRegion = regexp.MustCompile(`^[a-z][a-z0-9-]{0,61}[a-z0-9]$`)
	hostName  = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?$`)
)

// URI is a parsed key URI. Two URIs that say the same are equal with ==.
// The zero URI names no key.
type URI struct {
	scheme string
	name   string // awskms: alias/NAME, ARN or key id. local: clean absolute path

	// awskms only, each "" when the URI leaves it to the AWS configuration.
	region   string
	endpoint string
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
	if !awsKeyID.MatchString(name) && !awsAlias.MatchString(name) && !validARN(name) {
		return URI{}, errors.New("not an alias, a key ARN or a key id")
	}
	for parameter, values := range query {
		if len(values) != 1 {
			return URI{}, fmt.Errorf("query parameter %q is repeated", parameter)
		}
		var err error
		switch parameter {
		case "region":
			u.region, err = parseRegion(values[0])
		case "endpoint":
			u.endpoint, err = parseEndpoint(values[0])
		default:
			err = fmt.Errorf("unknown query parameter %s", strconv.QuoteToASCII(parameter))
		}
		if err != nil {
			return URI{}, err
		}
	}
	if inARN := arnRegion(name); inARN != "" && u.region != "" && inARN != u.region {
		return URI{}, fmt.Errorf("region %q differs from %q in the ARN", u.region, inARN)
	}
	return u, nil
}

func validARN(s string) bool {
	m := awsARN.FindStringSubmatch(s)
	if m == nil || !awsRegion.MatchString(m[1]) {
		return false
	}
	id, isKey := strings.CutPrefix(m[2], "key/")
	return isKey && awsKeyID.MatchString(id) || awsAlias.MatchString(m[2])
}

// isKeyARN tells the ARN of a key from an alias ARN and from anything else.
func isKeyARN(s string) bool {
	return validARN(s) && strings.Contains(s, ":key/")
}

// arnRegion is "" for what is not an ARN.
func arnRegion(s string) string {
	m := awsARN.FindStringSubmatch(s)
	if m == nil {
		return ""
	}
	return m[1]
}

// parseRegion refuses what is not a DNS label, because the region becomes part of a host name.
func parseRegion(s string) (string, error) {
	if !awsRegion.MatchString(s) {
		return "", fmt.Errorf("region %s is not a region name", strconv.QuoteToASCII(s))
	}
	return s, nil
}

func parseEndpoint(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || u.Opaque != "" || u.User != nil || u.Host == "" || strings.Trim(u.Path, "/") != "" ||
		u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return "", errors.New("endpoint is not http://HOST:PORT or https://HOST[:PORT]")
	}
	host, err := canonicalHost(u)
	if err != nil {
		return "", err
	}
	if err := plainOnlyToLoopback(u); err != nil {
		return "", err
	}
	return u.Scheme + "://" + host, nil
}

func canonicalHost(u *url.URL) (string, error) {
	host := strings.ToLower(u.Hostname())
	if strings.HasPrefix(u.Host, "[") {
		addr, err := netip.ParseAddr(host)
		if err != nil || addr.Zone() != "" {
			return "", errors.New("endpoint has a bad IPv6 address")
		}
		host = addr.String()
	} else if !hostName.MatchString(host) {
		return "", errors.New("endpoint has a bad host name")
	}
	bracketed := host
	if strings.Contains(host, ":") {
		bracketed = "[" + host + "]"
	}
	if u.Port() == "" {
		return bracketed, nil
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil || port == 0 {
		return "", errors.New("endpoint has a bad port")
	}
	return net.JoinHostPort(host, strconv.FormatUint(port, 10)), nil
}

// plainOnlyToLoopback keeps plain data keys off the network.
func plainOnlyToLoopback(u *url.URL) error {
	switch u.Scheme {
	case "https":
		return nil
	case "http":
		addr, err := netip.ParseAddr(u.Hostname())
		if strings.EqualFold(u.Hostname(), "localhost") || err == nil && addr.IsLoopback() {
			return nil
		}
		return errors.New("endpoint is plain http to another machine, use https")
	}
	return errors.New("endpoint is neither http nor https")
}

// String is the canonical form: ParseURI(u.String()) == u.
func (u URI) String() string {
	switch u.scheme {
	case schemeLocal:
		return schemeLocal + "://" + (&url.URL{Path: u.name}).EscapedPath()
	case schemeAWS:
		var query []string
		if u.region != "" {
			query = append(query, "region="+u.region)
		}
		if u.endpoint != "" {
			// Needs no escaping: parseEndpoint lets through letters, digits and .-:/[]
			query = append(query, "endpoint="+u.endpoint)
		}
		s := schemeAWS + ":///" + u.name
		if len(query) > 0 {
			s += "?" + strings.Join(query, "&")
		}
		return s
	}
	return ""
}

// HasEndpoint tells whether the URI chooses the server that is asked.
func (u URI) HasEndpoint() bool { return u.endpoint != "" }

// isAlias: the key behind the name can change.
func (u URI) isAlias() bool {
	return strings.HasPrefix(u.name, "alias/") || strings.Contains(u.name, ":alias/")
}

// HasEndpoint tells whether a key URI chooses the server that is asked, which one out of the
// database may not. It answers true for what ParseURI refuses.
func HasEndpoint(uri string) bool {
	u, err := ParseURI(uri)
	return err != nil || u.HasEndpoint()
}
