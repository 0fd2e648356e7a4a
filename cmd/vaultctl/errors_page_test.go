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

// ofOthers are messages of the system, PostgreSQL and the TOML library, whose meaning is the vault's.
var ofOthers = []string{"no such file or directory", `database "..." does not exist`,
	"incompatible types: TOML value has type ...; destination has type ..."}

// TestTheErrorsPageHasEveryReason finds in docs/ERRORS.md what JSON, spools, seals and archives are refused for, and
// what vaultd logs as an error.
func TestTheErrorsPageHasEveryReason(t *testing.T) {
	page, err := os.ReadFile("../../docs/ERRORS.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	want := func(where, text string) {
		found++
		if !strings.Contains(string(page), text) {
			t.Errorf("%s: no row for %q", where, text)
		}
	}
	for _, text := range ofOthers {
		want("others", text)
	}
	for _, dir := range []string{"strictjson", "audit/spool", "audit/seal", "audit/archive"} {
		for _, file := range sources(t, "../../internal/"+dir) {
			for _, declaration := range file.Decls {
				g, ok := declaration.(*ast.GenDecl)
				if !ok || dir == "strictjson" != (g.Tok == token.CONST) {
					continue
				}
				for _, s := range g.Specs {
					// The name of a format has no blank, and "it has no reads" stands after a place.
					if v, ok := s.(*ast.ValueSpec); ok && (g.Tok == token.CONST || v.Names[0].IsExported()) {
						if text := errorText(v); strings.Contains(text, " ") && !strings.HasPrefix(text, "it ") {
							want(dir, text)
						}
					}
				}
			}
		}
	}
	for _, dir := range []string{"../vaultd", "../../internal/audit/spool", "../../internal/rotation",
		"../../internal/rowcache", "../../internal/httpapi"} {
		for _, file := range sources(t, dir) {
			ast.Inspect(file, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok || len(call.Args) == 0 {
					return true
				}
				method, ok := call.Fun.(*ast.SelectorExpr)
				if text := texts(call.Args[0]); ok && method.Sel.Name == "Error" && text != "" {
					want(dir, text)
				}
				return true
			})
		}
	}
	if found < 25 {
		t.Errorf("only %d reasons were found", found)
	}
}

// errorText is the text of a constant, or of an error that errors.New makes.
func errorText(v *ast.ValueSpec) (text string) {
	for _, value := range v.Values {
		if call, ok := value.(*ast.CallExpr); ok {
			if f, ok := call.Fun.(*ast.SelectorExpr); !ok || f.Sel.Name != "New" {
				continue
			}
		}
		ast.Inspect(value, func(n ast.Node) bool {
			if literal, ok := n.(*ast.BasicLit); ok && literal.Kind == token.STRING {
				part, _ := strconv.Unquote(literal.Value)
				text += part
			}
			return true
		})
	}
	return text
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
