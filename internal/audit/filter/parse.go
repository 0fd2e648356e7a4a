package filter

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hyperiondb/vault/internal/lazyregexp"
)

const (
	maxLength = 4096 // bytes of a filter
	maxTerms  = 64   // each is a condition of a statement
)

// Error says what is wrong with a filter, and where.
type Error struct {
	Column int // of the first character that is wrong, from 0, in characters
	Text   string
}

func (e *Error) Error() string { return fmt.Sprintf("filter, column %d: %s", e.Column+1, e.Text) }

// Parse reads a filter. Times are relative to now and in its zone.
func Parse(text string, now time.Time) (Filter, error) {
	if len(text) > maxLength {
		return Filter{}, &Error{maxLength, fmt.Sprintf("longer than %d bytes", maxLength)}
	}
	now = now.Round(0) // without the monotonic reading, since terms are compared
	words, err := split(text)
	if err != nil {
		return Filter{}, err
	}
	var f Filter
	border := 0 // the column of the last term of since: or until:
	for _, w := range words {
		term, err := w.term(now)
		if err == nil {
			err = f.clashes(term)
		}
		if err != nil {
			return Filter{}, &Error{w.column, err.Error()}
		}
		if term.Key == Since || term.Key == Until {
			border = w.column
		}
		if !slices.Contains(f.Terms, term) {
			f.Terms = append(f.Terms, term)
		}
	}
	if since, until := f.Since(), f.Until(); !since.IsZero() && !until.IsZero() && !since.Before(until) {
		return Filter{}, &Error{border, "since: is not before until:"}
	}
	return f, nil
}

// clashes is the error of a term that makes no sense beside those before it.
func (f Filter) clashes(t Term) error {
	if len(f.Terms) == maxTerms {
		return fmt.Errorf("more than %d terms", maxTerms)
	}
	if t.Key != Since && t.Key != Until {
		return nil
	}
	if t.Not {
		return fmt.Errorf("%s: cannot be negated", t.Key)
	}
	if given, _ := f.Of(t.Key); len(given) > 0 {
		return fmt.Errorf("%s: is given twice", t.Key)
	}
	return nil
}

// word is a term as typed, unquoted.
type word struct {
	column int
	not    bool
	key    string // "" = a word alone
	text   string
	prefix bool
}

// split finds the words. It alone counts columns and reads quotes.
func split(text string) ([]word, error) {
	if !utf8.ValidString(text) {
		return nil, &Error{invalidAt(text), "not valid UTF-8"}
	}
	runes := []rune(text)
	var words []word
	for at := 0; at < len(runes); {
		if unicode.IsSpace(runes[at]) {
			at++
			continue
		}
		w, next, err := scan(runes, at)
		if err != nil {
			return nil, err
		}
		words, at = append(words, w), next
	}
	return words, nil
}

func invalidAt(text string) int {
	column := 0
	for i, r := range text {
		if _, size := utf8.DecodeRuneInString(text[i:]); r == utf8.RuneError && size == 1 {
			break
		}
		column++
	}
	return column
}

// scan reads one word from runes[at:] and returns where the next may begin.
func scan(runes []rune, at int) (word, int, error) {
	w := word{column: at}
	if runes[at] == '-' || runes[at] == '!' {
		w.not = true
		at++
	}
	end := at
	for end < len(runes) && unicode.IsLetter(runes[end]) {
		end++
	}
	if end > at && end < len(runes) && runes[end] == ':' {
		w.key = string(runes[at:end])
		at = end + 1
	}
	var text strings.Builder
	quoted := false
	for at < len(runes) && !unicode.IsSpace(runes[at]) {
		switch r := runes[at]; {
		case r == '"':
			end, err := unquote(&text, runes, at)
			if err != nil {
				return w, 0, err
			}
			at, quoted = end, true
		case r == '*':
			if at+1 < len(runes) && !unicode.IsSpace(runes[at+1]) {
				return w, 0, &Error{at, `"*" stands at the end only`}
			}
			w.prefix = true
			at++
		case unicode.IsControl(r):
			return w, 0, &Error{at, "a control character"}
		default:
			text.WriteRune(r)
			at++
		}
	}
	w.text = text.String()
	if w.text == "" && !w.prefix && !quoted {
		return w, 0, &Error{at, "a value is missing"}
	}
	return w, at, nil
}

