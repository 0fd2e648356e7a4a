package target

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/lazyregexp"
	"github.com/hyperiondb/vault/internal/rotation"
)

// The kinds of target, as they begin a spec.
const (
	kindPostgresRole = "postgres-role"
	kindWebhook      = "webhook"
	kindExec         = "exec"
)

const (
	defaultTimeout = 10 * time.Second
	minTimeout     = time.Second
	maxTimeout     = 25 * time.Second // for each step; the worker gives an attempt 90 s
	maxSpec        = 2048             // bytes
	maxRole        = 63               // bytes; PostgreSQL cuts longer names off, and would alter another role
)

// Spec says which target a secret has. It is small and comparable; the zero Spec is none. Get one from Parse.
type Spec struct {
	kind    string
	roles   [2]string // postgres-role: one, or the pair
	via     string    // postgres-role: the secret that holds the administrator's connection string
	login   string    // postgres-role: where Test logs in, "" = where the administrator does
	url     string    // webhook
	key     string    // webhook: the secret that signs
	program string    // exec: a name out of vaultd's configuration
	adopt   bool      // a value at the target that the vault does not know is replaced
	timeout time.Duration
}

// Parse reads a spec, as stored or as typed: a kind and words of the form key=value, in any order, separated by white
// space.
//
//	postgres-role role=NAME via=SECRET [login=postgres://HOST[:PORT]/DATABASE]
//	postgres-role roles=A,B via=SECRET [login=...]
//	webhook url=URL key=SECRET
//	exec program=NAME
//
// Each takes timeout=, from 1s to 25s for a step (default 10s), and adopt=yes: a value at the target that the vault
// does not know is replaced. Anything else is refused, in one line that says what would be accepted.
func Parse(text string) (Spec, error) {
	s, err := parse(text)
	if err != nil {
		return Spec{}, fmt.Errorf("rotator%s: %w", quoted(text), err)
	}
	return s, nil
}

// parseStored accepts the canonical form only. In that form the database finds the secrets that a spec opens; a session
// that calls its functions directly must not hide one behind white space that the database does not split at.
func parseStored(text string) (Spec, error) {
	s, err := Parse(text)
	if err == nil && s.String() != text {
		return Spec{}, fmt.Errorf("rotator%s is not in its canonical form, %q", quoted(text), s)
	}
	return s, err
}

// quoted leaves out a spec that may hold a password (user:password@host).
func quoted(text string) string {
	if strings.Contains(text, "@") || strings.Contains(text, "%40") {
		return ""
	}
	return fmt.Sprintf(" %.200q", text)
}

func parse(text string) (Spec, error) {
	if len(text) > maxSpec {
		return Spec{}, fmt.Errorf("longer than %d bytes", maxSpec)
	}
	if !utf8.ValidString(text) {
		return Spec{}, errors.New("not UTF-8")
	}
	fields := strings.Fields(text)
	if len(fields) == 0 {
		return Spec{}, errors.New("empty; accepted kinds: postgres-role, webhook, exec")
	}
	s := Spec{kind: fields[0], timeout: defaultTimeout}
	form, ok := s.form()
	if !ok {
		return Spec{}, errors.New("unknown kind; accepted kinds: postgres-role, webhook, exec")
	}
	given, err := parseWords(fields[1:], form.keys())
	if err == nil {
		err = s.read(given)
	}
	if err != nil {
		return Spec{}, fmt.Errorf("%w (accepted: %s)", err, form)
	}
	return s, nil
}

// form is the usage line of a kind, from which its keys are read.
type form string

var keyInForm = lazyregexp.New(`([a-z]+)=`)

func (f form) keys() (keys []string) {
	for _, m := range keyInForm().FindAllStringSubmatch(string(f), -1) {
		keys = append(keys, m[1])
	}
	return keys
}

func (s *Spec) form() (form, bool) {
	switch s.kind {
	case kindPostgresRole:
		return "postgres-role role=NAME|roles=A,B via=SECRET [login=postgres://HOST/DATABASE] [adopt=yes] " +
			"[timeout=10s]", true
	case kindWebhook:
		return "webhook url=https://HOST/PATH key=SECRET [adopt=yes] [timeout=10s]", true
	case kindExec:
		return "exec program=NAME [adopt=yes] [timeout=10s]", true
	}
	return "", false
}

func parseWords(fields, known []string) (map[string]string, error) {
	given := map[string]string{}
	for _, field := range fields {
		key, value, found := strings.Cut(field, "=")
		switch {
		case !found:
			return nil, fmt.Errorf("%s is no key=value", quotedWord(field))
		case !slices.Contains(known, key):
			return nil, fmt.Errorf("unknown key %s", quotedWord(key))
		case given[key] != "":
			return nil, fmt.Errorf("%s= is given twice", key)
		case value == "":
			return nil, fmt.Errorf("%s= is empty", key)
		case strings.ContainsFunc(value, func(r rune) bool { return !unicode.IsPrint(r) }):
			return nil, fmt.Errorf("%s= has a character that cannot be printed", key)
		}
		given[key] = value
	}
	return given, nil
}

func quotedWord(word string) string {
	if q := quoted(word); q != "" {
		return q[1:]
	}
	return "a word"
}

