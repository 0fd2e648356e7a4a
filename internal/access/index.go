package access

import (
	"cmp"
	"crypto/subtle"
	"net/netip"
	"slices"
	"time"

	"github.com/google/uuid"
)

// Reason is why a request is refused. The client does not learn it: it stands in the audit log, the log and a metric.
type Reason string

const (
	Allowed    Reason = ""
	BadToken   Reason = "bad_token"   // not a token, or none of this vault
	Expired    Reason = "expired"     // the credential
	Revoked    Reason = "revoked"     // the credential
	Disabled   Reason = "disabled"    // the app
	Network    Reason = "network"     // the credential may not be used from the client's address
	NoIdentity Reason = "no_identity" // no credential, or a certificate that leads to no app or to several
	Policy     Reason = "policy"      // no rule of the app covers the name and the action
)

// Refusals are all reasons but Allowed.
var Refusals = []Reason{BadToken, Expired, Revoked, Disabled, Network, NoIdentity, Policy}

// Failed reports whether the credential itself was refused, not what it was used for.
func (r Reason) Failed() bool { return r != Allowed && r != Policy }

// Identity is what a request presents: one credential, or none.
type Identity struct {
	Kind Kind // "" = no credential

	// Of a token.
	ID          uuid.UUID
	Fingerprint [32]byte

	// Of the other kinds. Those that lead to an app must all lead to the same.
	Matches []string

	Addr netip.Addr // of the client, as the allowlist sees it; invalid over a unix socket
}

// Decision is the result of Judge. App and Credential are set as soon as the credential is proven, also if the
// request is refused then.
type Decision struct {
	App        string
	Credential uuid.UUID // uuid.Nil of the anonymous app
	CreatedAt  time.Time // of the credential
	ExpiresAt  *time.Time
	Reason     Reason
}

// Index is a snapshot prepared for Judge. It is safe for concurrent use and never modified.
type Index struct {
	epoch   uuid.UUID
	apps    []app
	byName  map[string]int32
	tokens  map[uuid.UUID]*credential
	matches map[string]*credential // a match says its kind
}

type app struct {
	name     string
	disabled bool
	rules    []rule // sorted by compare
}

// rule allows actions on a pattern. An app has one for each pattern.
type rule struct {
	Pattern
	actions actionSet
}

// actionSet has one bit for each of Actions.
type actionSet uint8

func setOf(actions []Action) (set actionSet) {
	for _, a := range actions {
		set |= bit(a)
	}
	return set
}

// bit is 0 for an action that this build does not know, so that a rule does not allow it.
func bit(a Action) actionSet {
	if i := slices.Index(Actions, a); i >= 0 {
		return 1 << i
	}
	return 0
}

type credential struct {
	id          uuid.UUID
	fingerprint [32]byte
	app         int32
	networks    []netip.Prefix
	created     time.Time
	expires     *time.Time
	revoked     bool
}

// NewIndex prepares a snapshot. It keeps no part of it but the texts.
func NewIndex(s Snapshot) *Index {
	count := 0
	for i := range s.Apps {
		count += len(s.Apps[i].Credentials)
	}
	x := &Index{epoch: s.Epoch, apps: make([]app, 0, len(s.Apps)), byName: make(map[string]int32, len(s.Apps)),
		tokens: make(map[uuid.UUID]*credential, count), matches: map[string]*credential{}}
	all := make([]credential, 0, count)
	for i := range s.Apps {
		from := &s.Apps[i]
		number := int32(len(x.apps))
		x.apps = append(x.apps, app{name: from.Name, disabled: from.DisabledAt != nil, rules: sortedRules(from.Rules)})
		x.byName[from.Name] = number
		for j := range from.Credentials {
			c := &from.Credentials[j]
			all = append(all, credential{id: c.ID, fingerprint: c.TokenSHA256, app: number,
				networks: slices.Clone(c.Networks), created: c.CreatedAt, expires: c.ExpiresAt, revoked: c.RevokedAt != nil})
			x.add(c, &all[len(all)-1])
		}
	}
	return x
}

// add keeps of several credentials with one match the one that is not revoked.
func (x *Index) add(from *Credential, c *credential) {
	switch from.Kind {
	case ByToken:
		x.tokens[c.id] = c
	case ByCert, ByUnix:
		match, err := ParseMatch(from.Kind, from.Match)
		if before := x.matches[match]; err == nil && (before == nil || before.revoked) {
			x.matches[match] = c
		}
	}
}

func sortedRules(from []Rule) []rule {
	rules := make([]rule, 0, len(from))
	for _, r := range from {
		if !r.Pattern.IsZero() {
			rules = append(rules, rule{r.Pattern, setOf(r.Actions)})
		}
	}
	slices.SortFunc(rules, func(a, b rule) int { return comparePatterns(a.Pattern, b.Pattern) })
	return rules
}

func comparePatterns(a, b Pattern) int {
	if c := cmp.Compare(a.name, b.name); c != 0 || a.below == b.below {
		return c
	}
	if b.below {
		return -1
	}
	return 1
}

// Epoch is that of the snapshot.
func (x *Index) Epoch() uuid.UUID { return x.epoch }

