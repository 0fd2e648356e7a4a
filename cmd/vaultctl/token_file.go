package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vault"
)

// maxTokenFile is far more than a token and its newline, and little enough to read at once.
const maxTokenFile = 4096

var errNoToken = errors.New("no admin token")

// token finds the admin token: a flag counts before the environment, a named file before the default one.
func (a *app) token() (vault.Token, error) {
	if a.tokenFile != "" {
		return readTokenFile(a.tokenFile)
	}
	if text := os.Getenv("VAULTCTL_TOKEN"); text != "" {
		token, err := vault.ParseToken(text)
		if err != nil {
			return token, refused(fmt.Errorf("VAULTCTL_TOKEN: %w", err))
		}
		return token, nil
	}
	if path := os.Getenv("VAULTCTL_TOKEN_FILE"); path != "" {
		return readTokenFile(path)
	}
	path := defaultTokenFile()
	if path == "" || db.Unreachable(path) != nil {
		return vault.Token{},
			hint(refused(errNoToken),
				"--token-file, VAULTCTL_TOKEN_FILE or VAULTCTL_TOKEN: this user has no folder to keep it in")
	}
	token, err := readTokenFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return token, hint(refused(errNoToken), "--token-file, VAULTCTL_TOKEN_FILE or VAULTCTL_TOKEN, or save it: %s",
			saveCommand(path))
	}
	return token, err
}

// defaultTokenFile is in the user's configuration folder; "" if there is none.
func defaultTokenFile() string {
	dir, err := os.UserConfigDir()
	if err != nil || !filepath.IsAbs(dir) {
		return ""
	}
	return filepath.Join(dir, "vaultctl", "token")
}

// saveCommand is the command that saves a pasted token.
func saveCommand(path string) string {
	return fmt.Sprintf("(umask 077; mkdir -p %s; cat > %s)", shellPath(filepath.Dir(path)), shellPath(path))
}

// shellPath quotes a path for a shell, with ~ for the home folder.
func shellPath(path string) string {
	tilde := ""
	if home, err := os.UserHomeDir(); err == nil {
		if rest, ok := strings.CutPrefix(path, strings.TrimSuffix(home, "/")+"/"); ok {
			tilde, path = "~/", rest
		}
	}
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+", r)
	}
	if strings.ContainsFunc(path, func(r rune) bool { return !plain(r) }) {
		path = "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
	}
	return tilde + path
}

func readTokenFile(path string) (vault.Token, error) {
	text, err := readPrivateFile(path)
	if err != nil {
		return vault.Token{}, err
	}
	token, err := vault.ParseToken(text)
	if err != nil {
		return token, refused(fmt.Errorf("token file %q: %w", path, err))
	}
	return token, nil
}

// readPrivateFile refuses a file that others can read, because its content is no longer secret. It checks the opened
// file, so a symbolic link is judged by its target.
func readPrivateFile(path string) (string, error) {
	// O_NONBLOCK: opening a fifo must not wait for a writer.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return "", tokenFileError(path, err)
	}
	defer file.Close()
	info, err := file.Stat()
	switch {
	case err != nil:
		return "", tokenFileError(path, err)
	case !info.Mode().IsRegular():
		return "", refused(fmt.Errorf("token file %q is not a regular file", path))
	case info.Mode().Perm()&0o077 != 0:
		return "", hint(refused(fmt.Errorf("token file %q can be read by others (mode %04o)", path, info.Mode().Perm())),
			"chmod 600 %s", shellPath(path))
	case !ownedByCallerOrRoot(info):
		return "", refused(fmt.Errorf("token file %q belongs to another user, who can read it and choose what it holds",
			path))
	case info.Size() > maxTokenFile:
		return "", refused(fmt.Errorf("token file %q is too large for a token", path))
	}
	text, err := io.ReadAll(io.LimitReader(file, maxTokenFile))
	if err != nil {
		return "", tokenFileError(path, err)
	}
	return strings.TrimSpace(string(text)), nil
}

// tokenFileError keeps the operating system's reason, and has the exit code of a refusal.
func tokenFileError(path string, err error) error {
	return refused(fmt.Errorf("token file %q: %w", path, reason(err)))
}

// reason is the operating system's error without the path and the call, which the message already has.
func reason(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}

// newTokenFile is made before the token, so that a token is only made if it can be saved.
type newTokenFile struct {
	file *os.File
	path string
}

// createTokenFile never overwrites a file: it may hold the only copy of a token.
func createTokenFile(path string) (*newTokenFile, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_CLOEXEC, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, hint(conflict("file %q exists", path), "another path: a token file is never overwritten")
	}
	if err != nil {
		return nil, fmt.Errorf("creating token file %q: %w", path, reason(err))
	}
	return &newTokenFile{file: file, path: path}, nil
}

// save writes the token and flushes it to disk.
func (f *newTokenFile) save(t interface{ Reveal() string }) error {
	_, err := f.file.WriteString(t.Reveal() + "\n")
	err = errors.Join(err, f.file.Chmod(0o600), f.file.Sync(), f.file.Close())
	f.file = nil
	if err != nil {
		return fmt.Errorf("writing token file %q: %w", f.path, reason(err))
	}
	return nil
}

// discard removes the file unless a token was saved in it. It does nothing for nil.
func (f *newTokenFile) discard() {
	if f == nil || f.file == nil {
		return
	}
	f.file.Close()
	os.Remove(f.path) // it is empty; the caller reports the error that led here
}
