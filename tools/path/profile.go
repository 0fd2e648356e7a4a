package main

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
)

// module begins the names of all files in a profile.
const module = "github.com/hyperiondb/vault/"

// block is one line of a coverage profile: statements that always run together.
type block struct {
	place      string // FILE:LINE.COLUMN,LINE.COLUMN
	statements int
}

// profile is how often each block ran.
type profile map[block]int

// readProfile reads what `go tool covdata textfmt` writes. A block that is listed more than once has run the sum of its
// counts.
func readProfile(r io.Reader) (profile, error) {
	p := profile{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) == 2 && fields[0] == "mode:" {
			if fields[1] != "atomic" && fields[1] != "count" {
				return nil, fmt.Errorf("a profile of mode %q does not count", fields[1])
			}
			continue
		}
		if len(fields) != 3 {
			return nil, fmt.Errorf("a line with %d fields in the profile, want 3", len(fields))
		}
		statements, err := strconv.Atoi(fields[1])
		if err != nil {
			return nil, fmt.Errorf("reading the profile: %w", err)
		}
		count, err := strconv.Atoi(fields[2])
		if err != nil {
			return nil, fmt.Errorf("reading the profile: %w", err)
		}
		p[block{fields[0], statements}] += count
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(p) == 0 {
		return nil, fmt.Errorf("the profile is empty")
	}
	return p, nil
}

// figures are what an operation passes.
type figures struct {
	operation  string
	packages   map[string]int // statements by package, such as internal/db
	files      map[string]int
	statements int
}

// figuresOf counts the blocks that ran at least once more for each repetition than in the idle daemon.
func figuresOf(operation string, counts, idle profile) figures {
	f := figures{operation: operation, packages: map[string]int{}, files: map[string]int{}}
	for b, n := range counts {
		if n-idle[b] < repetitions || b.statements == 0 {
			continue
		}
		file, _, _ := strings.Cut(strings.TrimPrefix(b.place, module), ":")
		f.packages[path.Dir(file)] += b.statements
		f.files[file] += b.statements
		f.statements += b.statements
	}
	return f
}

func sorted(m map[string]int) []string { return slices.Sorted(maps.Keys(m)) }
