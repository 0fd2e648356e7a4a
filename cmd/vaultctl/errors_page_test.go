package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// aboutHints has what docs/ERRORS.md says of hints whose message and advice are both made elsewhere, by the function
// that calls hint.
var aboutHints = map[string]string{
	"migrateHint":   "ALTER EXTENSION hyperion_vault UPDATE",
	"compareSchema": "ALTER EXTENSION hyperion_vault UPDATE",
	"statusProblem": "rounds: ...",
}

// verbs are what a message has in place of names and numbers.
var verbs = regexp.MustCompile(`(%[0-9]*[a-z])+`)

// TestTheErrorsPageHasEveryHint finds every message with a hint, and every hint of the table of exit codes, in
// docs/ERRORS.md.
func TestTheErrorsPageHasEveryHint(t *testing.T) {
	page, err := os.ReadFile("../../docs/ERRORS.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := func(text string) string { return strings.TrimSpace(verbs.ReplaceAllString(text, "...")) }
	says := func(text string) bool { return strings.Trim(shown(text), ". :") != "" }
	has := func(text string) bool { return says(text) && strings.Contains(string(page), shown(text)) }
	hasEither := func(name, message, advice string) bool {
		if !says(message) && !says(advice) {
			return has(aboutHints[name])
		}
		return has(message) || has(advice)
	}
	for _, e := range exitCodes {
		if e.hint != "" && !has(e.hint) {
			t.Errorf("no row for the hint %q", e.hint)
		}
	}
	found := 0
	for _, file := range sources(t, ".") {
		for _, declaration := range file.Decls {
			f, ok := declaration.(*ast.FuncDecl)
			if !ok {
				continue
			}
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.CallExpr:
					id, ok := n.Fun.(*ast.Ident)
					if !ok || id.Name != "hint" && (id.Name != "add" || f.Name.Name != "statusProblem") {
						return true
					}
					found++
					message, advice := texts(n.Args[0]), texts(n.Args[1:]...)
					if !hasEither(f.Name.Name, message, advice) {
						t.Errorf("%s: no row for the message %q or its hint %q", f.Name.Name, message, advice)
					}
				case *ast.AssignStmt:
					if id, ok := n.Lhs[0].(*ast.Ident); ok && id.Name == "help" && f.Name.Name == "verdict" {
						if text := texts(n.Rhs...); text != "" && !has(text) {
							t.Errorf("%s: no row for the hint %q", f.Name.Name, text)
						}
					}
				}
				return true
			})
		}
	}
	if found < 80 {
		t.Errorf("only %d hints were found", found)
	}
	ofDaemon := 0
	for _, file := range sources(t, "../vaultd") {
		ast.Inspect(file, func(n ast.Node) bool {
			if literal, ok := n.(*ast.BasicLit); ok && literal.Kind == token.STRING {
				_, advice, ok := strings.Cut(texts(literal), "hint: ")
				if ok {
					ofDaemon++
				}
				if ok && !has(advice) {
					t.Errorf("vaultd: no row for the hint %q", advice)
				}
			}
			return true
		})
	}
	if ofDaemon < 6 {
		t.Errorf("only %d hints of vaultd were found", ofDaemon)
	}
}

func sources(t *testing.T, dir string) []*ast.File {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	return files
}

// constants are the messages and hints that have a name.
var constants = map[string]string{
	"signingKeys": signingKeys, "valueSources": valueSources, "absentRoles": absentRoles,
}

// texts is the longest text in expressions; of a constant by name, its value.
func texts(all ...ast.Expr) string {
	longest := ""
	for _, e := range all {
		ast.Inspect(e, func(n ast.Node) bool {
			text := ""
			switch n := n.(type) {
			case *ast.BasicLit:
				if n.Kind == token.STRING {
					text, _ = strconv.Unquote(n.Value)
				}
			case *ast.Ident:
				text = constants[n.Name]
			}
			if len(text) > len(longest) {
				longest = text
			}
			return true
		})
	}
	return longest
}
