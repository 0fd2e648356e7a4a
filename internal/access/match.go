package access

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// ErrMatch says that a text names no client.
var ErrMatch = errors.New("not the name of a client")

// The forms of a match, by what it begins with.
const (
	matchSPIFFE = "spiffe://" // of a certificate with this URI
	matchDNS    = "dns:"      // of a certificate with this DNS name
	matchCN     = "cn:"       // of a certificate with this common name and no alternative names
	matchUID    = "uid:"      // of a process of this user
	matchUnit   = "unit:"     // of a systemd unit, for which systemd asks
)

const (
	maxSPIFFE = 2048 // the limits of the SPIFFE standard, in bytes
	maxDomain = 255
	maxDNS    = 253
	maxCN     = 64 // the upper bound of X.509
	maxUnit   = 255
)

// ParseMatch checks what a credential of the kind matches and returns it as it is compared: DNS names in lower case.
// The constraint credential_match_grammar of the database is the same grammar.
//
//	cert: spiffe://TRUST-DOMAIN/PATH, dns:NAME, cn:COMMON NAME
//	unix: uid:N, unit:NAME.service
func ParseMatch(kind Kind, text string) (string, error) {
	switch {
	case kind == ByCert && strings.HasPrefix(text, matchSPIFFE):
		return text, checkSPIFFE(text)
	case kind == ByCert && strings.HasPrefix(text, matchDNS):
		name := strings.ToLower(text)
		return name, checkDNS(name[len(matchDNS):])
	case kind == ByCert && strings.HasPrefix(text, matchCN):
		return text, checkCN(text[len(matchCN):])
	case kind == ByCert:
		return "", fmt.Errorf("%w: want spiffe://DOMAIN/PATH, dns:NAME or cn:NAME", ErrMatch)
	case kind == ByUnix && strings.HasPrefix(text, matchUnit):
		return text, CheckUnit(text[len(matchUnit):])
	case kind == ByUnix:
		digits := strings.TrimPrefix(text, matchUID)
		uid, err := strconv.ParseUint(digits, 10, 32)
		if err != nil || UnixMatch(uint32(uid)) != text {
			return "", fmt.Errorf("%w: want uid:N or unit:NAME.service", ErrMatch)
		}
		return text, nil
	}
	return "", fmt.Errorf("%w: a credential of kind %q has none", ErrMatch, string(kind))
}

// UnixMatch is the match of a process of the user.
func UnixMatch(uid uint32) string { return matchUID + strconv.FormatUint(uint64(uid), 10) }

// UnitMatch is the match of a systemd unit that CheckUnit accepts.
func UnitMatch(unit string) string { return matchUnit + unit }

// MaxUnitAndID is the most bytes that the name of a unit and the ID of its credential have together: what the address
// of a unix socket has room for (108 bytes), less those around a random part of 16.
const MaxUnitAndID = 84

// unitTypes are the types of units that run programs, and so can have credentials.
var unitTypes = []string{".service", ".socket", ".mount", ".swap"}

// CheckUnit returns nil for a name that a systemd unit with credentials can have: at most 255 of A-Z a-z 0-9 : - _ . \
// @, its type at the end. A template without an instance (web@.service) is none.
func CheckUnit(name string) error {
	word := ""
	for _, ending := range unitTypes {
		if before, ok := strings.CutSuffix(name, ending); ok {
			word = before
		}
	}
	if word == "" || len(name) > maxUnit {
		return fmt.Errorf("%w: the name of a unit has at most %d characters and ends with its type (billing.service)",
			ErrMatch, maxUnit)
	}
	if strings.ContainsFunc(name, func(c rune) bool { return !isUnit(c) }) {
		return fmt.Errorf(`%w: the name of a unit has A-Z, a-z, 0-9, ":", "-", "_", ".", "\" and "@"`, ErrMatch)
	}
	if word[0] == '@' || word[len(word)-1] == '@' {
		return fmt.Errorf("%w: a template has no credentials, its instances do (web@1.service)", ErrMatch)
	}
	return nil
}

func isUnit(c rune) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune(`:-_.\@`, c)
}

