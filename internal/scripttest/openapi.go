package scripttest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// surface is docs/openapi.yaml. Every answer of a daemon to a script is checked against it.
type surface struct {
	doc       map[string]any
	templates []template // the most specific first

	mu       sync.Mutex
	compiler *jsonschema.Compiler
	answered map[string]bool // METHOD PATH of operations that were answered as documented, by a success
	wrong    []string        // answers that do not fit
}

type template struct {
	path    string
	pattern *regexp.Regexp
}

const surfaceURL = "file:///openapi.yaml"

func loadSurface(file string) (*surface, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var doc any
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	asJSON, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if doc, err = jsonschema.UnmarshalJSON(bytes.NewReader(asJSON)); err != nil {
		return nil, err
	}
	s := &surface{compiler: jsonschema.NewCompiler(), answered: map[string]bool{}}
	s.compiler.AssertFormat()
	if err := s.compiler.AddResource(surfaceURL, doc); err != nil {
		return nil, err
	}
	s.doc, _ = doc.(map[string]any)
	for path := range s.paths() {
		pattern := regexp.QuoteMeta(path)
		for _, parameter := range []struct{ name, is string }{{"mount", `.+?`}, {"name", `.*`}} {
			pattern = strings.ReplaceAll(pattern, regexp.QuoteMeta("{"+parameter.name+"}"), parameter.is)
		}
		s.templates = append(s.templates, template{path, regexp.MustCompile("^" + pattern + "$")})
	}
	// Names of secrets can look like any other path. Then fixed paths before those with a parameter, and of these the
	// longer, as /verify at the end is.
	native := func(t template) int {
		if strings.HasPrefix(t.path, "/v1/secrets") {
			return 0
		}
		return 1
	}
	slices.SortFunc(s.templates, func(a, b template) int {
		if first := native(a) - native(b); first != 0 {
			return first
		}
		if fixed := strings.Count(a.path, "{") - strings.Count(b.path, "{"); fixed != 0 {
			return fixed
		}
		return len(b.path) - len(a.path)
	})
	return s, nil
}

func (s *surface) paths() map[string]any { return child(s.doc, "paths") }

func child(of map[string]any, key string) map[string]any {
	m, _ := of[key].(map[string]any)
	return m
}

// operations lists METHOD PATH of all of them.
func (s *surface) operations() map[string]map[string]any {
	all := map[string]map[string]any{}
	for path := range s.paths() {
		for method := range child(s.paths(), path) {
			if slices.Contains([]string{"get", "put", "post", "delete"}, method) {
				all[strings.ToUpper(method)+" "+path] = child(child(s.paths(), path), method)
			}
		}
	}
	return all
}

// find returns the operation of a request, "" if there is none. HEAD and LIST are GET.
func (s *surface) find(method, path string) string {
	if method == http.MethodHead || method == "LIST" {
		method = http.MethodGet
	}
	for _, t := range s.templates {
		if t.pattern.MatchString(path) && child(child(s.paths(), t.path), strings.ToLower(method)) != nil {
			return method + " " + t.path
		}
	}
	return ""
}

// check judges one answer, and remembers what does not fit.
func (s *surface) check(r *http.Request, response *http.Response, body []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.judge(r.Method, r.URL.Path, response, body); err != nil {
		s.wrong = append(s.wrong, fmt.Sprintf("%s %s: %d: %v", r.Method, r.URL.Path, response.StatusCode, err))
	}
}

func (s *surface) judge(method, path string, response *http.Response, body []byte) error {
	operation := s.find(method, path)
	status := strconv.Itoa(response.StatusCode)
	if operation == "" {
		return s.judgeUnknown(status, body)
	}
	verb, route, _ := strings.Cut(operation, " ")
	documented, where := s.resolve(child(child(s.operations()[operation], "responses"), status),
		"/paths/"+pointer(route)+"/"+strings.ToLower(verb)+"/responses/"+status)
	if documented == nil {
		return fmt.Errorf("%s has no such status", operation)
	}
	if err := s.judgeHeaders(child(documented, "headers"), where+"/headers", response); err != nil {
		return err
	}
	if method != http.MethodHead && response.StatusCode != http.StatusNotModified {
		if err := s.judgeBody(child(documented, "content"), where+"/content", response.Header.Get("Content-Type"),
			body); err != nil {
			return err
		}
	}
	if response.StatusCode < 300 || !hasSuccess(s.operations()[operation]) {
		s.answered[operation] = true
	}
	return nil
}

