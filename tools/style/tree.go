package main

import (
	"fmt"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path"
	"regexp"
	"strings"
	"unicode/utf8"
)

// kind of a file: it decides which part is text for people.
type kind string

const (
	goSource  kind = "Go"
	goTest    kind = "Go tests"
	sqlSource kind = "SQL"
	script    kind = "test scripts"
	document  kind = "documents"
	other     kind = "other"
)

func kindOf(name string) kind {
	switch path.Ext(name) {
	case ".go":
		if strings.HasSuffix(name, "_test.go") {
			return goTest
		}
		return goSource
	case ".sql":
		return sqlSource
	case ".txtar":
		return script
	case ".md":
		return document
	}
	return other
}

type file struct {
	name string
	kind kind
	text string
}

// readTree reads the files that git tracks and this program knows how to read.
func readTree() ([]file, error) {
	names, err := exec.Command("git", "ls-files").Output()
	if err != nil {
		return nil, fmt.Errorf("listing the files: %w", err)
	}
	var files []file
	for _, name := range strings.Fields(string(names)) {
		k := kindOf(name)
		if k == other {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		files = append(files, file{name, k, string(text)})
	}
	return files, nil
}

func countLines(files []file, k kind) int {
	n := 0
	for _, f := range files {
		if f.kind == k {
			n += strings.Count(f.text, "\n")
		}
	}
	return n
}

// longLines names the lines of Go and SQL that are too long. Released migrations never change, so they are left out.
func longLines(files []file) []string {
	var places []string
	for _, f := range files {
		if f.kind != goSource && f.kind != goTest && f.kind != sqlSource || frozen(f.name) {
			continue
		}
		for i, line := range strings.Split(f.text, "\n") {
			if utf8.RuneCountInString(line) > maxColumns {
				places = append(places, fmt.Sprintf("%s:%d", f.name, i+1))
			}
		}
	}
	return places
}

func frozen(name string) bool { return strings.HasPrefix(name, "sql/migrations/") }

var (
	word = regexp.MustCompile(`[\pL][\pL'’-]*`)
	// Words in place of an actor, which leave open who does something.
	vagueWord = regexp.MustCompile(`(?i)\b(whoever|whomever|whatever|nobody|somebody|anybody|everybody)\b`)
	// Quoted or in code, such a word is mentioned, not used.
	codeSpan = regexp.MustCompile("`[^`]*`|\"[^\"]*\"")
)

// countWords counts the words of comments and documents, and names the places of those that leave the actor open.
func countWords(files []file) (words int, vague []string) {
	for _, f := range files {
		if frozen(f.name) {
			continue
		}
		for _, p := range prose(f) {
			text := codeSpan.ReplaceAllString(p.text, "")
			words += len(word.FindAllString(text, -1))
			for _, w := range vagueWord.FindAllString(text, -1) {
				vague = append(vague, fmt.Sprintf("%s:%d: %s", f.name, p.line, w))
			}
		}
	}
	return words, vague
}

// passage is one line of text for people.
type passage struct {
	line int
	text string
}

func prose(f file) []passage {
	switch f.kind {
	case goSource, goTest:
		return goComments(f)
	case sqlSource:
		return linesWith(f.text, func(line string) (string, bool) {
			_, comment, found := strings.Cut(line, "--")
			return comment, found
		})
	case script:
		return linesWith(f.text, func(line string) (string, bool) { return strings.CutPrefix(line, "# ") })
	default:
		return outsideFences(f.text)
	}
}

func linesWith(text string, comment func(string) (string, bool)) []passage {
	var all []passage
	for i, line := range strings.Split(text, "\n") {
		if c, ok := comment(line); ok {
			all = append(all, passage{i + 1, c})
		}
	}
	return all
}

// outsideFences leaves out code: blocks in fences and indented ones.
func outsideFences(text string) []passage {
	inside := false
	return linesWith(text, func(line string) (string, bool) {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			inside = !inside
			return "", false
		}
		return line, !inside && !strings.HasPrefix(line, "    ")
	})
}

// goComments also takes what does not parse: gofmt and vet complain of that.
func goComments(f file) []passage {
	set := token.NewFileSet()
	parsed, err := parser.ParseFile(set, f.name, f.text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil || parsed == nil {
		return nil
	}
	var all []passage
	for _, group := range parsed.Comments {
		for _, c := range group.List {
			first := set.Position(c.Pos()).Line
			for i, line := range strings.Split(c.Text, "\n") {
				all = append(all, passage{first + i, line})
			}
		}
	}
	return all
}
