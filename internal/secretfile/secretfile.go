// Package secretfile reads files that hold a secret: a key, a password, a connection string. It refuses a file that
// another user could have read or written, judges the open file, so that it cannot be exchanged in between, and never
// repeats what a file holds.
//
// The files of systemd's LoadCredential= are in the folder $CREDENTIALS_DIRECTORY, and belong to root; an access list
// lets the unit's user read them, which shows as mode 0440. That mode is accepted there, and only there.
package secretfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// MaxSize is how many bytes Read accepts.
const MaxSize = 64 << 10

// Allowed is the most open mode that the file may have.
func Allowed(path string) fs.FileMode {
	if folder := os.Getenv("CREDENTIALS_DIRECTORY"); folder != "" && filepath.Dir(path) == filepath.Clean(folder) {
		return 0o640
	}
	return 0o600
}

// open opens a file that can be trusted. The caller closes it.
func open(path string) (*os.File, error) {
	// O_NONBLOCK: opening a fifo must not wait for a writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		if reason := Complaint(path, info); reason != "" {
			err = fmt.Errorf("file %q: %s", path, reason)
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Judge is the user for whom a program that only checks files judges one: for root, who can read it all the same, the
// file's owner; else the program's own.
func Judge(info fs.FileInfo) int {
	user := os.Geteuid()
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && user == 0 {
		user = int(stat.Uid)
	}
	return user
}

// Complaint is why this process cannot trust a file, with the command that mends it; "" if it can.
func Complaint(path string, info fs.FileInfo) string { return ComplaintOf(os.Geteuid(), path, info) }

// ComplaintOf is Complaint for a process of a user.
func ComplaintOf(user int, path string, info fs.FileInfo) string {
	if !info.Mode().IsRegular() {
		return "not a regular file"
	}
	if perm := info.Mode().Perm(); perm&^Allowed(path) != 0 {
		return fmt.Sprintf("mode %04o is open to others (chmod 600 %s)", perm, shellWord(path))
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && !ownerTrusted(int(stat.Uid), user) {
		return fmt.Sprintf("owned by user %d, neither this process's user nor root (chown %d %s)", stat.Uid,
			user, shellWord(path))
	}
	return ""
}

// Read returns what a file holds, 1 byte to MaxSize. The caller wipes it.
func Read(path string) ([]byte, error) {
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var buf bytes.Buffer
	if _, err := io.Copy(&buf, io.LimitReader(f, MaxSize+1)); err != nil {
		return nil, err
	}
	switch text := buf.Bytes(); {
	case len(text) == 0:
		return nil, fmt.Errorf("file %q is empty", path)
	case len(text) > MaxSize:
		clear(text)
		return nil, fmt.Errorf("file %q is longer than %d bytes", path, MaxSize)
	default:
		return text, nil
	}
}

// ReadLine returns the one line of a file without its line end, which editors and echo write.
func ReadLine(path string) (string, error) {
	text, err := Read(path)
	if err != nil {
		return "", err
	}
	defer clear(text)
	line := bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r"))
	switch {
	case len(line) == 0:
		return "", fmt.Errorf("file %q holds an empty line", path)
	case bytes.ContainsAny(line, "\r\n\x00"):
		return "", fmt.Errorf("file %q holds more than one line of text", path)
	case len(bytes.TrimSpace(line)) != len(line):
		return "", fmt.Errorf("file %q has white space before or after its text", path)
	}
	return string(line), nil
}

// ownerTrusted reports whether the owner is trusted, who can change the mode and the bytes at any time.
func ownerTrusted(owner, process int) bool { return owner == process || owner == 0 }

// shellWord quotes a path for a shell.
func shellWord(path string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+", r)
	}
	if strings.ContainsFunc(path, func(r rune) bool { return !plain(r) }) {
		return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
	}
	return path
}
