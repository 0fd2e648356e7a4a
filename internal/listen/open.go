package listen

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// Open listens on host:port or unix:/path. mode is that of a unix socket. "localhost" is both loopback addresses, if
// the machine has both, without a resolver.
func Open(address string, mode os.FileMode) ([]net.Listener, error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return one(openUnix(path, mode))
	}
	if host, port, err := net.SplitHostPort(address); err == nil && strings.EqualFold(host, "localhost") {
		return openLoopback(port)
	}
	return one(net.Listen("tcp", address))
}

func one(l net.Listener, err error) ([]net.Listener, error) {
	if err != nil {
		return nil, err
	}
	return []net.Listener{l}, nil
}

// freePortAttempts bounds the attempts to find a port that is free in both families.
const freePortAttempts = 8

func openLoopback(port string) ([]net.Listener, error) {
	var err error
	for range freePortAttempts {
		var both []net.Listener
		if both, err = openBoth(port); err == nil || port != "0" || !errors.Is(err, syscall.EADDRINUSE) {
			return both, err
		}
	}
	return nil, err
}

func openBoth(port string) ([]net.Listener, error) {
	four, errFour := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", port))
	if errFour != nil && !missing(errFour) {
		return nil, errFour
	}
	if four != nil {
		port = strconv.Itoa(four.Addr().(*net.TCPAddr).Port)
	}
	six, errSix := net.Listen("tcp6", net.JoinHostPort("::1", port))
	switch {
	case errSix != nil && !missing(errSix) && four != nil:
		return nil, errors.Join(errSix, four.Close())
	case four == nil && six == nil:
		return nil, fmt.Errorf("%w; %w", errFour, errSix)
	case six == nil:
		return []net.Listener{four}, nil
	case four == nil:
		return []net.Listener{six}, nil
	}
	return []net.Listener{four, six}, nil
}

// missing reports that the machine does not have the address, or the family.
func missing(err error) bool {
	return errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT) ||
		errors.Is(err, syscall.EPROTONOSUPPORT)
}

// openUnix replaces the socket of a killed daemon, but not one that another process listens on.
func openUnix(path string, mode os.FileMode) (net.Listener, error) {
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return nil, errors.New("another process listens there already")
	}
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() == os.ModeSocket {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, mode); err != nil {
		listener.Close()
		return nil, err
	}
	return listener, nil
}
