package scripttest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBlocksOfAPage(t *testing.T) {
	page := "# Title\n\ntext\n\n```sh on=db2 exit=7\none \\\n  two\n```\n\n1. item\n\n   ```console\n" +
		"   $ three\n   out\n   ```\n\n```sh not run: needs systemd\nsystemctl\n```\n"
	blocks, err := blocksOf(page)
	if err != nil {
		t.Fatal(err)
	}
	want := []block{
		{line: 5, section: "Title", language: "sh", on: "db2", exit: 7, text: "one \\\n  two\n"},
		{line: 12, section: "Title", language: "console", text: "$ three\nout\n"},
		{line: 17, section: "Title", language: "sh", notRun: "needs systemd", text: "systemctl\n"},
	}
	if diff := cmp.Diff(want, blocks, cmp.AllowUnexported(block{})); diff != "" {
		t.Error(diff)
	}
	for page, want := range map[string]string{
		"text\n\n    indented\n":       "indented block",
		"1. item\n\n       indented\n": "indented block",
		"```sh not run:\nx\n```\n":     "without a reason",
		"```sh exit=x\nx\n```\n":       "exit=CODE",
		"```sh ci=skip\nx\n```\n":      "unknown \"ci=skip\"",
		"```sh\nx\n":                   "does not end",
	} {
		if _, err := blocksOf(page); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got error %v, want %q", page, err, want)
		}
	}
}

func TestStepsOfAConsole(t *testing.T) {
	got, err := (&block{text: "$ one \\\n  more\nout\n$ two\n"}).steps()
	if err != nil {
		t.Fatal(err)
	}
	want := []step{{command: "one \\\n  more", output: []string{"out"}}, {command: "two"}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(step{})); diff != "" {
		t.Error(diff)
	}
	if _, err := (&block{text: "out\n"}).steps(); err == nil {
		t.Error("an output without a command is accepted")
	}
}

func TestOutputIsComparedLoosely(t *testing.T) {
	output := "first\nnode           primary, PostgreSQL 18.4 of db1\nlast 0/51A2 ok\nschema version  16\n"
	for _, c := range []struct {
		documented string
		fits       bool
	}{
		{"node  primary, PostgreSQL 15.18", true},
		{"node ... db1", true},
		{"last 1/FF ok", true},
		{"schema version 16", true},
		{"schema version 15", false},
		{"first\nlast", true},
		{"last\nfirst", false},
		{"node  standby", false},
		{"rimary", false},
	} {
		if line, differs := missing(strings.Split(c.documented, "\n"), output); differs == c.fits {
			t.Errorf("%q: got missing line %q, want it to fit: %v", c.documented, line, c.fits)
		}
	}
}

func TestABlockIsRunOrSaysWhyNot(t *testing.T) {
	for _, c := range []struct {
		b     block
		runs  bool
		wrong string
	}{
		{block{language: "sh", text: "vaultctl list\n"}, true, ""},
		{block{language: "sql", text: "SELECT 1\n"}, true, ""},
		{block{language: "ini", file: "postgresql.conf", text: "a = 1\n"}, true, ""},
		{block{language: "toml", text: "a = 1\n"}, false, ""},
		{block{language: "sh", notRun: "needs an AWS account", text: "aws kms create-key\n"}, false, ""},
		{block{language: "sh", notRun: "needs an AWS account", text: "vaultctl list\n"}, false, "no reason"},
		{block{language: "sh", notRun: "takes long", text: "aws kms create-key\n"}, false, "no reason"},
		{block{language: "text", text: "vaultctl: an error\n"}, false, ""},
		{block{language: "text", text: "$ vaultctl list\n"}, false, "a command"},
		{block{text: "vaultctl list\n"}, false, "a command"},
		{block{language: "bash", text: "vaultctl list\n"}, false, "neither run"},
	} {
		runs, wrong := toRun([]block{c.b})
		if (len(runs) == 1) != c.runs || (len(wrong) > 0) != (c.wrong != "") ||
			len(wrong) > 0 && !strings.Contains(wrong[0], c.wrong) {
			t.Errorf("%+v: got %d to run and %q, want %v and %q", c.b, len(runs), wrong, c.runs, c.wrong)
		}
	}
}

// TestEveryPageHasItsPlace is the part of TestPages that takes no server.
func TestEveryPageHasItsPlace(t *testing.T) {
	pages, err := pagesOf("../..")
	if err != nil {
		t.Fatal(err)
	}
	for page := range worlds {
		if !slices.Contains(pages, page) {
			t.Errorf("there is no page %s", page)
		}
	}
	for _, page := range pages {
		text, err := os.ReadFile(filepath.Join("../..", page))
		if err != nil {
			t.Fatal(err)
		}
		if elsewhere[page] != "" {
			continue
		}
		blocks, err := blocksOf(string(text))
		if err != nil {
			t.Errorf("%s: %v", page, err)
		}
		runs, wrong := toRun(blocks)
		if len(wrong) > 0 || len(runs) > 0 && worlds[page] == nil {
			t.Errorf("%s: %d to run, a world: %v, %q", page, len(runs), worlds[page] != nil, wrong)
		}
	}
}
