package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/hyperiondb/vault/internal/envelope"
)

// maxLine is what a terminal keeps of one typed line (termios(3), canonical mode): it drops the rest silently.
const maxLine = 4095

const valueSources = "the value comes from a hidden prompt (no SOURCE), - (standard input) or @FILE"

// source says where a value comes from: "" = hidden prompt, "-" = standard input, "@file".
type source string

// parseSource refuses a value on the command line, where every user of the machine and the shell's history can read it,
// and does not repeat it.
func parseSource(arg string) (source, error) {
	if arg == "-" || (strings.HasPrefix(arg, "@") && len(arg) > 1) {
		return source(arg), nil
	}
	return "", hint(usage("a value is not taken from the command line"), valueSources)
}

// spaces decides about white space around a one-line text: a newline pasted with a password is the commonest wrong
// password. A text of several lines (a PEM file, a JSON document) is kept byte for byte.
type spaces struct {
	verbatim bool
	trim     bool
}

func (s *spaces) register(flags *pflag.FlagSet) {
	flags.BoolVar(&s.verbatim, "verbatim", false, "keep white space around the value")
	flags.BoolVar(&s.trim, "trim-space", false, "remove white space around the value")
}

// valueInput is where a value comes from and how it is taken.
type valueInput struct {
	from   source
	spaces spaces
	once   bool // do not ask for it a second time: a mistyped value does no harm
}

// parse takes the arguments after NAME.
func (in *valueInput) parse(cmd *cobra.Command, args []string) error {
	if err := oneOf(cmd, "verbatim", "trim-space"); err != nil {
		return err
	}
	if len(args) == 0 {
		return nil
	}
	var err error
	in.from, err = parseSource(args[0])
	return err
}

// readValue reads at most one byte more than the limit of a value. The caller wipes it.
func (a *app) readValue(ctx context.Context, in valueInput) ([]byte, error) {
	var value []byte
	var err error
	switch {
	case in.from == "-":
		value, err = readLimited(ctx, a.in, "standard input")
	case in.from != "":
		value, err = readFile(ctx, string(in.from[1:]))
	default:
		value, err = a.prompt(ctx, in.once)
	}
	if err != nil {
		return nil, err
	}
	return in.spaces.apply(value)
}

func readFile(ctx context.Context, path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the value from %q: %w", path, reason(err))
	}
	defer file.Close()
	return readLimited(ctx, file, fmt.Sprintf("%q", path))
}

// readLimited reads into one buffer that never grows, so no copy of the value stays behind.
func readLimited(ctx context.Context, r io.Reader, what string) ([]byte, error) {
	buffer := make([]byte, envelope.MaxValueSize+1)
	type result struct {
		n   int
		err error
	}
	read := make(chan result, 1)
	go func() { // a read of standard input may block for ever, and Ctrl-C must still work
		n, err := io.ReadFull(r, buffer)
		read <- result{n, err}
	}()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case got := <-read:
		switch {
		case got.err == nil:
			clear(buffer)
			return nil, fmt.Errorf("%w: %s has more than the %d bytes a value may have", envelope.ErrValueSize, what,
				envelope.MaxValueSize)
		case errors.Is(got.err, io.ErrUnexpectedEOF):
			return buffer[:got.n], nil
		case errors.Is(got.err, io.EOF):
			return nil, fmt.Errorf("%w: %s is empty", envelope.ErrValueSize, what)
		}
		return nil, fmt.Errorf("reading the value from %s: %w", what, reason(got.err))
	}
}

func (a *app) prompt(ctx context.Context, once bool) ([]byte, error) {
	if !term.IsTerminal(int(a.in.Fd())) {
		return nil, hint(usage("there is no terminal to ask for the value"), valueSources)
	}
	first, err := a.readHidden(ctx, "Value (hidden): ")
	switch {
	case err != nil:
		return nil, err
	case len(first) == 0:
		return nil, fmt.Errorf("%w: the value is empty", envelope.ErrValueSize)
	case len(first) >= maxLine:
		clear(first)
		return nil, hint(usage("the value may be cut: a terminal takes lines of up to %d bytes", maxLine-1),
			"@FILE, or - for standard input")
	case once:
		return first, nil
	}
	again, err := a.readHidden(ctx, "Once more: ")
	if err != nil {
		clear(first)
		return nil, err
	}
	defer clear(again)
	if !envelope.EqualValues(first, again) {
		clear(first)
		return nil, usage("the two values are not the same")
	}
	return first, nil
}

// readHidden restores the terminal's echo, also if it is interrupted.
func (a *app) readHidden(ctx context.Context, question string) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	fd := int(a.in.Fd())
	state, err := term.GetState(fd)
	if err != nil {
		return nil, fmt.Errorf("asking for the value: %w", err)
	}
	fmt.Fprint(a.err, question)
	defer fmt.Fprintln(a.err)
	type result struct {
		line []byte
		err  error
	}
	read := make(chan result, 1)
	go func() {
		line, err := term.ReadPassword(fd)
		read <- result{line, err}
	}()
	select {
	case <-ctx.Done():
		_ = term.Restore(fd, state)
		return nil, ctx.Err()
	case got := <-read:
		if got.err != nil {
			return nil, fmt.Errorf("reading the value: %w", got.err)
		}
		return got.line, nil
	}
}

func (s spaces) apply(value []byte) ([]byte, error) {
	trimmed := bytes.TrimSpace(value)
	switch {
	case s.verbatim, !utf8.Valid(value), len(trimmed) == len(value):
		return value, nil
	case s.trim:
		return trimmed, nil
	case len(trimmed) > 0 && bytes.ContainsRune(trimmed, '\n'):
		return value, nil
	}
	clear(value)
	return nil, hint(usage("the value has white space around it"), "--trim-space removes it, --verbatim keeps it")
}

// confirm asks the operator to type the name before an irreversible change. --yes skips the question.
func (a *app) confirm(ctx context.Context, yes bool, name, question string) error {
	if yes {
		return nil
	}
	if !term.IsTerminal(int(a.in.Fd())) {
		return hint(declined("not confirmed: there is no terminal to ask on"), "--yes, if you are sure")
	}
	fmt.Fprintf(a.err, "%s\nType %s to go on: ", question, name)
	typed := make(chan string, 1)
	go func() {
		line := make([]byte, 0, 256)
		var one [1]byte
		for {
			n, err := a.in.Read(one[:])
			if n == 0 || err != nil { // Ctrl-D
				fmt.Fprintln(a.err)
				break
			}
			if one[0] == '\n' || len(line) == cap(line) {
				break
			}
			line = append(line, one[0])
		}
		typed <- strings.TrimSpace(string(line))
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(a.err)
		return ctx.Err()
	case answer := <-typed:
		if answer != name {
			return declined("declined: nothing was changed")
		}
		return nil
	}
}
