package target

import (
	"strings"
	"testing"

	"github.com/hyperiondb/vault/internal/rotation"
)

func TestSpecsAreReadAndWrittenInOneForm(t *testing.T) {
	for text, want := range map[string]string{
		"postgres-role role=app via=prod/db/admin":                                "",
		"  postgres-role\tvia=prod/db/admin\n role=app ":                          "postgres-role role=app via=prod/db/admin",
		"postgres-role roles=app_a,app_b via=a":                                   "",
		"postgres-role role=app via=a login=postgres://db.example/app timeout=3s": "",
		"postgres-role role=app timeout=10s via=a":                                "postgres-role role=app via=a",
		`postgres-role role=My"Role via=a`:                                        "",
		"postgres-role role=ben=utzer via=a":                                      "",
		"postgres-role role=bénutzer via=a":                                       "",
		"postgres-role role=app@corp via=a":                                       "",
		"webhook url=https://hooks.example.com/rotate?x=1 key=prod/hooks/hmac":    "",
		"webhook key=k url=http://127.0.0.1:8080/":                                "webhook url=http://127.0.0.1:8080/ key=k",
		"webhook url=http://[::1]:8080 key=k":                                     "",
		"exec program=reload-billing timeout=25s":                                 "",
		"exec adopt=yes program=reload-billing timeout=25s": "exec program=reload-billing " +
			"adopt=yes timeout=25s",
		"webhook adopt=yes url=https://h key=k": "webhook url=https://h key=k adopt=yes",
		"postgres-role role=app adopt=yes via=a login=postgres://h/d": "postgres-role role=app via=a " +
			"login=postgres://h/d adopt=yes",
		"exec program=reload-billing timeout=2500ms": "exec program=reload-billing timeout=2.5s",
	} {
		spec, err := Parse(text)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		if want == "" {
			want = text
		}
		if got := spec.String(); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestBadSpecsAreRefused(t *testing.T) {
	long := strings.Repeat("x", 64)
	for text, says := range map[string]string{
		"":                                      "accepted kinds: postgres-role, webhook, exec",
		" ":                                     "accepted kinds",
		"postgres":                              "unknown kind",
		"role=app via=a":                        "unknown kind",
		"postgres-role":                         "either role= or roles=",
		"postgres-role role=a roles=b,c via=a":  "either role= or roles=",
		"postgres-role role=app":                "via= is missing",
		"postgres-role role=app via=":           "via= is empty",
		"postgres-role role= via=a":             "role= is empty",
		"postgres-role role=app role=app via=a": "role= is given twice",
		"postgres-role role=app via=a colour=x": `unknown key "colour"`,
		"postgres-role app via=a":               `"app" is no key=value`,
		"postgres-role role=app via=a url=b":    `unknown key "url"`,
		"postgres-role role=a,b via=a":          "roles=A,B",
		"postgres-role roles=a via=a":           "two different names",
		"postgres-role roles=a,a via=a":         "two different names",
		"postgres-role roles=a,b,c via=a":       "too many names",
		"postgres-role roles=,b via=a":          "lacks a name",
		"postgres-role roles=a, via=a":          "lacks a name",
		"postgres-role role=" + long + " via=a": "longer than 63",
		"postgres-role role=a\x07b via=a":       "cannot be printed",
		"postgres-role role=a\u202eb via=a":     "cannot be printed",
		"postgres-role role=\xff via=a":         "not UTF-8",
		"postgres-role role=app via=../a":       "via=: ",
		"postgres-role role=app via=a:b":        "via=: ",
		"postgres-role role=app via=a login=db": "login= is not of the form",
		"postgres-role role=app via=a login=postgres://db.example/app?options=-cx": "login= is not of the form",
		"postgres-role role=app via=a login=postgres://db.example":                 "login= is not of the form",
		"postgres-role role=app via=a login=postgres://db:0/app":                   "login= is not of the form",
		"postgres-role role=app via=a login=postgres://app:hunter2@db.example/app": "no user and no password",
		"postgres-role role=app via=a pass@word=hunter2":                           "unknown key a word",
		"postgres-role role=app via=a timeout=0":                                   "not from 1s to 25s",
		"postgres-role role=app via=a timeout=26s":                                 "not from 1s to 25s",
		"postgres-role role=app via=a timeout=5":                                   "timeout=: ",
		"webhook url=https://h/":                                                   "key= is missing",
		"webhook key=a":                                                            "url= is missing",
		"webhook key=a url=http://hooks.example.com/":                              "use https",
		"webhook key=a url=http://127.0.0.1.example.com/":                          "use https",
		"webhook key=a url=http://10.0.0.1/":                                       "use https",
		"webhook key=a url=ftp://h/":                                               "not https",
		"webhook key=a url=https:///path":                                          "with a host",
		"webhook key=a url=https:h":                                                "with a host",
		"webhook key=a url=https://h:port/":                                        "with a host",
		"webhook key=a url=https://u:hunter2@h/":                                   "no user and no password",
		"webhook key=a url=https://h/#f":                                           "no fragment",
		"postgres-role role=app via=a adopt=no":                                    "adopt= is yes",
		"postgres-role roles=a,b via=a adopt=yes":                                  "adopt= is for role=",
		"webhook url=https://h key=k adopt=":                                       "adopt= is empty",
		"exec":                                                                     "program= is missing",
		"exec program=/bin/sh":                                                     "not a path",
		"exec program=../x":                                                        "not a path",
		"exec program=Reload":                                                      "lower-case",
		"exec program=x args=y":                                                    `unknown key "args"`,
		"exec program=" + strings.Repeat("x ", 2000):                               "longer than 2048",
	} {
		_, err := Parse(text)
		wantRefusal(t, err, says, "hunter2")
		if !strings.HasPrefix(err.Error(), "rotator") || !strings.Contains(err.Error(), "accepted") && len(text) > 0 &&
			!strings.Contains(says, "longer than 2048") && says != "not UTF-8" {
			t.Errorf("%q: got %q, want a complaint that says what is accepted", text, err)
		}
	}
}

func TestASpecSaysWhichSecretItOpens(t *testing.T) {
	for text, want := range map[string]string{
		"postgres-role role=app via=prod/db/admin": "prod/db/admin", "webhook url=https://h key=prod/hmac": "prod/hmac",
		"exec program=x": "",
	} {
		spec, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := spec.Opens(); got != want {
			t.Errorf("%q opens %q, want %q", text, got, want)
		}
	}
}

func TestASecretIsNotRotatedWithItsOwnValue(t *testing.T) {
	c := change("value-of-the-candidate")
	c.Secret = adminSecret
	for _, call := range []func() error{
		func() error {
			return newTargets(Options{}).Set(t.Context(), "postgres-role role=app via="+adminSecret, c)
		},
		func() error {
			return newTargets(Options{}).Test(t.Context(), "webhook url=https://h key="+adminSecret, c)
		},
	} {
		wantRefusal(t, call(), "its own value", string(c.Candidate))
	}
}

func TestBadSpecsReachNothing(t *testing.T) {
	targets := newTargets(Options{})
	if _, err := targets.Shape("exec", nil, []byte("x")); err == nil {
		t.Error("Shape took a bad spec")
	}
	wantRefusal(t, targets.Set(t.Context(), "exec", rotation.Change{}), "program= is missing")
	wantRefusal(t, targets.Test(t.Context(), "nonsense", rotation.Change{}), "unknown kind")
}

// The database has checked which secret a stored spec opens, in the canonical form only.
func TestOnlyTheCanonicalFormIsCarriedOut(t *testing.T) {
	for _, spec := range []string{
		"postgres-role via=" + adminSecret + " role=app", "postgres-role role=app\u2003via=" + adminSecret,
		"postgres-role role=app  via=" + adminSecret,
		"exec program=p ", "exec program=p timeout=10s",
	} {
		if _, err := Parse(spec); err != nil {
			t.Fatal(err)
		}
		wantRefusal(t, newTargets(Options{}).Set(t.Context(), spec, change("value")), "canonical")
		wantRefusal(t, newTargets(Options{}).Test(t.Context(), spec, change("value")), "canonical")
		_, err := newTargets(Options{}).Shape(spec, nil, []byte("value"))
		wantRefusal(t, err, "canonical")
	}
}

func FuzzSpecsSurviveTheirForm(f *testing.F) {
	for _, text := range []string{
		"postgres-role role=app via=prod/db/admin login=postgres://h:1,[::1]/d?sslmode=require timeout=1s",
		"postgres-role roles=a,b via=x", "webhook url=https://h/p?q key=k", "exec program=p timeout=1s500ms",
		"postgres-role via=a role=a=b", "webhook url=http://localhost key=k",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		spec, err := Parse(text)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\r\n") {
				t.Errorf("error %q has more than one line", err)
			}
			return
		}
		again, err := Parse(spec.String())
		if err != nil || again != spec {
			t.Errorf("%q: got %+v (%v) from %q, want %+v", text, again, err, spec.String(), spec)
		}
	})
}
