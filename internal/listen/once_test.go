package listen

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// once serves answer on a socket until the test ends.
func once(t *testing.T, answer func(context.Context, Peer, io.Writer)) (*OneAnswer, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "socket")
	listeners, err := Open("unix:"+path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	s := NewOneAnswer(listeners[0], answer)
	served := make(chan struct{})
	go func() { s.Serve(); close(served) }()
	t.Cleanup(func() {
		_ = s.Shutdown(context.Background()) // it has no end
		<-served
	})
	return s, path
}

func readOnce(path, name string) (string, error) {
	var from *net.UnixAddr
	if name != "" {
		from = &net.UnixAddr{Name: name}
	}
	c, err := net.DialUnix("unix", from, &net.UnixAddr{Name: path})
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return "", err
	}
	text, err := io.ReadAll(c)
	return string(text), err
}

func TestOneAnswerKnowsWhoAsks(t *testing.T) {
	_, path := once(t, func(_ context.Context, p Peer, to io.Writer) {
		fmt.Fprintf(to, "%d %t %s", p.UID, p.Local, p.Name)
	})
	name := fmt.Sprintf("@%d/unit/billing.service/db", os.Getpid())
	if got, err := readOnce(path, name); err != nil || got != fmt.Sprintf("%d true %s", os.Getuid(), name) {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := readOnce(path, ""); err != nil || got != fmt.Sprintf("%d true ", os.Getuid()) {
		t.Errorf("got %q, %v of a socket without a name", got, err)
	}
}

func TestOneAnswerToMoreThanAtOnce(t *testing.T) {
	_, path := once(t, func(_ context.Context, _ Peer, to io.Writer) { fmt.Fprint(to, "x") })
	var all sync.WaitGroup
	for range 2 * MaxOnce {
		all.Go(func() {
			if got, err := readOnce(path, ""); err != nil || got != "x" {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	all.Wait()
}

// An answer under way is finished, and cancelled when the time is over; nothing is answered after that.
func TestOneAnswerShutsDown(t *testing.T) {
	for _, cut := range []bool{false, true} {
		began, finish := make(chan struct{}), make(chan struct{})
		s, path := once(t, func(ctx context.Context, _ Peer, to io.Writer) {
			close(began)
			select {
			case <-finish:
				fmt.Fprint(to, "whole")
			case <-ctx.Done():
			}
		})
		got := make(chan string, 1)
		go func() {
			text, _ := readOnce(path, "") // an error is no text
			got <- text
		}()
		<-began
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Shutdown(ctx) }()
		want := "whole"
		if cut {
			cancel()
			want = ""
		} else {
			close(finish)
		}
		if err := <-ended; (err != nil) != cut {
			t.Errorf("cut %t: got error %v", cut, err)
		}
		cancel()
		if text := <-got; text != want {
			t.Errorf("cut %t: got %q, want %q", cut, text, want)
		}
		if _, err := readOnce(path, ""); err == nil {
			t.Error("a socket that is closed takes a connection")
		}
		if _, err := os.Stat(path); err == nil {
			t.Error("the socket's file stays")
		}
	}
}
