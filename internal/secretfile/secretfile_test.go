package secretfile

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func mustWrite(t *testing.T, path, text string, mode fs.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask
		t.Fatal(err)
	}
	return path
}

// Root judges a file as its owner would; any other user judges for itself.
func TestJudge(t *testing.T) {
	path := mustWrite(t, filepath.Join(t.TempDir(), "file"), "x", 0o600)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	const owner = 65533
	others := ownedBy{info, owner}
	want := map[bool]int{true: owner, false: os.Geteuid()}[os.Geteuid() == 0]
	if got := Judge(others); got != want {
		t.Errorf("got user %d, want %d", got, want)
	}
	if reason := ComplaintOf(owner, path, others); reason != "" {
		t.Errorf("its owner complains: %s", reason)
	}
	if reason := ComplaintOf(owner+1, path, others); !strings.Contains(reason, "owned by user 65533") {
		t.Errorf("another user has the complaint %q", reason)
	}
}

type ownedBy struct {
	fs.FileInfo
	user uint32
}

func (o ownedBy) Sys() any { return &syscall.Stat_t{Uid: o.user} }

func TestReadLine(t *testing.T) {
	const secret = "canary-5d1c"
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(mustWrite(t, filepath.Join(dir, "target"), secret, 0o604), link); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) string { return mustWrite(t, filepath.Join(dir, name), text, 0o600) }
	for path, want := range map[string]string{
		write("plain", secret):                                   "",
		write("newline", secret+"\n"):                            "",
		write("dos", secret+"\r\n"):                              "",
		write("two", secret+"\n\n"):                              "holds more than one line of text",
		write("lines", secret+"\nmore\n"):                        "holds more than one line of text",
		write("zero", secret+"\x00"):                             "holds more than one line of text",
		write("space", secret+" \n"):                             "has white space before or after its text",
		write("empty", ""):                                       "is empty",
		write("blank", "\n"):                                     "holds an empty line",
		write("big", strings.Repeat("x", MaxSize+1)):             "is longer than 65536 bytes",
		mustWrite(t, filepath.Join(dir, "group"), secret, 0o640): "mode 0640 is open to others (chmod 600 ",
		mustWrite(t, filepath.Join(dir, "world"), secret, 0o604): "mode 0604 is open to others (chmod 600 ",
		mustWrite(t, filepath.Join(dir, "a b"), secret, 0o666):   "(chmod 600 '",
		link:                          "mode 0604 is open to others",
		dir:                           "not a regular file",
		fifo:                          "not a regular file",
		filepath.Join(dir, "missing"): "no such file",
	} {
		got, err := ReadLine(path)
		switch {
		case want == "" && (err != nil || got != secret):
			t.Errorf("%s: got %q, %v, want the secret", path, got, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: got %v, want %q", path, err, want)
		case err != nil && strings.Contains(err.Error(), secret):
			t.Errorf("%s: the error %q repeats the secret", path, err)
		}
	}
}

// systemd gives the unit's user its access by a list, which shows as the group's.
func TestTheGroupMayReadWhatSystemdGives(t *testing.T) {
	dir, inside := t.TempDir(), t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", inside)
	for path, good := range map[string]bool{
		mustWrite(t, filepath.Join(inside, "given"), "x", 0o440): true,
		mustWrite(t, filepath.Join(inside, "world"), "x", 0o444): false,
		mustWrite(t, filepath.Join(dir, "other"), "x", 0o440):    false,
	} {
		if _, err := Read(path); (err == nil) != good {
			t.Errorf("%s: got %v, want it read: %t", path, err, good)
		}
	}
}

func TestOwner(t *testing.T) {
	for _, c := range []struct {
		owner, process int
		want           bool
	}{{1000, 1000, true}, {0, 1000, true}, {0, 0, true}, {1001, 1000, false}, {1000, 0, false}} {
		if got := ownerTrusted(c.owner, c.process); got != c.want {
			t.Errorf("owner %d, process %d: got %v, want %v", c.owner, c.process, got, c.want)
		}
	}
}

func TestShellWord(t *testing.T) {
	for in, want := range map[string]string{"/etc/kek": "/etc/kek", "/my kek": "'/my kek'", "/it's": `'/it'\''s'`,
		"/$HOME": "'/$HOME'"} {
		if got := shellWord(in); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
