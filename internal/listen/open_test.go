package listen

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func mustOpen(t *testing.T, address string) []net.Listener {
	t.Helper()
	all, err := Open(address, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range all {
		t.Cleanup(func() { l.Close() })
	}
	return all
}

// hasIPv6 is found out without the code under test.
func hasIPv6(t *testing.T) bool {
	t.Helper()
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		return false
	}
	l.Close()
	return true
}

// "localhost" is both loopback addresses at one port, and no resolver is asked: a machine whose files or DNS say
// something else of the name still listens there. Names of hosts have no case (RFC 4343).
func TestLocalhostIsBothLoopbackAddresses(t *testing.T) {
	want := []string{"127.0.0.1"}
	if hasIPv6(t) {
		want = append(want, "::1")
	}
	for _, address := range []string{"localhost:0", "LocalHost:0"} {
		var got []string
		var ports []int
		for _, l := range mustOpen(t, address) {
			addr := l.Addr().(*net.TCPAddr)
			got, ports = append(got, addr.IP.String()), append(ports, addr.Port)
		}
		if !slices.Equal(got, want) || ports[0] != ports[len(ports)-1] {
			t.Errorf("%s: got %v at %v, want %v at one port", address, got, ports, want)
		}
	}
}

func TestAPortThatIsTakenInOneFamilyIsAnError(t *testing.T) {
	families := []string{"127.0.0.1:0"}
	if hasIPv6(t) {
		families = append(families, "[::1]:0")
	}
	for _, address := range families {
		again := opensAfterwards(t, address)
		for tries := 0; again != nil && tries < 10; tries++ { // another program may have taken the port meanwhile
			again = opensAfterwards(t, address)
		}
		if again != nil {
			t.Errorf("%s: what was opened meanwhile is not closed again: %v", address, again)
		}
	}
}

// opensAfterwards opens localhost at a port that is taken at an address, and once more when it is not.
func opensAfterwards(t *testing.T, address string) error {
	t.Helper()
	taken, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	if all, err := Open("localhost:"+port, 0); err == nil {
		all[0].Close()
		t.Errorf("%s was taken, and localhost listens on %v", taken.Addr(), all)
	}
	taken.Close()
	all, err := Open("localhost:"+port, 0)
	for _, l := range all {
		l.Close()
	}
	return err
}

func TestOtherAddressesAreOne(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "127.0.0.2:0", "unix:" + filepath.Join(t.TempDir(), "s")} {
		if all := mustOpen(t, address); len(all) != 1 {
			t.Errorf("%s: got %d listeners, want one", address, len(all))
		}
	}
	for _, address := range []string{"localhost:99999", "localhost", "127.0.0.1:x",
		"unix:" + filepath.Join(t.TempDir(), "no", "s")} {
		if all, err := Open(address, 0o600); err == nil {
			t.Errorf("%s: got %v, want an error", address, all)
		}
	}
}

func TestAFileThatIsNoSocketIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(path, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err := Open("unix:"+path, 0o600); err == nil {
		l[0].Close()
		t.Error("a file was replaced by a socket")
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "data" {
		t.Errorf("got %q, %v, want the file as it was", text, err)
	}
}