func hasSuccess(operation map[string]any) bool {
	return slices.ContainsFunc(slices.Collect(maps.Keys(child(operation, "responses"))),
		func(status string) bool { return status < "300" })
}

// judgeUnknown is for a path, or a method of a path, that the description does not have.
func (s *surface) judgeUnknown(status string, body []byte) error {
	if !slices.Contains([]string{"400", "403", "405", "429"}, status) {
		return errors.New("an unknown route with this status")
	}
	instance, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("the body is no JSON: %w", err)
	}
	native := s.validate("/components/schemas/Error", instance)
	if native == nil || s.validate("/components/schemas/KVError", instance) == nil {
		return nil
	}
	return native
}

func (s *surface) judgeHeaders(documented map[string]any, where string, response *http.Response) error {
	for name := range response.Header {
		switch name {
		case "Date", "Content-Type", "Content-Length", "Transfer-Encoding":
			continue // HTTP's own
		}
		if !hasHeader(documented, name) {
			return fmt.Errorf("header %s is not documented", name)
		}
	}
	for name := range documented {
		header, at := s.resolve(child(documented, name), where+"/"+pointer(name))
		values := response.Header.Values(name)
		if required, _ := header["required"].(bool); len(values) == 0 && required {
			return fmt.Errorf("there is no header %s", name)
		}
		for _, value := range values {
			if err := s.validate(at+"/schema", value); err != nil {
				return fmt.Errorf("header %s: %w", name, err)
			}
		}
	}
	return nil
}

// hasHeader reports whether a header is documented, in whichever case.
func hasHeader(documented map[string]any, name string) bool {
	for d := range documented {
		if http.CanonicalHeaderKey(d) == name {
			return true
		}
	}
	return false
}

func (s *surface) judgeBody(content map[string]any, where, contentType string, body []byte) error {
	kind, _, err := mime.ParseMediaType(contentType)
	if err != nil || content[kind] == nil {
		return fmt.Errorf("content type %q is not documented", contentType)
	}
	if kind != "application/json" {
		return nil
	}
	instance, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("the body is no JSON: %w", err)
	}
	return s.validate(where+"/"+pointer(kind)+"/schema", instance)
}

// validate names what does not fit, and shows no part of the instance, which can hold a value.
func (s *surface) validate(where string, instance any) error {
	schema, err := s.compiler.Compile(surfaceURL + "#" + where)
	if err != nil {
		return err
	}
	if err := schema.Validate(instance); err != nil {
		var basic *jsonschema.ValidationError
		if !errors.As(err, &basic) {
			return err
		}
		for len(basic.Causes) > 0 {
			basic = basic.Causes[0]
		}
		return fmt.Errorf("at /%s: not as %s says (%s)", strings.Join(basic.InstanceLocation, "/"), basic.SchemaURL,
			strings.Join(basic.ErrorKind.KeywordPath(), "/"))
	}
	return nil
}

// resolve follows a $ref within the description.
func (s *surface) resolve(of map[string]any, where string) (map[string]any, string) {
	for {
		ref, ok := of["$ref"].(string)
		if !ok {
			return of, where
		}
		where = strings.TrimPrefix(ref, "#")
		of = s.doc
		for part := range strings.SplitSeq(strings.TrimPrefix(where, "/"), "/") {
			of = child(of, strings.NewReplacer("~1", "/", "~0", "~").Replace(part))
		}
	}
}

func pointer(key string) string {
	key = strings.NewReplacer("~", "~0", "/", "~1").Replace(key)
	return strings.NewReplacer("{", "%7B", "}", "%7D").Replace(key)
}

// problems are the answers that did not fit and, once every script has run, the operations that none had a good answer
// from.
func (s *surface) problems(every bool) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	problems := slices.Clone(s.wrong)
	if every {
		for _, operation := range slices.Sorted(maps.Keys(s.operations())) {
			if !s.answered[operation] {
				problems = append(problems, "no script has a good answer from "+operation)
			}
		}
	}
	return problems
}