// unquote writes the text between the quote at runes[at] and the next one, and returns the end of that.
func unquote(text *strings.Builder, runes []rune, at int) (int, error) {
	for i := at + 1; i < len(runes); i++ {
		switch r := runes[i]; {
		case r == '"':
			return i + 1, nil
		case unicode.IsControl(r):
			return 0, &Error{i, "a control character"}
		case r == '\\':
			if i++; i == len(runes) || runes[i] != '"' && runes[i] != '\\' {
				return 0, &Error{i - 1, `after "\" comes another or a quote`}
			}
			text.WriteRune(runes[i])
		default:
			text.WriteRune(r)
		}
	}
	return 0, &Error{at, "the quote has no end"}
}

// term gives the word its type.
func (w word) term(now time.Time) (Term, error) {
	t := Term{Key: Key(strings.ToLower(w.key)), Not: w.not, Text: w.text, Prefix: w.prefix}
	if w.key == "" {
		t.Key, t.Prefix = Secret, true
	}
	if t.Prefix && !slices.Contains([]Key{Secret, Actor, Action, Node}, t.Key) && slices.Contains(Keys(), t.Key) {
		return t, fmt.Errorf("%s: takes no \"*\"", t.Key)
	}
	switch t.Key {
	case Secret, Node:
		return t, t.checkText(255)
	case Actor:
		return t, t.checkText(400)
	case Action:
		t.Text = strings.ToLower(t.Text)
		return t, t.checkText(64)
	case Outcome:
		return t.outcome()
	case IP:
		return t.network()
	case Request:
		return t.request()
	case Version:
		return t.version()
	case Since, Until:
		return t.moment(now)
	}
	return t, fmt.Errorf("no key %q: %s", w.key, listed(Keys()))
}

func (t *Term) checkText(longest int) error {
	if len(t.Text) > longest {
		return fmt.Errorf("%s: is longer than %d bytes", t.Key, longest)
	}
	if t.Text == "" && !t.Prefix {
		return fmt.Errorf("%s: is empty", t.Key)
	}
	return nil
}

func (t Term) outcome() (Term, error) {
	t.Text = strings.ToLower(t.Text)
	if !slices.Contains(Outcomes(), t.Text) {
		return t, fmt.Errorf("no outcome %q: %s", t.Text, listed(Outcomes()))
	}
	return t, nil
}

func (t Term) network() (Term, error) {
	network, err := netip.ParsePrefix(t.Text)
	if err != nil {
		address, err := netip.ParseAddr(t.Text)
		if err != nil || address.Zone() != "" {
			return t, fmt.Errorf("ip: takes an address or a network such as 10.0.0.0/8, not %q", t.Text)
		}
		network = netip.PrefixFrom(address.Unmap(), address.Unmap().BitLen())
	}
	if network.Addr().Is4In6() {
		return t, fmt.Errorf("ip: takes a network of IPv4 without \"::ffff:\"")
	}
	t.Network = network.Masked()
	t.Text = t.Network.String()
	if t.Network.IsSingleIP() {
		t.Text = t.Network.Addr().String()
	}
	return t, nil
}

var uuidForm = lazyregexp.New(`\A[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\z`)

func (t Term) request() (Term, error) {
	t.Text = strings.ToLower(t.Text)
	if !uuidForm().MatchString(t.Text) {
		return t, fmt.Errorf("request: takes a request id such as 5e1c6f0a-0000-4000-8000-000000000000, not %q", t.Text)
	}
	return t, nil
}

func (t Term) version() (Term, error) {
	n, err := strconv.ParseInt(t.Text, 10, 32)
	if err != nil || n < 1 {
		return t, fmt.Errorf("version: takes a number from 1 on, not %q", t.Text)
	}
	t.Number, t.Text = int(n), strconv.FormatInt(n, 10)
	return t, nil
}

func listed[T ~string](of []T) string {
	words := make([]string, len(of))
	for i, o := range of {
		words[i] = string(o)
	}
	return strings.Join(words, ", ")
}
