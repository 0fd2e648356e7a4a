// Package noquery keeps the import of bubbletea from asking the terminal.
//
// bubbletea v1 asks for the terminal's background colour in an init function, by way of lipgloss and termenv. Every
// command of a binary that links it would write to the terminal, wait up to 5 seconds for an answer, and lose what
// was typed meanwhile. The one thing that termenv takes as an order not to ask is TERM, so TERM says "dumb" from
// before termenv is initialised until Restore.
//
// That this package comes first is the order of the language: packages are initialised sorted by path, each when all it
// imports has been. This one imports a part of what termenv does, and its path sorts before termenv's. A script of this
// repository (terminal_quiet) fails when that no longer holds.
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
