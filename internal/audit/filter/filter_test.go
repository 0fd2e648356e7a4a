package filter_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hyperiondb/vault/internal/audit/filter"
)

// clock is a Wednesday, in a zone whose clocks went back on 25 October 2026.
func clock(t testing.TB) time.Time {
	t.Helper()
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	return time.Date(2026, 11, 25, 20, 30, 0, 0, berlin)
}

func mustParse(t testing.TB, text string) filter.Filter {
	t.Helper()
	f, err := filter.Parse(text, clock(t))
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return f
}

func TestParse(t *testing.T) {
	for text, want := range map[string][]filter.Term{
		"":                  {},
		" \t ":              {},
		"prod/":             {{Key: filter.Secret, Text: "prod/", Prefix: true}},
		"-prod/*":           {{Key: filter.Secret, Not: true, Text: "prod/", Prefix: true}},
		"!secret:a":         {{Key: filter.Secret, Not: true, Text: "a"}},
		"secret:*":          {{Key: filter.Secret, Prefix: true}},
		"Action:READ":       {{Key: filter.Action, Text: "read"}},
		"outcome:Denied":    {{Key: filter.Outcome, Text: "denied"}},
		`actor:"a \"b\" *"`: {{Key: filter.Actor, Text: `a "b" *`}},
		`actor:"a b"*`:      {{Key: filter.Actor, Text: "a b", Prefix: true}},
		`actor:we"ird  "x`:  {{Key: filter.Actor, Text: "weird  x"}},
		"ip:10.1.2.3/8": {{Key: filter.IP, Text: "10.0.0.0/8",
			Network: netip.MustParsePrefix("10.0.0.0/8")}},
		"ip:10.1.2.3": {{Key: filter.IP, Text: "10.1.2.3",
			Network: netip.MustParsePrefix("10.1.2.3/32")}},
		"ip:::ffff:10.1.2.3": {{Key: filter.IP, Text: "10.1.2.3",
			Network: netip.MustParsePrefix("10.1.2.3/32")}},
		"ip:FD00::/8": {{Key: filter.IP, Text: "fd00::/8",
			Network: netip.MustParsePrefix("fd00::/8")}},
		"version:007": {{Key: filter.Version, Text: "7", Number: 7}},
		"action:read action:read -action:verify": {{Key: filter.Action, Text: "read"},
			{Key: filter.Action, Not: true, Text: "verify"}},
		"request:5E1C6F0A-0000-4000-8000-000000000000": {{Key: filter.Request, Text: "5e1c6f0a-0000-4000-8000-000000000000"}},
	} {
		got := mustParse(t, text)
		if diff := cmp.Diff(want, got.Terms, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
			cmp.Transformer("terms", func(t []filter.Term) []filter.Term {
				if t == nil {
					return []filter.Term{}
				}
				return t
			})); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
}

func TestTimes(t *testing.T) {
	for text, want := range map[string]string{
		"since:-2h":                         "2026-11-25T18:30:00+01:00",
		"since:-1d12h":                      "2026-11-24T08:30:00+01:00",
		"since:-32d":                        "2026-10-24T20:30:00+02:00", // the same time of day, though the clocks changed
		"since:-1w":                         "2026-11-18T20:30:00+01:00",
		"since:-90m":                        "2026-11-25T19:00:00+01:00",
		"since:now":                         "2026-11-25T20:30:00+01:00",
		"since:today":                       "2026-11-25T00:00:00+01:00",
		"until:today":                       "2026-11-26T00:00:00+01:00",
		"since:Yesterday":                   "2026-11-24T00:00:00+01:00",
		"until:yesterday":                   "2026-11-25T00:00:00+01:00",
		"since:monday":                      "2026-11-23T00:00:00+01:00",
		"since:tuesday":                     "2026-11-24T00:00:00+01:00",
		"since:wednesday":                   "2026-11-18T00:00:00+01:00", // not today
		"since:thursday":                    "2026-11-19T00:00:00+01:00",
		"until:sunday":                      "2026-11-23T00:00:00+01:00",
		"since:10:00":                       "2026-11-25T10:00:00+01:00",
		"since:10:00:30":                    "2026-11-25T10:00:30+01:00",
		"since:2026-03-01":                  "2026-03-01T00:00:00+01:00",
		"until:2026-10-24":                  "2026-10-25T00:00:00+02:00",
		"until:2026-10-25":                  "2026-10-26T00:00:00+01:00", // a day of 25 hours
		"since:2026-11-25T10:00":            "2026-11-25T10:00:00+01:00",
		"since:2026-11-25T10:00:05Z":        "2026-11-25T11:00:05+01:00",
		"since:2026-11-25T10:00-08:00":      "2026-11-25T19:00:00+01:00",
		"since:2026-11-25T10:00:05.5+01:00": "2026-11-25T10:00:05.5+01:00",
	} {
		f := mustParse(t, text)
		at := f.Since()
		if at.IsZero() {
			at = f.Until()
		}
		if got := at.Format(time.RFC3339Nano); got != want {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
	}
}

func TestRefusals(t *testing.T) {
	for text, want := range map[string]string{
		"actor:ci since:tomorrow":           `column 10: since: takes a time such as`,
		"action:":                           "column 8: a value is missing",
		"action:read -":                     "column 14: a value is missing",
		`secret:""`:                         "column 1: secret: is empty",
		`ä "b`:                              "column 3: the quote has no end",
		`"a\n"`:                             `column 3: after "\" comes another or a quote`,
		"secret:a*b":                        `column 9: "*" stands at the end only`,
		"since:-2h*":                        `column 1: since: takes no "*"`,
		"secert:a":                          `column 1: no key "secert": secret, actor,`,
		"outcome:refused":                   `no outcome "refused": ok, denied, failed`,
		"ip:10.0.0":                         "ip: takes an address or a network",
		"ip:10.0.0.0/33":                    "ip: takes an address or a network",
		"ip:fe80::1%eth0":                   "ip: takes an address or a network",
		"ip:::ffff:10.0.0.0/104":            "ip: takes a network of IPv4 without",
		"request:1":                         "request: takes a request id",
		"version:0":                         "version: takes a number from 1 on",
		"version:99999999999":               "version: takes a number from 1 on",
		"-since:-2h":                        "column 1: since: cannot be negated",
		"since:-2h since:-3h":               "column 11: since: is given twice",
		"until:-2h since:-1h prod/":         "column 11: since: is not before until:",
		"since:-99999d":                     "lies outside the years",
		"since:2h":                          "since: takes a time",
		"since:25:00":                       "since: takes a time",
		"since:2026-02-30":                  "since: takes a time",
		"a\x00":                             "column 2: a control character",
		"\"a\x1b[31m\"":                     "column 3: a control character",
		"aé\xff":                            "column 3: not valid UTF-8",
		"action:" + strings.Repeat("a", 65): "action: is longer than 64 bytes",
		strings.Repeat("a ", 2049):          "longer than 4096 bytes",
	} {
		_, err := filter.Parse(text, clock(t))
		var refused *filter.Error
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
	many := ""
	for i := range 65 {
		many += " version:" + strings.Repeat("1", i%9+1) + string(rune('0'+i/9))
	}
	if _, err := filter.Parse(many, clock(t)); err == nil || !strings.Contains(err.Error(), "more than 64 terms") {
		t.Errorf("65 terms: got %v", err)
	}
}

func TestEdits(t *testing.T) {
	f := mustParse(t, "action:read since:-2h -actor:ci")
	f = f.Without(filter.Since, filter.Action).With(filter.Term{Key: filter.Secret, Text: "a b"})
	if got, want := f.String(), `-actor:ci secret:"a b"`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	any, none := f.Of(filter.Actor)
	if len(any) != 0 || len(none) != 1 {
		t.Errorf("got %d and %d terms of the actor, want 0 and 1", len(any), len(none))
	}
	const all = "ci token:ci app:ci worker:ci client:ci owner:ci role:ci"
	if got, want := strings.Join(none[0].Actors(), " "), all; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := mustParse(t, "actor:token:ci").Terms[0].Actors(); len(got) != 1 {
		t.Errorf("got %q, want only what was written", got)
	}
}

func TestComplete(t *testing.T) {
	for text, want := range map[string]struct {
		keep, typed, words string
		asks               bool
	}{
		"": {"", "", "secret: actor: action: outcome: since: until: ip: node: request: version:",
			false},
		"action:read -a":         {"action:read -", "a", "actor: action:", false},
		"action:token":           {"action:", "token", "token.create token.revoke", false},
		"prod/ outcome:D":        {"prod/ outcome:", "D", "denied", false},
		"until:-2":               {"until:", "-2", "-2h -24h", false},
		"-secret:prod/":          {"-secret:", "prod/", "", true},
		"action:read prod/":      {"action:read ", "prod/", "", true},
		"nothing:x":              {"", "nothing:x", "", false},
		"action:read  actor:tok": {"action:read  actor:", "tok", "", true},
	} {
		c := filter.Complete(text)
		if c.Keep != want.keep || c.Typed != want.typed || strings.Join(c.Words, " ") != want.words || c.Asks() != want.asks {
			t.Errorf("%q: got %+v, want %+v", text, c, want)
		}
	}
	if got := filter.Complete("actor:").Of([]string{"role:my role"}); got[0] != `"role:my role"` {
		t.Errorf("got %s, want it quoted", got)
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{"", "prod/* -action:read", `actor:"a \"b\" \\ *"* since:-2h until:now`,
		"ip:::1/64 version:3 outcome:ok", "since:2026-11-25T10:00Z", "!node:\u00a0x",
		"request:5e1c6f0a-0000-4000-8000-000000000000", "since:monday", "\"", "-", "*", "a:*:"} {
		f.Add(text)
	}
	now := clock(f)
	f.Fuzz(func(t *testing.T, text string) {
		filter.Complete(text)
		parsed, err := filter.Parse(text, now)
		if err != nil {
			var refused *filter.Error
			if !errors.As(err, &refused) || refused.Column < 0 || refused.Column > len([]rune(text)) {
				t.Fatalf("%q: got %#v, want an error with a column of the text", text, err)
			}
			return
		}
		again, err := filter.Parse(parsed.String(), now)
		if len(parsed.String()) > 4096 { // quoting made it longer
			return
		}
		if err != nil || again.String() != parsed.String() || len(again.Terms) != len(parsed.Terms) {
			t.Fatalf("%q: %q reads back as %q, %v", text, parsed, again, err)
		}
		for i := range parsed.Terms {
			if again.Terms[i] != parsed.Terms[i] {
				t.Fatalf("%q: term %d: got %+v, want %+v", text, i, again.Terms[i], parsed.Terms[i])
			}
		}
	})
}

// TestCapitalUnits: M is months elsewhere; -1M would show a minute of what was asked for.
func TestCapitalUnits(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	for _, text := range []string{"-1M", "-2H", "-7D", "-1W", "-1h30M", "-1H30m"} {
		for _, key := range []string{"since", "until"} {
			if _, err := filter.Parse(key+":"+text, now); err == nil || !strings.Contains(err.Error(), "small letters") {
				t.Errorf("%s:%s: got %v, want it refused", key, text, err)
			}
		}
		if _, err := filter.Moment(text, now); err == nil {
			t.Errorf("%s is a moment, want it refused", text)
		}
	}
	for _, text := range []string{"-1m", "Today", "YESTERDAY", "Monday", "2026-11-25T10:00Z"} {
		if _, err := filter.Moment(text, now); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}
