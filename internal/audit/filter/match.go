package filter

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Subject is the part of an event that a filter is about; a zero field is a value that the event does not have.
type Subject struct {
	At      time.Time
	Secret  string
	Actor   string
	Action  string
	Outcome string
	Client  netip.Addr
	Node    string
	Request string // a UUID in small letters
	Version int
}

// Matches reports whether an event matches the filter, as the statements of the audit log decide it (package auditdb).
func (f Filter) Matches(s Subject) bool {
	if since := f.Since(); !since.IsZero() && s.At.Before(since) {
		return false
	}
	if until := f.Until(); !until.IsZero() && !s.At.Before(until) {
		return false
	}
	for _, key := range Keys() {
		any, none := f.Of(key)
		if key == Since || key == Until {
			continue
		}
		holds := func(t Term) bool { return t.holds(s) }
		if len(any) > 0 && !slices.ContainsFunc(any, holds) || slices.ContainsFunc(none, holds) {
			return false
		}
	}
	return true
}

// holds leaves out the negation.
func (t Term) holds(s Subject) bool {
	switch t.Key {
	case Secret:
		return t.isText(s.Secret)
	case Actor:
		return slices.ContainsFunc(t.Actors(), func(text string) bool {
			t.Text = text
			return t.isText(s.Actor)
		})
	case Action:
		return t.isText(s.Action)
	case Node:
		return slices.ContainsFunc(t.Nodes(), func(t Term) bool { return t.isText(s.Node) })
	case Outcome:
		return t.Text == s.Outcome
	case Request:
		return t.Text == s.Request
	case IP:
		return s.Client.IsValid() && t.Network.Contains(s.Client)
	case Version:
		return t.Number == s.Version
	}
	return false
}

// isText treats an empty text as none, which no term matches.
func (t Term) isText(text string) bool {
	return text != "" && (t.Text == text || t.Prefix && strings.HasPrefix(text, t.Text))
}
