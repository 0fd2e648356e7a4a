package kms

import (
	"errors"
	"strings"
	"testing"
)

const (
	testUUID = "1234abcd-12ab-34cd-56ef-1234567890ab"
	testARN  = "arn:aws:kms:eu-west-1:111122223333:key/" + testUUID
)

func TestParseURI(t *testing.T) {
	const key, at = "awskms:///alias/vault", "awskms:///alias/vault?endpoint="
	for in, want := range map[string]string{ // "" for: it is canonical already
		"awskms:///alias/vault":                                        "",
		"awskms:///alias/vault?region=eu-west-1":                       "",
		"awskms:///alias/team/vault_2-a":                               "",
		"awskms:///" + testUUID:                                        "",
		"awskms:///mrk-" + strings.Repeat("0a", 16):                    "",
		"awskms:///" + testARN:                                         "",
		"awskms:///" + testARN + "?region=eu-west-1":                   "",
		"awskms:///arn:aws-cn:kms:cn-north-1:111122223333:alias/vault": "",
		"awskms:///alias/vault?":                                       "awskms:///alias/vault",
		"awskms:///alias%2Fvault":                                      "awskms:///alias/vault",

		at + "http%3A%2F%2F127.0.0.1%3A1234&region=eu-west-1": key + "?region=eu-west-1&endpoint=http://127.0.0.1:1234",
		at + "http://[::1]:80/":                               at + "http://[::1]:80",
		at + "http://localhost":                               "",
		at + "https://KMS.example.org":                        at + "https://kms.example.org",
		at + "https://10.0.0.1:443":                           "",
		at + "https://[2001:DB8::1]":                          at + "https://[2001:db8::1]",

		"local:///etc/vault/kek":   "",
		"local:///k":               "",
		"local:///etc/my%20kek":    "",
		"local:///etc/my kek":      "local:///etc/my%20kek",
		"local:///etc/50%25%3F%23": "",
		"local:///etc/schlüssel":   "local:///etc/schl%C3%BCssel",
	} {
		t.Run(in, func(t *testing.T) {
			if want == "" {
				want = in
			}
			u, err := ParseURI(in)
			if err != nil {
				t.Fatal(err)
			}
			if u.String() != want {
				t.Errorf("got %q, want %q", u, want)
			}
			if again, err := ParseURI(u.String()); err != nil || again != u {
				t.Errorf("the canonical form parses to %+v, %v", again, err)
			}
			if got, want := u.HasEndpoint(), strings.Contains(in, "endpoint="); got != want || HasEndpoint(in) != want {
				t.Errorf("HasEndpoint: got %v, want %v", got, want)
			}
		})
	}
}

