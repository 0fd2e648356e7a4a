package main

import (
	"io"
	"strings"
	"testing"
)

func TestCheckRefusesWhatBreaksARule(t *testing.T) {
	long := strings.Repeat("x", maxColumns+1)
	for name, f := range map[string]file{
		"comment in Go":     {"a.go", goSource, "package a\n\n// Whoever reads this waits.\n"},
		"block comment":     {"a.go", goSource, "package a\n\n/*\nnobody\n*/\n"},
		"comment in a test": {"a_test.go", goTest, "package a // somebody\n"},
		"comment in SQL":    {"a.sql", sqlSource, "SELECT 1; -- for anybody\n"},
		"script":            {"a.txtar", script, "# Everybody reads.\n"},
		"document":          {"a.md", document, "Whatever is read.\n"},
		"long Go":           {"a.go", goSource, "package a\n\nvar " + long + " = 1\n"},
		"long SQL":          {"a.sql", sqlSource, "SELECT " + long + ";\n"},
	} {
		var out strings.Builder
		if err := check([]file{f}, &out); err == nil || !strings.HasPrefix(out.String(), f.name+":") {
			t.Errorf("%s: got error %v and %q, want an error and the place", name, err, out.String())
		}
	}
}

func TestCheckLetsPass(t *testing.T) {
	long := strings.Repeat("x", maxColumns+1)
	for name, f := range map[string]file{
		"a name in Go":        {"a.go", goSource, "package a\n\nvar nobody = `somebody`\n"},
		"a database role":     {"a.go", goSource, "package a\n\n// The server runs as \"nobody\".\n"},
		"code in a document":  {"a.md", document, "    whoever\n\n```\nnobody\n```\nThe user is `nobody`.\n"},
		"a script's command":  {"a.txtar", script, "exec vaultctl get nobody\n"},
		"a released file":     {"sql/migrations/00001_tables.sql", sqlSource, "SELECT " + long + "; -- nobody\n"},
		"a long document":     {"a.md", document, long + "\n"},
		"exactly the columns": {"a.sql", sqlSource, long[1:] + "\n"},
	} {
		if err := check([]file{f}, io.Discard); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A few such words in a large tree are below the limit.
func TestVagueWordsAreCountedPerThousand(t *testing.T) {
	text := "Nobody reads this. " + strings.Repeat("word ", 5000)
	if err := check([]file{{"a.md", document, text}}, io.Discard); err != nil {
		t.Error(err)
	}
}
