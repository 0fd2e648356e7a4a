// Package noquery keeps the import of bubbletea from querying the terminal.
//
// bubbletea v1 queries the terminal's background colour in an init function, through lipgloss and termenv. Every
// command of a binary that links it would write to the terminal, wait up to 5 seconds for an answer, and lose the keys
// typed meanwhile. termenv does not query only if TERM says so, so TERM is "dumb" from before termenv's
// initialisation until Restore.
//
// The language makes this package first: packages are initialised sorted by path, each after its imports. This one
// imports a part of what termenv does, and its path sorts before termenv's. The script terminal_quiet fails if that no
// longer holds.
package noquery

import "os"

var (
	before  string
	present bool
)

func init() {
	before, present = os.LookupEnv("TERM")
	_ = os.Setenv("TERM", "dumb")
}

// Restore gives TERM back. The importer of bubbletea calls it in its own init function, which runs after bubbletea's.
func Restore() {
	if present {
		_ = os.Setenv("TERM", before)
		return
	}
	_ = os.Unsetenv("TERM")
}
