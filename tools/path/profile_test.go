package main

import (
	"strings"
	"testing"
)

const header = "mode: atomic\n"

func mustProfile(t *testing.T, lines string) profile {
	t.Helper()
	p, err := readProfile(strings.NewReader(header + lines))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A block is on the path if every repetition passes it, however often a daemon that only starts does so too.
func TestFiguresAreOfTheOperation(t *testing.T) {
	idle := mustProfile(t, module+"internal/a/shared.go:1.1,2.2 3 70\n"+module+"internal/a/start.go:1.1,2.2 5 900\n")
	counts := mustProfile(t, module+"internal/a/shared.go:1.1,2.2 3 120\n"+
		module+"internal/a/shared.go:1.1,2.2 3 50\n"+ // the same block again: 170
		module+"internal/a/start.go:1.1,2.2 5 999\n"+ // 99 more
		module+"internal/b/own.go:1.1,2.2 2 100\n"+
		module+"internal/b/own.go:3.1,4.2 7 99\n")
	f := figuresOf("read", counts, idle)
	if f.statements != 5 || len(f.packages) != 2 || f.packages["internal/a"] != 3 || f.files["internal/b/own.go"] != 2 ||
		len(f.files) != 2 {
		t.Errorf("got %+v, want 3 statements of internal/a/shared.go and 2 of internal/b/own.go", f)
	}
}

func TestBadProfilesAreRefused(t *testing.T) {
	for what, text := range map[string]string{
		"no line at all":      "",
		"a header alone":      header,
		"set, which is yes":   "mode: set\na.go:1.1,2.2 1 1\n",
		"a field missing":     header + "a.go:1.1,2.2 1\n",
		"statements, no int":  header + "a.go:1.1,2.2 x 1\n",
		"a count that is not": header + "a.go:1.1,2.2 1 x\n",
	} {
		if _, err := readProfile(strings.NewReader(text)); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	if err := run(t.Context(), []string{"extra"}, nil); err == nil || !strings.Contains(err.Error(), `"extra"`) {
		t.Errorf("got %v, want the argument refused", err)
	}
}