// isLocal reports whether a match is of a credential of kind unix.
func isLocal(match string) bool {
	return strings.HasPrefix(match, matchUID) || strings.HasPrefix(match, matchUnit)
}

// CertificateMatches are the matches of a verified client certificate. Exactly one of them may lead to an app:
//
//   - one URI spiffe://...: that one and no other
//   - else the DNS names
//   - else the common name, if there are no alternative names of any kind
//
// A certificate with several URIs, or with a SPIFFE id that is not well formed, is refused (ErrMatch): which of its
// names counts would be a guess.
func CertificateMatches(cert *x509.Certificate) ([]string, error) {
	return matchesOf(cert.URIs, cert.DNSNames, cert.Subject.CommonName, hasAlternativeNames(cert))
}

var subjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

// hasAlternativeNames looks for the extension itself: it may hold names of kinds that crypto/x509 does not parse.
func hasAlternativeNames(cert *x509.Certificate) bool {
	for _, e := range cert.Extensions {
		if e.Id.Equal(subjectAltName) {
			return true
		}
	}
	return false
}

func matchesOf(uris []*url.URL, dns []string, commonName string, hasSAN bool) ([]string, error) {
	if len(uris) > 1 {
		return nil, fmt.Errorf("%w: the certificate has %d URIs", ErrMatch, len(uris))
	}
	if len(uris) == 1 && strings.EqualFold(uris[0].Scheme, "spiffe") {
		id := uris[0].String()
		if err := checkSPIFFE(id); err != nil {
			return nil, err
		}
		return []string{id}, nil
	}
	if hasSAN {
		var matches []string
		for _, name := range dns {
			if name = strings.ToLower(name); checkDNS(name) == nil { // a wildcard names no client
				matches = append(matches, matchDNS+name)
			}
		}
		return matches, nil
	}
	if checkCN(commonName) == nil {
		return []string{matchCN + commonName}, nil
	}
	return nil, nil
}

// checkSPIFFE takes the ids of workloads that the SPIFFE standard defines, which have one spelling each: no port,
// query, escape, "." or "..", empty or last "/".
func checkSPIFFE(id string) error {
	bad := func(what string) error { return fmt.Errorf("%w: a SPIFFE id %s", ErrMatch, what) }
	rest, ok := strings.CutPrefix(id, matchSPIFFE)
	if !ok || len(id) > maxSPIFFE {
		return bad(`begins with "spiffe://" and has at most 2048 characters`)
	}
	parts := strings.Split(rest, "/")
	if len(parts) < 2 {
		return bad("has a path: spiffe://DOMAIN/PATH")
	}
	if parts[0] == "" || len(parts[0]) > maxDomain || strings.ContainsFunc(parts[0], isNoDomain) {
		return bad("has a domain of a-z, 0-9, -, _ and ., at most 255 characters")
	}
	for _, segment := range parts[1:] {
		if segment == "" || segment == "." || segment == ".." ||
			strings.ContainsFunc(segment, func(c rune) bool { return !isSPIFFE(c) }) {
			return bad("has a path of words with A-Z, a-z, 0-9, -, _ and .")
		}
	}
	return nil
}

func isNoDomain(c rune) bool { return !isSPIFFE(c) || 'A' <= c && c <= 'Z' }

func isSPIFFE(c rune) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.'
}

// checkDNS takes a host name in lower case: no wildcard, no address's brackets, no final dot.
func checkDNS(name string) error {
	if name == "" || len(name) > maxDNS {
		return fmt.Errorf("%w: a DNS name has 1 to %d characters", ErrMatch, maxDNS)
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, func(c rune) bool {
			return !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_')
		}) {
			return fmt.Errorf("%w: a DNS name has labels of a-z, 0-9, - and _, and no wildcard", ErrMatch)
		}
	}
	return nil
}

// checkCN takes ASCII only: other characters have more than one spelling, and some are not visible.
func checkCN(name string) error {
	if name == "" || len(name) > maxCN || name != strings.TrimSpace(name) ||
		strings.ContainsFunc(name, func(c rune) bool { return c < ' ' || c > '~' }) {
		return fmt.Errorf("%w: a common name has 1 to %d printable ASCII characters, without white space around it",
			ErrMatch, maxCN)
	}
	return nil
}