func (s *Spec) read(given map[string]string) (err error) {
	if text := given["timeout"]; text != "" {
		if s.timeout, err = parseTimeout(text); err != nil {
			return err
		}
	}
	if s.adopt = given["adopt"] == "yes"; !s.adopt && given["adopt"] != "" {
		return errors.New("adopt= is yes, or not there")
	}
	switch s.kind {
	case kindPostgresRole:
		return s.readPostgresRole(given)
	case kindWebhook:
		s.url, s.key = given["url"], given["key"]
		if err := checkURL(s.url); err != nil {
			return err
		}
		return checkSecret("key", s.key)
	default:
		s.program = given["program"]
		return checkProgramName(s.program)
	}
}

func (s *Spec) readPostgresRole(given map[string]string) error {
	single, pair := given["role"], given["roles"]
	if (single == "") == (pair == "") {
		return errors.New("want either role= or roles=")
	}
	s.roles[0] = single
	if pair != "" {
		a, b, found := strings.Cut(pair, ",")
		if !found || a == b {
			return errors.New("roles= wants two different names with a comma between them")
		}
		s.roles = [2]string{a, b}
		if err := checkRole("roles", b); err != nil {
			return err
		}
		if s.adopt {
			return errors.New("adopt= is for role=: of a pair the next role's password is replaced in any case")
		}
	}
	if err := checkRole("role", s.roles[0]); err != nil {
		return err
	}
	s.via, s.login = given["via"], given["login"]
	if s.login != "" {
		at, err := parseServer(s.login)
		if err != nil {
			return fmt.Errorf("login= %w", err)
		}
		if at.user != "" || at.password != "" {
			return errors.New("login= takes no user and no password")
		}
	}
	return checkSecret("via", s.via)
}

func parseTimeout(text string) (time.Duration, error) {
	d, err := rotation.ParseInterval(text)
	if err != nil {
		return 0, fmt.Errorf("timeout=: %w", err)
	}
	if d < minTimeout || d > maxTimeout {
		return 0, fmt.Errorf("timeout=%s is not from %s to %s", text, minTimeout, maxTimeout)
	}
	return d, nil
}

func checkRole(key, name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%s= lacks a name", key)
	case strings.Contains(name, ","):
		return fmt.Errorf("%s= has too many names; roles=A,B is a pair", key)
	case len(name) > maxRole:
		return fmt.Errorf("%s= has a name longer than %d bytes", key, maxRole)
	}
	return nil
}

func checkSecret(key, name string) error {
	if name == "" {
		return fmt.Errorf("%s= is missing: the name of a secret", key)
	}
	if err := envelope.CheckName(name); err != nil {
		return fmt.Errorf("%s=: %w", key, err)
	}
	return nil
}

var programName = lazyregexp.New(`^[a-z0-9][a-z0-9_-]{0,62}$`)

func checkProgramName(name string) error {
	if name == "" {
		return errors.New("program= is missing: a name under [exec_rotators] in vaultd's configuration")
	}
	if !programName().MatchString(name) {
		return errors.New("program= is a name under [exec_rotators] in vaultd's configuration: " +
			"lower-case letters, digits, _ and -; not a path")
	}
	return nil
}

// checkURL refuses a URL to which a value would be sent unencrypted over the network.
func checkURL(text string) error {
	if text == "" {
		return errors.New("url= is missing")
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Opaque != "" || u.Hostname() == "":
		return errors.New("url= is not a URL with a host")
	case u.User != nil:
		return errors.New("url= takes no user and no password")
	case u.Fragment != "" || strings.Contains(text, "#"):
		return errors.New("url= takes no fragment")
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return errors.New("url= is plain http to another machine, use https")
	case u.Scheme != "https" && u.Scheme != "http":
		return errors.New("url= is not https")
	}
	return nil
}

func isLoopback(host string) bool {
	address, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && address.Unmap().IsLoopback()
}

// String is the canonical form: Parse(s.String()) == s. Words are separated by one space and hold none, and key and via
// come as key=NAME and via=NAME, so that the database too can find the secret that is opened.
func (s Spec) String() string {
	words := []string{s.kind}
	add := func(key, value string) {
		if value != "" {
			words = append(words, key+"="+value)
		}
	}
	if s.isPair() {
		add("roles", s.roles[0]+","+s.roles[1])
	} else {
		add("role", s.roles[0])
	}
	add("via", s.via)
	add("login", s.login)
	add("url", s.url)
	add("key", s.key)
	add("program", s.program)
	if s.adopt {
		add("adopt", "yes")
	}
	if s.timeout != 0 && s.timeout != defaultTimeout {
		add("timeout", rotation.FormatInterval(s.timeout))
	}
	return strings.Join(words, " ")
}

// Opens names the other secret that this rotator reads, or is "".
func (s Spec) Opens() string { return s.via + s.key } // each kind has one of them at most

// ReplacesUnknown reports whether a rotation replaces a value at the target that the vault does not have. Of a pair the
// role that readers use is not changed.
func (s Spec) ReplacesUnknown() bool { return s.adopt || s.isPair() }

func (s Spec) isPair() bool { return s.roles[1] != "" }
