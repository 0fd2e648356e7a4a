package main

import (
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// notifications is the socket on which systemd is told of states.
func notifications(t *testing.T) *net.UnixConn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return c
}

func told(t *testing.T, c *net.UnixConn) string {
	t.Helper()
	var message [4096]byte
	if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	n, err := c.Read(message[:])
	if err != nil {
		t.Fatal(err)
	}
	return string(message[:n])
}

func TestSystemdIsToldEachState(t *testing.T) {
	c := notifications(t)
	d := startDaemon(t, open)
	if got := told(t, c); got != "READY=1" {
		t.Errorf("got %q first, want READY=1", got)
	}
	d.hup(t)
	if got := told(t, c); !strings.HasPrefix(got, "RELOADING=1\nMONOTONIC_USEC=") {
		t.Errorf("got %q, want a reload with its time", got)
	}
	if got := told(t, c); got != "READY=1" {
		t.Errorf("got %q after the reload, want READY=1", got)
	}
	d.stop()
	if got := told(t, c); got != "STOPPING=1" {
		t.Errorf("got %q, want STOPPING=1", got)
	}
	if code := d.end(t); code != exitDone {
		t.Errorf("got exit code %d, want %d", code, exitDone)
	}
}

func TestANotifySocketThatIsGoneDoesNotEndTheDaemon(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "gone"))
	d := startDaemon(t, open)
	d.stop()
	if code := d.end(t); code != exitDone {
		t.Errorf("got exit code %d, want %d", code, exitDone)
	}
	if !strings.Contains(d.log.String(), "systemd cannot be told") {
		t.Errorf("the log does not say so: %s", d.log)
	}
}

// get asks one of the daemon's listeners.
func (d *daemon) get(t *testing.T, listener, path string) *http.Response {
	t.Helper()
	response, err := d.client.Get(d.urls[listener] + path)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	return response
}

func TestADaemonThatDrainsIsNotReadyAndAnswers(t *testing.T) {
	d := startDaemon(t, open+`drain_delay = "10s"`)
	if got := d.get(t, "VAULTD_URL", "/v1/secrets/a"); got.Close {
		t.Error("a daemon that does not stop ends a connection")
	}
	d.stop()
	until(t, "the daemon is not ready", func() bool {
		return strings.Contains(health(t, d, "/readyz"), `"stopping":"the daemon is about to stop"`)
	})
	for path, want := range map[string]int{"/v1/secrets/a": http.StatusServiceUnavailable, "/nowhere": 400} {
		got := d.get(t, "VAULTD_URL", path)
		if got.StatusCode != want || !got.Close {
			t.Errorf("%s: got status %d, closed %t, want %d and the connection ended", path, got.StatusCode, got.Close, want)
		}
	}
	if code := d.end(t); code != exitDone {
		t.Errorf("got exit code %d, want %d", code, exitDone)
	}
}
