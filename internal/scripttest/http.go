package scripttest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// http STATUS METHOD URL [-H 'Key: value'] [-d BODY | -d @FILE] [-unix SOCKET]: the answer's body on stdout, its
// headers on stderr.
func (h *harness) cmdHTTP(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: http STATUS METHOD URL [-H header] [-d body]")
	}
	status, body, headers := request(ts, args[1:])
	fmt.Fprint(ts.Stderr(), headers)
	fmt.Fprint(ts.Stdout(), body)
	if got := strconv.Itoa(status); got != args[0] {
		ts.Fatalf("status %s, want %s: %s", got, args[0], body)
	}
	if status >= 400 && (strings.Contains(body, canary) || strings.Contains(headers, canary)) {
		ts.Fatalf("the error shows the value")
	}
}

func request(ts *testscript.TestScript, args []string) (int, string, string) {
	method, url, rest := args[0], args[1], args[2:]
	var body []byte
	header := http.Header{}
	client := &http.Client{Timeout: waitLimit, CheckRedirect: func(*http.Request,
		[]*http.Request) error {
		return http.ErrUseLastResponse
	}}
	for ; len(rest) >= 2; rest = rest[2:] {
		switch rest[0] {
		case "-H":
			k, v, _ := strings.Cut(rest[1], ":")
			header.Add(k, strings.TrimSpace(v))
		case "-d":
			body = []byte(rest[1])
			if path, ok := strings.CutPrefix(rest[1], "@"); ok {
				body = []byte(ts.ReadFile(path))
			}
		case "-unix":
			path := ts.MkAbs(rest[1])
			client.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", path)
			}}
		default:
			ts.Fatalf("http: unknown %q", rest[0])
		}
	}
	if body != nil && header.Get("Content-Type") == "" {
		header.Set("Content-Type", "application/json")
	}
	r, err := http.NewRequest(method, url, bytes.NewReader(body))
	ts.Check(err)
	r.Header, r.Host = header, header.Get("Host") // "" = the host of the url
	response, err := client.Do(r)
	if err != nil {
		return 0, err.Error(), ""
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	ts.Check(err)
	var b strings.Builder
	_ = response.Header.Write(&b)
	return response.StatusCode, string(text), b.String()
}