func TestParseURIRefuses(t *testing.T) {
	for in, reason := range map[string]string{
		"":                                            "scheme",
		"/etc/vault/kek":                              "scheme",
		"file:///etc/vault/kek":                       "scheme",
		"AWSKMS:///alias/vault":                       "scheme",
		"vault":                                       "scheme",
		"local:/etc/vault/kek":                        "three slashes",
		"local:kek":                                   "three slashes",
		"local://etc/vault/kek":                       "host part",
		"awskms://eu-west-1/alias/a":                  "host part",
		"local:///":                                   "absolute",
		"local:////etc/kek":                           "absolute",
		"local:///etc/kek/":                           "absolute",
		"local:///etc/../kek":                         "absolute",
		"local:///etc/%2e%2e/kek":                     "absolute",
		"local:///./kek":                              "absolute",
		"local:///etc/kek?region=a":                   "no query",
		"local:///etc/kek#x":                          "fragment",
		"local:///etc/k\nek":                          "control",
		"local:///etc/k%00ek":                         "control",
		"local:///etc/k%7Fek":                         "control",
		"local:///etc/k%0Aek":                         "control",
		"local:///etc/k%FFek":                         "control",
		"local:///etc/k%E2%80%AEek":                   "control",
		"local:///etc/k%E2%80%A8ek":                   "control",
		"local:///etc/%zz":                            "percent",
		"local:///" + strings.Repeat("a", maxURI):     "longer",
		"awskms:///":                                  "not an alias",
		"awskms:///vault":                             "not an alias",
		"awskms:///alias/":                            "not an alias",
		"awskms:///alias/a b":                         "not an alias",
		"awskms:///alias/" + strings.Repeat("a", 251): "not an alias",
		"awskms:///" + strings.ToUpper(testUUID):      "not an alias",
		"awskms:///arn:aws:s3:eu-west-1:111122223333:key/" + testUUID: "not an alias",
		"awskms:///arn:aws:kms:EU:111122223333:key/" + testUUID:       "not an alias",
		"awskms:///arn:aws:kms:eu-west-1:111122223333:key/vault":      "not an alias",
		"awskms:///arn:aws:kms:eu-west-1:111122223333:" + testUUID:    "not an alias",
		"awskms:///arn:aws:kms:eu-west-1:1111:key/" + testUUID:        "not an alias",
		"awskms:///" + testARN + "?region=us-east-1":                  "differs",
		"awskms:///alias/vault?Region=eu-west-1":                      "unknown query",
		"awskms:///alias/vault?region=eu-west-1&profile=x":            "unknown query",
		"awskms:///alias/vault?region=eu-west-1&region=eu-west-1":     "repeated",
		"awskms:///alias/vault?region=eu-west-1;endpoint=x":           "bad query",
		"awskms:///alias/vault?region=":                               "region",
		"awskms:///alias/vault?region=eu.example.org/":                "region",
		"awskms:///alias/vault?region=-eu":                            "region",
		"awskms:///alias/vault?endpoint=":                             "endpoint is not",
		"awskms:///alias/vault?endpoint=127.0.0.1:80":                 "endpoint is not",
		"awskms:///alias/vault?endpoint=http://127.0.0.1/path":        "endpoint is not",
		"awskms:///alias/vault?endpoint=http://127.0.0.1%3Fx":         "endpoint is not",
		"awskms:///alias/vault?endpoint=http://user:pw@127.0.0.1":     "endpoint is not",
		"awskms:///alias/vault?endpoint=http:127.0.0.1":               "endpoint is not",
		"awskms:///alias/vault?endpoint=ftp://127.0.0.1":              "neither http",
		"awskms:///alias/vault?endpoint=http://kms.example.org":       "plain http",
		"awskms:///alias/vault?endpoint=http://10.0.0.1":              "plain http",
		"awskms:///alias/vault?endpoint=http://127.0.0.1.example.org": "plain http",
		"awskms:///alias/vault?endpoint=http://127.0.0.1:0":           "bad port",
		"awskms:///alias/vault?endpoint=http://127.0.0.1:65536":       "bad port",
		"awskms:///alias/vault?endpoint=https://a_b":                  "bad host",
		"awskms:///alias/vault?endpoint=https://-a":                   "bad host",
		"awskms:///alias/vault?endpoint=http://[::1%2525lo]":          "bad IPv6",
	} {
		t.Run(in, func(t *testing.T) {
			u, err := ParseURI(in)
			if !errors.Is(err, ErrURI) {
				t.Fatalf("got %+v, %v, want %v", u, err, ErrURI)
			}
			text := err.Error()
			if !strings.Contains(text, reason) || !strings.Contains(text, "local:///PATH") ||
				strings.ContainsAny(text, "\r\n\x00") {
				t.Errorf("got %q, want one line with %q and the accepted forms", text, reason)
			}
			if strings.Contains(text, "pw") {
				t.Errorf("the error repeats a password: %q", text)
			}
			if !HasEndpoint(in) {
				t.Error("HasEndpoint trusts what does not parse")
			}
		})
	}
}

func TestZeroURI(t *testing.T) {
	if s := (URI{}).String(); s != "" {
		t.Errorf("got %q", s)
	}
}

func FuzzParseURI(f *testing.F) {
	for _, s := range []string{
		"awskms:///alias/vault?region=eu-west-1&endpoint=http://127.0.0.1:1234",
		"awskms:///" + testARN, "awskms:///" + testUUID, "local:///etc/vault/kek", "local:///a%20b%23",
		"awskms:///alias/vault?endpoint=https://[::1]:443", "local://host/path", "local:///a/../b", "awskms:///alias/a?b=c#d",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseURI(s)
		if err != nil {
			if !errors.Is(err, ErrURI) || u != (URI{}) || strings.ContainsAny(err.Error(), "\r\n\x00\x1b") {
				t.Errorf("got %+v, %q", u, err)
			}
			return
		}
		again, err := ParseURI(u.String())
		if err != nil || again != u || again.String() != u.String() {
			t.Errorf("%q: canonical %q parses to %+v, %v", s, u, again, err)
		}
		if strings.ContainsAny(u.String(), "\r\n\x00\x1b #@") {
			t.Errorf("canonical form %q", u)
		}
		if u.scheme == schemeLocal && (!strings.HasPrefix(u.name, "/") || strings.Contains(u.name+"/", "/../")) {
			t.Errorf("path %q", u.name)
		}
	})
}
