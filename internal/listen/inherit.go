package listen

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"
)

// Inherited are the listening sockets that systemd opened for this process (sd_listen_fds). They stay open while the
// daemon restarts, so that connections wait instead of being refused. A nil *Inherited has none.
type Inherited struct {
	sockets []net.Listener
}

// Inherit takes the sockets out of the environment, so that no child takes them for its own. It fails if one of them is
// not a listening stream socket.
func Inherit() (*Inherited, error) {
	i := &Inherited{}
	var wrong error
	for _, file := range activation.Files(true) {
		listener, err := net.FileListener(file)
		_ = file.Close() // the listener has a descriptor of its own
		if err != nil {
			wrong = errors.Join(wrong, fmt.Errorf("socket %q of systemd cannot be used: %w", file.Name(), err))
			continue
		}
		i.sockets = append(i.sockets, listener)
	}
	if wrong != nil {
		i.Close()
		return nil, wrong
	}
	return i, nil
}

// Open takes the sockets that are bound to address, or else opens it as the function Open does. It refuses a unix
// socket whose file has another mode.
func (i *Inherited) Open(address string, mode os.FileMode) ([]net.Listener, error) {
	if i == nil {
		return Open(address, mode)
	}
	wanted, err := bound(address)
	if err != nil {
		return nil, err
	}
	var found []net.Listener
	for _, socket := range i.sockets {
		if !slices.Contains(wanted, socket.Addr().Network()+":"+socket.Addr().String()) {
			continue
		}
		if err := checkMode(socket, mode); err != nil {
			return nil, err
		}
		found = append(found, socket)
	}
	if len(found) == 0 {
		return Open(address, mode)
	}
	i.sockets = slices.DeleteFunc(i.sockets, func(l net.Listener) bool { return slices.Contains(found, l) })
	return found, nil
}

// bound lists the socket addresses that address stands for, each after its network.
func bound(address string) ([]string, error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return []string{"unix:" + filepath.Clean(path)}, nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	hosts := []string{host}
	switch {
	case host == "":
		hosts = []string{"::"}
	case strings.EqualFold(host, "localhost"):
		hosts = []string{"127.0.0.1", "::1"}
	}
	var all []string
	for _, h := range hosts {
		resolved, err := net.ResolveTCPAddr("tcp", net.JoinHostPort(h, port))
		if err != nil {
			return nil, err
		}
		all = append(all, "tcp:"+resolved.String())
	}
	return all, nil
}

func checkMode(socket net.Listener, mode os.FileMode) error {
	if socket.Addr().Network() != "unix" {
		return nil
	}
	info, err := os.Stat(socket.Addr().String())
	if err != nil {
		return fmt.Errorf("the socket of systemd: %w", err)
	}
	if got := info.Mode().Perm(); got != mode {
		return fmt.Errorf("the socket of systemd has mode %04o and should have %04o (SocketMode=%04o in vaultd.socket)", got,
			mode, mode)
	}
	return nil
}

// Unused returns an error that names the sockets that were not taken. Connections to them would wait for ever.
func (i *Inherited) Unused() error {
	if i == nil || len(i.sockets) == 0 {
		return nil
	}
	var names []string
	for _, socket := range i.sockets {
		names = append(names, socket.Addr().String())
	}
	return fmt.Errorf("systemd listens on %q, and no setting has that address; hint: make ListenStream= in vaultd.socket "+
		"the same as listen, health_listen or credential_socket", names)
}

// Close closes the sockets that were not taken. The unit's sockets stay open in systemd.
func (i *Inherited) Close() {
	if i == nil {
		return
	}
	for _, socket := range i.sockets {
		_ = socket.Close() // nothing was accepted
	}
	i.sockets = nil
}
