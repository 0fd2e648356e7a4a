// Command style measures how the source of this module reads, and with -check fails where it breaks the rules of
// CONTRIBUTING.md:
//
//	go run ./tools/style            # a table: words, columns, commit subjects, exported symbols, lines
//	go run ./tools/style -check     # the rules that can be checked; exit 1 and the places that break them
//
// It reads the files that git tracks, in the folder it is started in.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

const (
	maxColumns     = 120 // of a line of Go or SQL; a tab counts as one
	maxSubject     = 72  // characters of a commit's subject
	maxVagueWords  = 0.3 // in 1,000 words of comments and documents
	wordsPerFigure = 1000
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "style: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("style", flag.ContinueOnError)
	gate := flags.Bool("check", false, "fail where a rule is broken, and print the places")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	files, err := readTree()
	if err != nil {
		return err
	}
	if *gate {
		return check(files, out)
	}
	return table(files, out)
}

// check prints every place that breaks a rule, and fails if there are too many.
func check(files []file, out io.Writer) error {
	long := longLines(files)
	for _, place := range long {
		fmt.Fprintf(out, "%s: longer than %d columns\n", place, maxColumns)
	}
	words, vague := countWords(files)
	tooVague := per1000(len(vague), words) > maxVagueWords
	if tooVague {
		for _, place := range vague {
			fmt.Fprintf(out, "%s: name the actor (caller, goroutine, worker, reader, operator)\n", place)
		}
	}
	if len(long) > 0 || tooVague {
		return errors.New("the text breaks the rules of CONTRIBUTING.md")
	}
	return nil
}

func table(files []file, out io.Writer) error {
	words, vague := countWords(files)
	fmt.Fprintf(out, "words of comments and documents    %8d\n", words)
	fmt.Fprintf(out, "%-34s %8d, %.2f in 1,000 words\n", "of them vague (whoever, nobody ...)", len(vague),
		per1000(len(vague), words))
	fmt.Fprintf(out, "lines over %d columns             %8d\n", maxColumns, len(longLines(files)))
	for _, kind := range []kind{goSource, goTest, sqlSource, script, document} {
		fmt.Fprintf(out, "lines of %-25s %8d\n", kind, countLines(files, kind))
	}
	if err := subjects(out); err != nil {
		return err
	}
	return exported(out)
}

func per1000(n, words int) float64 {
	return float64(n) * wordsPerFigure / float64(max(words, 1))
}

// subjects prints the share of commits whose subject is longer than maxSubject.
func subjects(out io.Writer) error {
	log, err := exec.Command("git", "log", "--no-merges", "--format=%s").Output()
	if err != nil {
		return fmt.Errorf("reading the commits: %w", err)
	}
	all := strings.Split(strings.TrimSpace(string(log)), "\n")
	long := 0
	for _, s := range all {
		if len([]rune(s)) > maxSubject {
			long++
		}
	}
	fmt.Fprintf(out, "commit subjects over %d characters %8d of %d\n", maxSubject, long, len(all))
	return nil
}
