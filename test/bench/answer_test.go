package main

import (
	"strings"
	"testing"
)

func TestCheckOfAnAnswer(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5\r\n\r\n"
	want := exchange{body: []byte("value")}
	// Every prefix of a right answer is incomplete, and no error.
	for n := range len(head + "value") {
		if whole, err := want.check([]byte((head + "value")[:n])); whole || err != nil {
			t.Fatalf("the first %d bytes: got %v, %v", n, whole, err)
		}
	}
	for answer, refusal := range map[string]string{
		head + "value": "",
		strings.ReplaceAll(head, "Content-Length", "content-length") + "value":   "",
		strings.ReplaceAll(head, "Type: a", "Length-of-it: 9\r\nX: a") + "value": "",
		head + "Value":               "the answer is another",
		head + "value!":              "1 bytes follow",
		"HTTP/1.1 404 Not Found\r\n": `got "HTTP/1.1 404 Not Found", want status 200`,
		"HTTP/1.0 200 OK\r\n":        `got "HTTP/1.0 200 OK", want status 200`,
		"HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nvalue":      "Content-Length",
		"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nvalue":        "Content-Length",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n":     "without Content-Length",
		"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nvalues":        "an answer of 6 bytes, want 5",
		"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", longestHead): "a head of more than",
	} {
		whole, err := want.check([]byte(answer))
		switch {
		case refusal == "" && (!whole || err != nil):
			t.Errorf("%q: got %v, %v", answer, whole, err)
		case refusal != "" && (err == nil || !strings.Contains(err.Error(), refusal)):
			t.Errorf("%.80q: got %v, want %q", answer, err, refusal)
		case err != nil && strings.Contains(err.Error(), "Value"):
			t.Errorf("%.80q: the error shows the value", answer)
		}
	}
}
