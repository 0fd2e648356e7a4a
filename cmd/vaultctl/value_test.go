package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/vault"
)

func TestParseSource(t *testing.T) {
	for _, arg := range []string{"-", "@file", "@/abs/file", "@-"} {
		if got, err := parseSource(arg); err != nil || string(got) != arg {
			t.Errorf("%q: got %q, %v, want it as it is", arg, got, err)
		}
	}
	for _, arg := range []string{"hunter2", "", "@", "--", "-x", "file"} {
		got, err := parseSource(arg)
		if !errors.Is(err, errUsage) || got != "" {
			t.Errorf("%q: got %q, %v, want a usage error", arg, got, err)
		}
		if arg == "hunter2" && strings.Contains(err.Error(), arg) {
			t.Errorf("got %q, which repeats what may be a value", err)
		}
	}
}

func TestSpacesAroundAValue(t *testing.T) {
	const pem = "-----BEGIN KEY-----\nAAAA\n-----END KEY-----\n"
	for _, c := range []struct {
		value  string
		spaces spaces
		want   string // "" = refused
	}{
		{"hunter2", spaces{}, "hunter2"},
		{"hun ter2", spaces{}, "hun ter2"},
		{"hunter2\n", spaces{}, ""},
		{" hunter2", spaces{}, ""},
		{"hunter2\r\n", spaces{}, ""},
		{"hunter2\u00a0", spaces{}, ""}, // a no-break space, as copied from a web page
		{"\n\n", spaces{}, ""},
		{"hunter2\n", spaces{trim: true}, "hunter2"},
		{"\thunter2 \r\n", spaces{trim: true}, "hunter2"},
		{"hunter2\n", spaces{verbatim: true}, "hunter2\n"},
		{pem, spaces{}, pem}, // several lines: byte for byte
		{pem, spaces{trim: true}, strings.TrimSpace(pem)},
		{"\xff\xfe \n", spaces{}, "\xff\xfe \n"}, // not text
		{"\xff\xfe \n", spaces{trim: true}, "\xff\xfe \n"},
	} {
		value := []byte(c.value)
		got, err := c.spaces.apply(value)
		switch {
		case c.want == "" && !errors.Is(err, errUsage):
			t.Errorf("%q %+v: got %q, %v, want a usage error", c.value, c.spaces, got, err)
		case c.want == "" && strings.Trim(string(value), "\x00") != "":
			t.Errorf("%q %+v: refused, and not wiped", c.value, c.spaces)
		case c.want != "" && (err != nil || string(got) != c.want):
			t.Errorf("%q %+v: got %q, %v, want %q", c.value, c.spaces, got, err, c.want)
		}
	}
}

func TestReadLimitedTakesWhatAValueMayHave(t *testing.T) {
	for _, size := range []int{1, 100, envelope.MaxValueSize} {
		want := bytes.Repeat([]byte("v"), size)
		if got, err := readLimited(t.Context(), bytes.NewReader(want), "it"); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: got %d bytes, %v", size, len(got), err)
		}
	}
	for _, size := range []int{0, envelope.MaxValueSize + 1, 2 * envelope.MaxValueSize} {
		if got, err := readLimited(t.Context(), bytes.NewReader(make([]byte, size)), "it"); !errors.Is(err,
			vault.ErrValueSize) || got != nil {
			t.Errorf("%d bytes: got %d bytes, %v, want %v", size, len(got), err, vault.ErrValueSize)
		}
	}
}

func TestReadLimitedEndsWithItsContext(t *testing.T) {
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	defer writer.Close() // lets the blocked reader go
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := readLimited(ctx, reader, "it"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

func TestReadFileNamesTheFileOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "absent")
	_, err := readFile(t.Context(), path)
	if err == nil || strings.Count(err.Error(), path) != 1 {
		t.Errorf("got %v, want the path in it, once", err)
	}
}

func TestWithoutATerminalNothingIsAsked(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	a := &app{stdio: stdio{in: null}}
	if _, err := a.readValue(t.Context(), valueInput{}); !errors.Is(err, errUsage) {
		t.Errorf("prompt: got %v, want a usage error", err)
	}
	if err := a.confirm(t.Context(), false, "x", "sure?"); !errors.Is(err, errDeclined) {
		t.Errorf("confirm: got %v, want it declined", err)
	}
	if err := a.confirm(t.Context(), true, "x", "sure?"); err != nil {
		t.Errorf("confirm --yes: got %v", err)
	}
}

func TestIsTextForATerminal(t *testing.T) {
	for _, s := range []string{"a", "a\nb\tc\n", "pässwörd", "日本"} {
		if !isTerminalSafe([]byte(s)) {
			t.Errorf("%q: got binary, want text", s)
		}
	}
	for _, s := range []string{"\x1b[31m", "a\rb", "\x00", "\xff", "\u009b", "\x7f"} {
		if isTerminalSafe([]byte(s)) {
			t.Errorf("%q: got text, want binary", s)
		}
	}
}
