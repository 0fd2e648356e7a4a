package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hyperiondb/vault/internal/vault"
)

func TestTokenFileIsRead(t *testing.T) {
	token := vault.NewToken()
	for _, mode := range []os.FileMode{0o600, 0o400} {
		path := mustWrite(t, filepath.Join(t.TempDir(), "token"), token.Reveal()+"\n", mode)
		if got, err := readTokenFile(path); err != nil || got != token {
			t.Errorf("mode %04o: got %v, want the token back", mode, err)
		}
	}
}

func TestTokenFileIsRefused(t *testing.T) {
	dir := t.TempDir()
	text := vault.NewToken().Reveal()
	file := func(name, text string, mode os.FileMode) string {
		return mustWrite(t, filepath.Join(dir, name), text, mode)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "absent"):           "no such file",
		dir:                                    "not a regular file",
		fifo:                                   "not a regular file",
		file("group", text, 0o640):             "can be read by others (mode 0640)",
		file("world", text, 0o604):             "can be read by others (mode 0604)",
		file("empty", "", 0o600):               "not an admin token",
		file("cut", text[:len(text)-1], 0o600): "truncated",
		file("two", text+"\n"+text, 0o600):     "not an admin token",
		file("large", strings.Repeat("x", 4097), 0o600): "too large",
	} {
		_, err := readTokenFile(path)
		if !errors.Is(err, vault.ErrRefused) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want it refused: %s", filepath.Base(path), err, want)
			continue
		}
		if strings.Contains(err.Error(), text[8:24]) {
			t.Errorf("%s: the error shows a piece of the token", filepath.Base(path))
		}
	}
}

func TestTokenOfWhatWasTypedCountsFirst(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(dir, "config"))
	t.Setenv("VAULTCTL_TOKEN", "")
	t.Setenv("VAULTCTL_TOKEN_FILE", "")
	usual := defaultTokenFile()

	a := &app{}
	if _, err := a.token(); !errors.Is(err, vault.ErrRefused) || err.Error() != "no admin token" {
		t.Fatalf("no token anywhere: got %v", err)
	}
	expect := func(what string, want vault.Token) {
		t.Helper()
		if got, err := a.token(); err != nil || got != want {
			t.Errorf("got %v or another token, want that of %s", err, what)
		}
	}
	if err := os.MkdirAll(filepath.Dir(usual), 0o700); err != nil {
		t.Fatal(err)
	}
	saved := vault.NewToken()
	mustWrite(t, usual, saved.Reveal(), 0o600)
	expect("the usual file", saved)

	named := vault.NewToken()
	t.Setenv("VAULTCTL_TOKEN_FILE", mustWrite(t, filepath.Join(dir, "named"), named.Reveal(), 0o600))
	expect("VAULTCTL_TOKEN_FILE", named)

	direct := vault.NewToken()
	t.Setenv("VAULTCTL_TOKEN", direct.Reveal())
	expect("VAULTCTL_TOKEN", direct)

	typed := vault.NewToken()
	a.tokenFile = mustWrite(t, filepath.Join(dir, "typed"), typed.Reveal(), 0o600)
	expect("--token-file", typed)

	// A named file that is absent is an error; no other file is used.
	a.tokenFile = filepath.Join(dir, "absent")
	if _, err := a.token(); !errors.Is(err, vault.ErrRefused) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("--token-file of an absent file: got %v, want it refused", err)
	}
	a.tokenFile = ""
	t.Setenv("VAULTCTL_TOKEN", direct.Reveal()[:20])
	if _, err := a.token(); !errors.Is(err, vault.ErrRefused) || strings.Contains(err.Error(), direct.Reveal()[4:20]) {
		t.Errorf("a cut VAULTCTL_TOKEN: got %v, want it refused and not shown", err)
	}
}

func TestNewTokenFileIsNeverOverwrittenNorLeftEmpty(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	file, err := createTokenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := createTokenFile(path); !errors.Is(err, vault.ErrConflict) {
		t.Errorf("a file that exists: got %v, want a conflict", err)
	}
	file.discard()
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after discard: got %v, want no file", err)
	}

	if file, err = createTokenFile(path); err != nil {
		t.Fatal(err)
	}
	token := vault.NewToken()
	if err := file.save(token); err != nil {
		t.Fatal(err)
	}
	file.discard() // as the deferred call does; the token stays
	if got, err := readTokenFile(path); err != nil || got != token {
		t.Errorf("got %v, want the saved token back", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("got mode %v, %v, want 0600", info.Mode(), err)
	}
	var none *newTokenFile
	none.discard()
}

func TestTokenNames(t *testing.T) {
	for _, name := range []string{"root", "a", "_x", "alice@example.org", "ci-2026.01", strings.Repeat("x", 64)} {
		if err := checkTokenName(name); err != nil {
			t.Errorf("%q: got %v", name, err)
		}
	}
	for _, name := range []string{"", "-x", ".x", "@x", "a b", "a/b", "ä", "a\n", strings.Repeat("x", 65)} {
		if err := checkTokenName(name); !errors.Is(err, errUsage) {
			t.Errorf("%q: got %v, want a usage error", name, err)
		}
	}
}

func TestShellPathCanBeTyped(t *testing.T) {
	t.Setenv("HOME", "/home/alice")
	for path, want := range map[string]string{
		"/home/alice/.config/vaultctl/token":           "~/.config/vaultctl/token",
		"/home/alice/Library/Application Support/x/it": "~/'Library/Application Support/x/it'",
		"/home/alicex/token":                           "/home/alicex/token",
		"/etc/it's":                                    `'/etc/it'\''s'`,
	} {
		if got := shellPath(path); got != want {
			t.Errorf("%s: got %s, want %s", path, got, want)
		}
	}
}

// No place to keep a token is no token: no folder, one that is no folder, a relative one.
func TestWithoutAHomeThereIsNoToken(t *testing.T) {
	t.Setenv("VAULTCTL_TOKEN", "")
	t.Setenv("VAULTCTL_TOKEN_FILE", "")
	file := filepath.Join(t.TempDir(), "file")
	mustWrite(t, file, "", 0o600)
	for _, place := range [][2]string{{"", ""}, {file, ""}, {"", file}, {"relative", ""}, {"", "relative"},
		{"/nowhere", ""}, {"/dev/null", ""}} {
		t.Setenv("HOME", place[0])
		t.Setenv("XDG_CONFIG_HOME", place[1])
		a := &app{}
		if _, err := a.token(); !errors.Is(err, vault.ErrRefused) || err.Error() != "no admin token" {
			t.Errorf("HOME=%s XDG_CONFIG_HOME=%s: got %v, want that there is no token", place[0], place[1], err)
		}
	}
}

type fileOf struct {
	os.FileInfo
	uid int
}

func (f fileOf) Sys() any { return &syscall.Stat_t{Uid: uint32(f.uid)} }

// TestFileOwners: a file of another user was chosen, and can be read, by that user.
func TestFileOwners(t *testing.T) {
	for uid, want := range map[int]bool{os.Geteuid(): true, 0: true, os.Geteuid() + 1: false, 65534: false} {
		if got := ownedByCallerOrRoot(fileOf{uid: uid}); got != want {
			t.Errorf("user %d: got %v, want %v", uid, got, want)
		}
	}
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() != 0 {
		return // only root can give a file away
	}
	if err := os.Chown(path, 12345, 12345); err != nil {
		t.Fatal(err)
	}
	link := path + "-link"
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{path, link} {
		if _, err := readPrivateFile(name); err == nil || !strings.Contains(err.Error(), "belongs to another user") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
