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
