package target

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// hosts are the hosts and ports that one setting of vaultd's configuration lists. They are compared in canonical form:
// case, a trailing dot, the spellings of an IPv6 address and IPv4-mapped addresses make no difference.
type hosts struct {
	setting string
	listed  map[string]bool // as place returns them
}

// newHosts reads a list that Check has accepted.
func newHosts(setting, defaultPort string, list []string) hosts {
	h := hosts{setting: setting, listed: map[string]bool{}}
	for _, text := range list {
		if at, err := readPlace(text, defaultPort); err == nil {
			h.listed[at] = true
		}
	}
	return h
}

// readPlace reads HOST or HOST:PORT. For PostgreSQL /FOLDER or /FOLDER:PORT is a socket.
func readPlace(text, defaultPort string) (string, error) {
	if strings.HasPrefix(text, "/") && defaultPort == postgresPort {
		return readFolder(text)
	}
	u, err := url.Parse("https://" + text)
	if err != nil || u.Host != text || u.Hostname() == "" || strings.ContainsAny(text, "*,/@") {
		return "", fmt.Errorf("%q is not HOST or HOST:PORT", text)
	}
	at, ok := place(u.Hostname(), u.Port(), defaultPort)
	if !ok {
		return "", fmt.Errorf("%q is not HOST or HOST:PORT", text)
	}
	return at, nil
}

func readFolder(text string) (string, error) {
	folder, port := text, ""
	if i := strings.LastIndexByte(text, ':'); i >= 0 {
		folder, port = text[:i], text[i+1:]
	}
	at, ok := place(folder, port, postgresPort)
	if !ok || filepath.Clean(folder) != folder {
		return "", fmt.Errorf("%q is not the folder of a socket, /FOLDER or /FOLDER:PORT", text)
	}
	return at, nil
}

// place is the canonical form of a host and its port, false if the port is invalid. A number such as 2130706433 or
// 0x7f.1, which only some resolvers take for an address, is a name.
func place(host, port, defaultPort string) (string, bool) {
	if port == "" {
		port = defaultPort
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", false
	}
	if !strings.HasPrefix(host, "/") {
		host = strings.TrimSuffix(strings.ToLower(host), ".")
	}
	if address, err := netip.ParseAddr(host); err == nil {
		host = address.Unmap().String()
	}
	return net.JoinHostPort(host, strconv.FormatUint(n, 10)), host != ""
}

// allow refuses a host that is not listed, before any name is resolved.
func (h hosts) allow(at string) error {
	if h.listed[at] {
		return nil
	}
	return fmt.Errorf("%q is not among %s in vaultd's configuration", at, h.setting)
}

// dial connects to a host that allow has accepted, and checks the address that the name resolved to: an address of this
// machine is reached only if it is listed itself, since local servers trust local connections.
func (h hosts) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Control: func(_, address string, _ syscall.RawConn) error { return h.allowDialled(address) }}
	if network == "unix" {
		d.Control = nil // its folder is listed
	}
	return d.DialContext(ctx, network, address)
}

func (h hosts) allowDialled(address string) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%q is not an address", address)
	}
	local, err := isOwn(to.Addr().Unmap())
	if err != nil || !local {
		return err
	}
	port := strconv.Itoa(int(to.Port()))
	if at, _ := place(to.Addr().String(), port, ""); h.listed[at] {
		return nil
	}
	if to.Addr().Unmap().IsLoopback() && h.listed[net.JoinHostPort("localhost", port)] {
		return nil
	}
	return fmt.Errorf("it leads to %s, an address of this machine, which is reached only if %s lists that address", to,
		h.setting)
}

// isOwn reports whether the address is this machine's, or is link-local (the metadata service of a cloud's instance).
func isOwn(address netip.Addr) (bool, error) {
	if address.IsLoopback() || address.IsUnspecified() || address.IsLinkLocalUnicast() {
		return true, nil
	}
	interfaces, err := net.InterfaceAddrs()
	if err != nil {
		return false, fmt.Errorf("listing this machine's addresses: %w", err)
	}
	for _, i := range interfaces {
		if n, ok := i.(*net.IPNet); ok {
			if own, ok := netip.AddrFromSlice(n.IP); ok && own.Unmap() == address.WithZone("") {
				return true, nil
			}
		}
	}
	return false, nil
}
