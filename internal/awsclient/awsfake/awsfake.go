// Package awsfake has the common parts of the fakes of AWS services, for tests only: a server on loopback, injected
// faults, and an environment without this machine's AWS configuration.
package awsfake

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Kind is a way to fail; each fake has its own.
type Kind string

// Fault is an injected failure.
type Fault struct {
	Kind  Kind
	Op    string        // the operation that fails, "" for all
	Times int           // how often it happens, 0 for until Clear
	Delay time.Duration // of a fault that is slow
}

// Faults are those of one fake. It may be used by several goroutines.
type Faults struct {
	kinds      []Kind
	operations []string

	mu       sync.Mutex // guards what follows
	faults   []*Fault
	released chan struct{} // closed and replaced by Clear
}

// NewFaults knows these kinds and operations, and no others.
func NewFaults(kinds []Kind, operations []string) *Faults {
	return &Faults{kinds: kinds, operations: operations, released: make(chan struct{})}
}

// Inject adds a fault. If several fit a request, the oldest happens.
func (f *Faults) Inject(fault Fault) error {
	if !slices.Contains(f.kinds, fault.Kind) {
		return fmt.Errorf("unknown fault %q", fault.Kind)
	}
	if fault.Op != "" && !slices.Contains(f.operations, fault.Op) {
		return fmt.Errorf("unknown operation %q", fault.Op)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append(f.faults, &fault)
	return nil
}

// Clear removes every fault. Hanging requests are then answered correctly.
func (f *Faults) Clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = nil
	close(f.released)
	f.released = make(chan struct{})
}

// Pending is how many faults have not happened as often as injected.
func (f *Faults) Pending() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.faults)
}

// Take returns the fault of a request, and the channel that ends its hanging.
func (f *Faults) Take(op string) (Fault, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := slices.IndexFunc(f.faults, func(fault *Fault) bool { return fault.Op == "" || fault.Op == op })
	if i < 0 {
		return Fault{}, f.released
	}
	fault := *f.faults[i]
	if fault.Times > 0 {
		if f.faults[i].Times--; f.faults[i].Times == 0 {
			f.faults = slices.Delete(f.faults, i, i+1)
		}
	}
	return fault, f.released
}

// Server serves on a free port of 127.0.0.1.
type Server struct {
	server *http.Server
	served chan struct{}
}

// Serve returns the URL. Close ends it.
func (s *Server) Serve(handler http.Handler) (url string, err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	s.server = &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	s.served = make(chan struct{})
	go func() {
		defer close(s.served)
		s.server.Serve(listener) // always an error, ErrServerClosed after Close
	}()
	return "http://" + listener.Addr().String(), nil
}

// Close closes all connections. It does nothing to a server that never served.
func (s *Server) Close() {
	if s.server == nil {
		return
	}
	s.server.Close()
	<-s.served
}

// Page is what a proxy between the vault and a service might answer.
const Page = "<html>\nnot what you asked for\n</html>\n"

// Reset ends the connection with a TCP reset instead of an answer.
func Reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	conn.Close()
}

// Isolate hides this machine's AWS configuration and the metadata service until the test ends.
func Isolate(t *testing.T) {
	t.Helper()
	for _, variable := range os.Environ() {
		name, value, _ := strings.Cut(variable, "=")
		if strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, value) // puts it back after the test
			os.Unsetenv(name)
		}
	}
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "config"))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(t.TempDir(), "credentials"))
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
}
