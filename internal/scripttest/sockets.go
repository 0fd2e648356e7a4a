package scripttest

import (
	"net"
	"os"
)

// sockets are the listening sockets of one daemon, which the script keeps open as systemd does.
type sockets struct {
	files     []*os.File
	addresses []string
}

func openSockets(count int) (*sockets, error) {
	s := &sockets{}
	for range count {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			s.close()
			return nil, err
		}
		file, err := l.(*net.TCPListener).File()
		s.addresses = append(s.addresses, l.Addr().String())
		_ = l.Close() // file is a descriptor of its own
		if err != nil {
			s.close()
			return nil, err
		}
		s.files = append(s.files, file)
	}
	return s, nil
}

func (s *sockets) close() {
	for _, file := range s.files {
		_ = file.Close()
	}
}

// through starts a command as systemd does: only the process itself knows its pid before it runs.
var through = []string{"sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`}
