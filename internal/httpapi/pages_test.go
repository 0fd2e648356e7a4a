package httpapi

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestEveryCodeIsOnThePages finds the codes of errors in this package's source, and each of them in the documents.
func TestEveryCodeIsOnThePages(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	codes := map[string]bool{}
	literal := regexp.MustCompile(`\bcode: "(\w+)"|outcome\{\d{3}, "(\w+)"`)
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range literal.FindAllStringSubmatch(string(text), -1) {
			codes[m[1]+m[2]] = true
		}
	}
	if len(codes) < 15 {
		t.Errorf("got %d codes, want all of the package doc's", len(codes))
	}
	for page, form := range map[string]string{"ERRORS.md": "\n| `CODE` |", "HTTP.md": "`CODE`", "openapi.yaml": "CODE"} {
		text, err := os.ReadFile(filepath.Join("../../docs", page))
		if err != nil {
			t.Fatal(err)
		}
		for code := range codes {
			if !strings.Contains(string(text), strings.ReplaceAll(form, "CODE", code)) {
				t.Errorf("docs/%s lacks %s", page, code)
			}
		}
	}
}

// TestEveryParameterIsOnThePages finds the query parameters of endpoints in this package's source, and each of them in
// the documents.
func TestEveryParameterIsOnThePages(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	known, quoted := regexp.MustCompile(`\bquery: +\[\]string\{([^}]*)\}`), regexp.MustCompile(`"(\w+)"`)
	parameters := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, list := range known.FindAllStringSubmatch(string(text), -1) {
			for _, m := range quoted.FindAllStringSubmatch(list[1], -1) {
				parameters[m[1]] = true
			}
		}
	}
	if len(parameters) < 6 {
		t.Errorf("got the parameters %v, want all of the endpoints", parameters)
	}
	for page, form := range map[string]string{"HTTP.md": "`?NAME=", "openapi.yaml": "name: NAME"} {
		text, err := os.ReadFile(filepath.Join("../../docs", page))
		if err != nil {
			t.Fatal(err)
		}
		for name := range parameters {
			if !strings.Contains(string(text), strings.ReplaceAll(form, "NAME", name)) {
				t.Errorf("docs/%s lacks the query parameter %s", page, name)
			}
		}
	}
}
