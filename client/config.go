package client

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// Config says which secrets a program needs and where they are.
type Config struct {
	// URL names the nodes, the nearest first, separated by commas: https://HOST:PORT, http://127.0.0.1:PORT or
	// unix:///PATH of vaultd's socket.
	URL string

	Token     string // the app's token, hvr_...; "" = none is sent
	TokenFile string // a file that holds it, which is read again when it changes; not together with Token

	Names []string // of the secrets that Client keeps; none: only Get and Verify are of use

	Poll        time.Duration // between two looks where vaultd cannot wait, and after a failure; 0 = 30 s, at least 1 s
	Cache       Cache         // keeps the values over a restart; nil = none
	MaxCacheAge time.Duration // of a cached value since vaultd confirmed it; 0 = any

	// OnError is told of every look that failed; the program goes on with the values it has. It is called by one
	// goroutine at a time, and blocks the others while it runs. nil: errors are in Secret.Err only.
	OnError func(error)

	TLS      *tls.Config // nil = the system's certificates
	Insecure bool        // allow http:// to other machines, as where a service mesh encrypts
}

const (
	defaultPoll = 30 * time.Second
	maxName     = 1024 // bytes; vaultd has the exact grammar
)

func (c *Config) check() error {
	if c.Token != "" && c.TokenFile != "" {
		return errors.New("client: Token and TokenFile are both set: want one")
	}
	if c.Token != "" {
		if err := checkToken(c.Token); err != nil {
			return fmt.Errorf("client: Token: %w", err)
		}
	}
	if c.Poll == 0 {
		c.Poll = defaultPoll
	}
	if c.Poll < time.Second {
		return fmt.Errorf("client: Poll is %s: at least 1s", c.Poll)
	}
	if c.MaxCacheAge < 0 {
		return fmt.Errorf("client: MaxCacheAge is %s: 0 for any age, or longer", c.MaxCacheAge)
	}
	for i, name := range c.Names {
		if name == "" || len(name) > maxName {
			return fmt.Errorf("client: Names[%d] is empty or longer than %d bytes", i, maxName)
		}
		if slices.Contains(c.Names[:i], name) {
			return fmt.Errorf("client: %q is in Names twice", name)
		}
	}
	return nil
}

// parseURLs does not quote a URL in an error, which could have a password in it.
func (c *Config) parseURLs() ([]*url.URL, error) {
	var all []*url.URL
	for i, text := range strings.Split(c.URL, ",") {
		u, err := url.Parse(strings.TrimSpace(text))
		wrong := func(why string) error {
			return fmt.Errorf("client: URL %d of %d: %s", i+1, strings.Count(c.URL, ",")+1, why)
		}
		switch {
		case err != nil:
			return nil, wrong("it is not a URL")
		case u.User != nil || u.RawQuery != "" || u.Fragment != "":
			return nil, wrong("it has more than scheme, host and port; a token goes into Token or TokenFile")
		case u.Scheme == "unix":
			if u.Host != "" || !strings.HasPrefix(u.Path, "/") || u.Path == "/" {
				return nil, wrong("the path of a socket is absolute: unix:///run/vaultd/vaultd.sock")
			}
		case u.Scheme != "https" && u.Scheme != "http" || u.Host == "":
			return nil, wrong("want https://HOST:PORT, http://127.0.0.1:PORT or unix:///PATH")
		case u.Path != "" && u.Path != "/":
			return nil, wrong("it has a path; vaultd answers at the root")
		case u.Scheme == "http" && !c.Insecure && !isLoopback(u.Hostname()):
			return nil, wrong("values would cross the network in the clear: use https://, or set Insecure")
		}
		all = append(all, u)
	}
	return all, nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func checkToken(token string) error {
	if token == "" || len(token) > 4096 || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("it is empty, too long, or has characters that no token has")
	}
	return nil
}

// tokenSource is the token of the next request.
type tokenSource struct {
	file string // "" = fixed

	mu    sync.Mutex
	token string
	stat  os.FileInfo // of the file when it was read
}

// get reads the file again if it changed. While it cannot be read, the last token stays in use.
func (t *tokenSource) get() (string, error) {
	if t.file == "" {
		return t.token, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now, err := os.Stat(t.file)
	if err != nil {
		return t.token, fmt.Errorf("reading TokenFile: %w", err)
	}
	if t.stat != nil && os.SameFile(t.stat, now) && t.stat.ModTime().Equal(now.ModTime()) && t.stat.Size() == now.Size() {
		return t.token, nil
	}
	content, err := os.ReadFile(t.file)
	if err != nil {
		return t.token, fmt.Errorf("reading TokenFile: %w", err)
	}
	token := strings.TrimSpace(string(content))
	if err := checkToken(token); err != nil { // also while the file is being written
		return t.token, fmt.Errorf("TokenFile %q: %w", t.file, err)
	}
	t.token, t.stat = token, now
	return token, nil
}
