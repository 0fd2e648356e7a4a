package db_test

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyperiondb/vault/internal/db"
)

// The connection itself notices a peer that vanishes.
func TestDialerKeepsAlive(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer listener.Close()
	conn, err := db.Dialer().DialContext(t.Context(), "tcp", listener.Addr().String())
	must(t, err)
	defer conn.Close()
	for name, want := range map[string]int{"idle": 10, "interval": 5, "count": 3,
		"user timeout": int((25 * time.Second).Milliseconds())} {
		if got := socketOption(t, conn.(*net.TCPConn), name); got != want {
			t.Errorf("%s: got %d, want %d", name, got, want)
		}
	}
}

func socketOption(t *testing.T, conn *net.TCPConn, name string) int {
	t.Helper()
	option := map[string]int{"idle": unix.TCP_KEEPIDLE, "interval": unix.TCP_KEEPINTVL, "count": unix.TCP_KEEPCNT,
		"user timeout": unix.TCP_USER_TIMEOUT}[name]
	raw, err := conn.SyscallConn()
	must(t, err)
	var value int
	must(t, raw.Control(func(fd uintptr) { value, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, option) }))
	must(t, err)
	return value
}
