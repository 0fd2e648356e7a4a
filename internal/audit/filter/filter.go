package filter

import (
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Key is what a term is about.
type Key string

const (
	Secret  Key = "secret"
	Actor   Key = "actor"
	Action  Key = "action"
	Outcome Key = "outcome"
	IP      Key = "ip"
	Node    Key = "node"
	Request Key = "request"
	Version Key = "version"
	Since   Key = "since"
	Until   Key = "until"
)

// Keys returns all keys, the commonest first.
func Keys() []Key {
	return []Key{Secret, Actor, Action, Outcome, Since, Until, IP, Node, Request, Version}
}

// Outcomes returns what an outcome can be.
func Outcomes() []string { return []string{"ok", "denied", "failed"} }

// Term is one condition. Text is its value in canonical spelling; Network, Number and Time have the typed value of
// their keys.
type Term struct {
	Key    Key
	Not    bool
	Text   string
	Prefix bool // of secret, actor, action and node: matches everything that begins with Text

	Network netip.Prefix // of ip
	Number  int          // of version
	Time    time.Time    // of since and until
}

// Filter is a list of terms; none = every event.
type Filter struct{ Terms []Term }

// String is the filter in its canonical spelling.
func (f Filter) String() string {
	words := make([]string, len(f.Terms))
	for i, t := range f.Terms {
		words[i] = t.String()
	}
	return strings.Join(words, " ")
}

// String is the term in its canonical spelling.
func (t Term) String() string {
	var b strings.Builder
	if t.Not {
		b.WriteByte('-')
	}
	b.WriteString(string(t.Key))
	b.WriteByte(':')
	b.WriteString(quote(t.Text))
	if t.Prefix {
		b.WriteByte('*')
	}
	return b.String()
}

// With returns the filter with one more term.
func (f Filter) With(t Term) Filter { return Filter{append(slices.Clone(f.Terms), t)} }

// Without returns the filter without the terms of some keys.
func (f Filter) Without(keys ...Key) Filter {
	return Filter{slices.DeleteFunc(slices.Clone(f.Terms), func(t Term) bool { return slices.Contains(keys, t.Key) })}
}

// Of returns the terms of a key: those that any of must hold, and those that must not.
func (f Filter) Of(key Key) (any, none []Term) {
	for _, t := range f.Terms {
		switch {
		case t.Key != key:
		case t.Not:
			none = append(none, t)
		default:
			any = append(any, t)
		}
	}
	return any, none
}

// Since and Until are the borders in time, the first inclusive, the second not; zero = open.
func (f Filter) Since() time.Time { return f.border(Since) }

// Until is described at [Filter.Since].
func (f Filter) Until() time.Time { return f.border(Until) }

func (f Filter) border(key Key) time.Time {
	if terms, _ := f.Of(key); len(terms) > 0 {
		return terms[0].Time
	}
	return time.Time{}
}

// actorKinds are the kinds before an actor's name; role: is set by the session itself, without proof.
func actorKinds() []string {
	return []string{"token:", "app:", "worker:", "client:", "owner:", "role:"}
}

// Actors are the texts that an actor's term matches: without a kind, those of every kind.
func (t Term) Actors() []string {
	texts := []string{t.Text}
	if slices.ContainsFunc(actorKinds(), func(kind string) bool { return strings.HasPrefix(t.Text, kind) }) ||
		t.Text == "" {
		return texts
	}
	for _, kind := range actorKinds() {
		texts = append(texts, kind+t.Text)
	}
	return texts
}

// Nodes are the terms that a node's term stands for: its name is also the beginning of NAME@HOST, as spools begun by
// earlier releases have it.
func (t Term) Nodes() []Term {
	if t.Prefix {
		return []Term{t}
	}
	before := t
	before.Text, before.Prefix = t.Text+"@", true
	return []Term{t, before}
}

// quote writes a text so that it parses as one word with exactly that text.
func quote(text string) string {
	if text != "" && !strings.ContainsAny(text, `"\*`) && !strings.ContainsFunc(text, unicode.IsSpace) {
		return text
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
}
