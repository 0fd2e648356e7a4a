// Package lazyregexp compiles regular expressions of package variables when they are first used. A process that starts
// for one command otherwise compiles all of them, some with a thousand instructions, and uses a few.
package lazyregexp

import (
	"os"
	"regexp"
	"strings"
	"sync"
)

// New returns a function that returns the compiled expression, and panics if that is wrong. In a test's program New
// panics itself, so that every test of the package finds it.
func New(expression string) func() *regexp.Regexp {
	compiled := sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
	if len(os.Args) > 0 && strings.HasSuffix(os.Args[0], ".test") {
		compiled()
	}
	return compiled
}
