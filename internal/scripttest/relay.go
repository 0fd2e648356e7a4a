package scripttest

import (
	"io"
	"net"
	"net/url"
	"path/filepath"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"
)

// relay: the primary's socket over TCP on loopback, for commands that may not enter the socket's folder. It sets
// VAULTCTL_DATABASE_URL and DAEMON_URL to it.
func (h *harness) cmdRelay(ts *testscript.TestScript, neg bool, args []string) {
	s := h.of(ts)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	r := &relay{listener: listener, socket: socketOf(ts, ts.Getenv("DAEMON_URL"))}
	r.running.Go(r.accept)
	s.cleanup = append(s.cleanup, r.close)
	host, port, _ := net.SplitHostPort(listener.Addr().String())
	for _, name := range []string{"VAULTCTL_DATABASE_URL", "DAEMON_URL"} {
		u, err := url.Parse(ts.Getenv(name))
		ts.Check(err)
		u.RawQuery = url.Values{"host": {host}, "port": {port}, "sslmode": {"disable"}}.Encode()
		ts.Setenv(name, u.String())
	}
}

func socketOf(ts *testscript.TestScript, database string) string {
	u, err := url.Parse(database)
	ts.Check(err)
	return filepath.Join(u.Query().Get("host"), ".s.PGSQL."+u.Query().Get("port"))
}

type relay struct {
	listener net.Listener
	socket   string
	running  sync.WaitGroup
}

func (r *relay) close() {
	r.listener.Close()
	r.running.Wait()
}

func (r *relay) accept() {
	for {
		from, err := r.listener.Accept()
		if err != nil {
			return
		}
		to, err := net.Dial("unix", r.socket)
		if err != nil {
			from.Close()
			continue
		}
		for _, way := range [][2]net.Conn{{from, to}, {to, from}} {
			r.running.Go(func() {
				_, _ = io.Copy(way[0], way[1]) // either end may leave
				from.Close()
				to.Close()
			})
		}
	}
}
