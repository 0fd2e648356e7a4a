package listen

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// asChild is set in the processes that TestInherit starts: they report what they have inherited.
const asChild = "LISTEN_TEST_CHILD"

// inheritIn starts a process with these sockets, as systemd does, which opens the addresses and prints what it got.
func inheritIn(t *testing.T, sockets []*os.File, mode string, addresses ...string) string {
	t.Helper()
	// Only the process itself knows its pid before it runs.
	child := exec.CommandContext(t.Context(), "sh", "-c", `LISTEN_PID=$$ exec "$0" -test.run '^TestInheritChild$'`,
		os.Args[0])
	child.Env = append(os.Environ(), asChild+"="+strings.Join(addresses, " "), "LISTEN_FDS="+strconv.Itoa(len(sockets)),
		"LISTEN_TEST_MODE="+mode)
	child.ExtraFiles = sockets
	out, err := child.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.TrimSuffix(string(out), "PASS\n")
}

func TestInheritChild(t *testing.T) {
	addresses, ok := os.LookupEnv(asChild)
	if !ok {
		return // this is the parent
	}
	println := func(s string) { os.Stdout.WriteString(s + "\n") }
	inherited, err := Inherit()
	if err != nil {
		println("inherit: " + err.Error())
		return
	}
	defer inherited.Close()
	if os.Getenv("LISTEN_FDS")+os.Getenv("LISTEN_PID") != "" {
		println("the environment still names the sockets")
	}
	mode, err := strconv.ParseUint(os.Getenv("LISTEN_TEST_MODE"), 8, 32)
	if err != nil {
		t.Fatal(err)
	}
	before := len(inherited.sockets)
	for _, address := range strings.Fields(addresses) {
		listeners, err := inherited.Open(address, os.FileMode(mode))
		if err != nil {
			println("open: " + err.Error())
			continue
		}
		for _, l := range listeners {
			taken := before - len(inherited.sockets)
			println(address + " -> " + strconv.Itoa(taken) + " taken")
			l.Close()
		}
		before = len(inherited.sockets)
	}
	if err := inherited.Unused(); err != nil {
		println("unused: " + err.Error())
	}
}

// socketFile is the descriptor of a listener at address, and where it listens.
func socketFile(t *testing.T, network, address string) (*os.File, string) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	file, err := l.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file, l.Addr().String()
}

func TestInherit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	tcp, address := socketFile(t, "tcp", "127.0.0.1:0")
	wild, everywhere := socketFile(t, "tcp", ":0")
	local, _ := socketFile(t, "unix", path)
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(address)
	_, wildPort, _ := net.SplitHostPort(everywhere)
	plain, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	for _, test := range []struct {
		name    string
		sockets []*os.File
		open    []string
		want    string
	}{
		{"each address has its socket", []*os.File{tcp, wild, local}, []string{address, ":" + wildPort, "unix:" + path},
			address + " -> 1 taken\n:" + wildPort + " -> 1 taken\nunix:" + path + " -> 1 taken\n"},
		{"localhost is the loopback address", []*os.File{tcp}, []string{"localhost:" + port},
			"localhost:" + port + " -> 1 taken\n"},
		{"another address is opened", []*os.File{tcp}, []string{address, "127.0.0.1:0"},
			address + " -> 1 taken\n127.0.0.1:0 -> 0 taken\n"},
		{"none is inherited", nil, []string{"127.0.0.1:0"}, "127.0.0.1:0 -> 0 taken\n"},
		{"a socket without a setting", []*os.File{tcp}, nil, "unused: systemd listens on [\"" + address + "\"], and no " +
			"setting has that address; hint: make ListenStream= in vaultd.socket the same as listen, health_listen or " +
			"credential_socket\n"},
		{"a file", []*os.File{plain}, nil, "inherit: socket \"LISTEN_FD_3\" of systemd cannot be used: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := inheritIn(t, test.sockets, "0600", test.open...)
			if at := strings.Index(got, "cannot be used: "); at >= 0 {
				got = got[:at+len("cannot be used: ")] // the rest is the system's
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	got := inheritIn(t, []*os.File{local}, "0660", "unix:"+path)
	want := "open: the socket of systemd has mode 0600 and should have 0660 (SocketMode=0660 in vaultd.socket)\n"
	if !strings.HasPrefix(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
