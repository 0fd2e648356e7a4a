package scripttest

import (
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func described(t *testing.T) *surface {
	t.Helper()
	s, err := loadSurface("../../docs/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// goodHeader is the header of an answer that fits.
func goodHeader() http.Header {
	return http.Header{"X-Request-Id": {"a"}, "Cache-Control": {"no-store"}, "X-Content-Type-Options": {"nosniff"},
		"Content-Type": {"application/json"}}
}

// TestEveryReferenceOfTheDescription compiles every schema of every answer, and finds every reference.
func TestEveryReferenceOfTheDescription(t *testing.T) {
	s := described(t)
	if s.doc["openapi"] != "3.1.0" || len(s.operations()) < 15 {
		t.Fatalf("got version %q and %d operations", s.doc["openapi"], len(s.operations()))
	}
	var walk func(of any, where string)
	walk = func(of any, where string) {
		switch of := of.(type) {
		case map[string]any:
			if found, at := s.resolve(of, where); found == nil {
				t.Errorf("%s: no %s", where, at)
			}
			for key, inner := range of {
				if key == "schema" {
					if _, err := s.compiler.Compile(surfaceURL + "#" + where + "/schema"); err != nil {
						t.Errorf("%s: %v", where, err)
					}
				}
				walk(inner, where+"/"+pointer(key))
			}
		case []any:
			for _, inner := range of {
				if m, ok := inner.(map[string]any); ok {
					if ref, ok := m["$ref"].(string); ok {
						if found, _ := s.resolve(m, ""); found == nil {
							t.Errorf("%s: no %s", where, ref)
						}
					}
				}
			}
		}
	}
	walk(s.doc, "")
}

func TestAnAnswerIsCompared(t *testing.T) {
	s := described(t)
	const good = `{"error":"not_found","message":"no such secret or version","request_id":"a"}`
	header := func(pairs ...string) http.Header {
		h := goodHeader()
		for i := 0; i < len(pairs); i += 2 {
			h.Set(pairs[i], pairs[i+1])
			if pairs[i+1] == "" {
				h.Del(pairs[i])
			}
		}
		return h
	}
	for _, c := range []struct {
		method, path string
		status       int
		header       http.Header
		body, wrong  string // "" = it fits
	}{
		{"GET", "/v1/secrets/a/b", 404, header(), good, ""},
		{"HEAD", "/v1/secrets/a/b", 404, header(), "", ""},
		{"POST", "/v1/secrets/a/b/verify", 200, header(), `{"valid":false}`, ""},
		{"POST", "/v1/secrets/a/b/verify", 200, header(), `{"valid":false,"version":1}`, "not as"},
		{"GET", "/v1/secrets/verify", 404, header(), good, ""},
		{"GET", "/nothing", 400, header(), strings.Replace(good, "not_found", "bad_request", 1), ""},
		{"GET", "/nothing", 404, header(), good, "unknown route"},
		{"PATCH", "/v1/secrets/a", 405, header(), good, ""},
		{"LIST", "/v1/secret/metadata/a/", 404, header(), `{"errors":[]}`, ""},
		{"GET", "/v1/secret/data/a", 404, header(), `{"errors":["none"]}`, "not as"},
		{"POST", "/v1/secret/destroy/a", 405, header(), `{"errors":["none"]}`, ""},
		{"GET", "/v1/secrets/metadata", 404, header(), good, ""},
		{"GET", "/v1/secrets/a", 418, header(), good, "no such status"},
		{"GET", "/v1/secrets/a", 404, header(), strings.Replace(good, "not_found", "gone", 1), "not as"},
		{"GET", "/v1/secrets/a", 404, header(), `{"error":"not_found","message":"m"}`, "not as"},
		{"GET", "/v1/secrets/a", 404, header("X-Request-Id", ""), good, "no header X-Request-Id"},
		{"GET", "/v1/secrets/a", 404, header("X-New", "1"), good, "X-New is not documented"},
		{"GET", "/v1/secrets/a", 412, header(), strings.Replace(good, "not_found", "behind", 1), "no header Retry-After"},
		{"GET", "/v1/secrets/a", 412, header("Retry-After", "soon"), strings.Replace(good, "not_found", "behind", 1),
			"Retry-After"},
		{"GET", "/v1/secrets/a", 404, header("Content-Type", "text/html"), good, "content type"},
		{"GET", "/v1/secrets/a", 404, header(), good[1:], "no JSON"},
	} {
		err := s.judge(c.method, c.path, &http.Response{StatusCode: c.status, Header: c.header}, []byte(c.body))
		if (err == nil) != (c.wrong == "") || err != nil && !strings.Contains(err.Error(), c.wrong) {
			t.Errorf("%s %s %d %s: got %v, want %q", c.method, c.path, c.status, c.body, err, c.wrong)
		}
	}
}

// TestTheHTTPPageHasTheSamePaths compares the tables of docs/HTTP.md with docs/openapi.yaml.
func TestTheHTTPPageHasTheSamePaths(t *testing.T) {
	s := described(t)
	want := map[string]string{}
	for operation, o := range s.operations() {
		want[operation] = strings.Join(slices.Sorted(maps.Keys(child(o, "responses"))), ", ")
	}
	text, err := os.ReadFile("../../docs/HTTP.md")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	rows := regexp.MustCompile("(?m)^\\| `([A-Z]+ /\\S*)` \\| ([0-9, ]+) \\|$")
	for _, row := range rows.FindAllStringSubmatch(string(text), -1) {
		got[row[1]] = row[2]
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("docs/HTTP.md (+) and docs/openapi.yaml (-) differ:\n%s", diff)
	}
}

// TestProblemsOfTheDescription reports the answer that does not fit, and operations without a good answer only after
// every script.
func TestProblemsOfTheDescription(t *testing.T) {
	s := described(t)
	for _, status := range []int{http.StatusOK, http.StatusTeapot} {
		request, err := http.NewRequest(http.MethodPost, "http://vaultd/v1/secrets/a/verify", nil)
		if err != nil {
			t.Fatal(err)
		}
		s.check(request, &http.Response{StatusCode: status, Header: goodHeader()}, []byte(`{"valid":false}`))
	}
	wrong := []string{"POST /v1/secrets/a/verify: 418: POST /v1/secrets/{name}/verify has no such status"}
	if diff := cmp.Diff(wrong, s.problems(false)); diff != "" {
		t.Errorf("after some scripts (-want +got):\n%s", diff)
	}
	for operation := range s.operations() {
		if operation != "POST /v1/secrets/{name}/verify" {
			wrong = append(wrong, "no script has a good answer from "+operation)
		}
	}
	slices.Sort(wrong[1:])
	if diff := cmp.Diff(wrong, s.problems(true)); diff != "" {
		t.Errorf("after every script (-want +got):\n%s", diff)
	}
}