// Size is the number of apps, and of credentials that lead to one.
func (x *Index) Size() (apps, credentials int) { return len(x.apps), len(x.tokens) + len(x.matches) }

// Expiries calls yield with each app that is not disabled and the end of each of its live credentials that have one.
func (x *Index) Expiries(now time.Time, yield func(app string, expires time.Time)) {
	report := func(c *credential) {
		if a := &x.apps[c.app]; c.expires != nil && !c.revoked && !a.disabled && now.Before(*c.expires) {
			yield(a.name, *c.expires)
		}
	}
	for _, c := range x.tokens {
		report(c)
	}
	for _, c := range x.matches {
		report(c)
	}
}

// Knows reports whether a match leads to a credential, be it revoked: then a client that has it is judged by it.
func (x *Index) Knows(match string) bool { return x.matches[match] != nil }

// Judge decides one request. It finds the credential, proves it, and looks for a rule of its app that covers the name
// and allows the action. Whether a secret has that name makes no difference. An empty action asks for a valid
// credential only.
func (x *Index) Judge(who Identity, action Action, name string, now time.Time) Decision {
	d, number := x.identify(who, now)
	if d.Reason == Allowed && action != "" && !x.apps[number].allows(action, name) {
		d.Reason = Policy
	}
	return d
}

// JudgeList decides whether a listing of what begins with the prefix may be answered: some rule allows to list a name
// there, be there a secret or not.
func (x *Index) JudgeList(who Identity, prefix string, now time.Time) Decision {
	d, number := x.identify(who, now)
	if d.Reason == Allowed && !x.apps[number].lists(prefix) {
		d.Reason = Policy
	}
	return d
}

// Patterns are those on which the app of the identity may take the action, sorted; none if the identity is refused.
func (x *Index) Patterns(who Identity, action Action, now time.Time) []Pattern {
	d, number := x.identify(who, now)
	if d.Reason != Allowed {
		return nil
	}
	var patterns []Pattern
	for _, r := range x.apps[number].rules {
		if r.actions&bit(action) != 0 {
			patterns = append(patterns, r.Pattern)
		}
	}
	return patterns
}

// identify returns the app of a good credential as a number, or the reason why there is none.
func (x *Index) identify(who Identity, now time.Time) (Decision, int32) {
	if who.Kind == "" {
		number, ok := x.byName[Anonymous]
		switch {
		case !ok:
			return Decision{Reason: NoIdentity}, 0
		case x.apps[number].disabled:
			return Decision{App: Anonymous, Reason: Disabled}, 0
		}
		return Decision{App: Anonymous}, number
	}
	c, reason := x.find(who)
	if c == nil {
		return Decision{Reason: reason}, 0
	}
	a := &x.apps[c.app]
	d := Decision{App: a.name, Credential: c.id, CreatedAt: c.created, ExpiresAt: c.expires}
	switch {
	case c.revoked:
		d.Reason = Revoked
	case c.expires != nil && !now.Before(*c.expires):
		d.Reason = Expired
	case a.disabled:
		d.Reason = Disabled
	case len(c.networks) > 0 && !containsAddr(c.networks, who.Addr):
		d.Reason = Network
	}
	return d, c.app
}

// find returns the credential that the identity proves, or nil and the reason.
func (x *Index) find(who Identity) (*credential, Reason) {
	if who.Kind == ByToken {
		c := x.tokens[who.ID]
		if c == nil || subtle.ConstantTimeCompare(c.fingerprint[:], who.Fingerprint[:]) != 1 {
			return nil, BadToken
		}
		return c, Allowed
	}
	var found *credential
	for _, match := range who.Matches {
		c := x.matches[match]
		switch {
		case c == nil || isLocal(match) != (who.Kind == ByUnix):
		case found == nil || found.revoked && !c.revoked:
			found = c
		case c.app != found.app && !c.revoked:
			return nil, NoIdentity
		}
	}
	if found == nil {
		return nil, NoIdentity
	}
	return found, Allowed
}

func containsAddr(networks []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(addr) })
}

// allows looks for the name itself, for each prefix of it that ends with a separator, and for "*": a rule for one of
// them is all that can cover it.
func (a *app) allows(action Action, name string) bool {
	want := bit(action)
	if want == 0 || name == "" {
		return false
	}
	if a.rule(Pattern{name: name})&want != 0 || a.rule(Pattern{below: true})&want != 0 {
		return true
	}
	for i := range len(name) - 1 {
		if (name[i] == '/' || name[i] == '.') && a.rule(Pattern{name: name[:i+1], below: true})&want != 0 {
			return true
		}
	}
	return false
}

func (a *app) lists(prefix string) bool {
	return slices.ContainsFunc(a.rules, func(r rule) bool { return r.actions&bit(List) != 0 && r.Reaches(prefix) })
}

func (a *app) rule(p Pattern) actionSet {
	i, ok := slices.BinarySearchFunc(a.rules, p, func(r rule, p Pattern) int { return comparePatterns(r.Pattern, p) })
	if !ok {
		return 0
	}
	return a.rules[i].actions
}
