package scripttest

import (
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// condition has [root]: vaultd believes the names of root's sockets alone, and only root has them.
func condition(name string) (bool, error) {
	if name != "root" {
		return false, fmt.Errorf("unknown condition %q", name)
	}
	return os.Getuid() == 0, nil
}

// credential SOCKET UNIT ID: reads what systemd reads for LoadCredential=ID:SOCKET in that unit, in the way in which
// systemd does; the bytes on stdout.
func (h *harness) cmdCredential(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: credential SOCKET UNIT ID")
	}
	fmt.Fprint(ts.Stdout(), readCredential(ts, args))
}

func readCredential(ts *testscript.TestScript, args []string) string {
	from := &net.UnixAddr{Name: fmt.Sprintf("@%x/unit/%s/%s", time.Now().UnixNano(), args[1], args[2])}
	c, err := net.DialUnix("unix", from, &net.UnixAddr{Name: ts.MkAbs(args[0])})
	ts.Check(err)
	defer c.Close()
	ts.Check(c.SetDeadline(time.Now().Add(waitLimit)))
	value, err := io.ReadAll(c)
	ts.Check(err)
	return string(value)
}
