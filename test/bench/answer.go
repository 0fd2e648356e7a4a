package main

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// longestHead is more than any server here answers.
const longestHead = 16 << 10

var (
	statusOK    = []byte("HTTP/1.1 200 ")
	endOfHead   = []byte("\r\n\r\n")
	lengthField = []byte("\r\ncontent-length:")
)

// check reports whether the answer received so far is complete, and fails unless it has status 200, the length that it
// announces, and the expected body.
func (e *exchange) check(got []byte) (whole bool, err error) {
	if n := min(len(got), len(statusOK)); !bytes.Equal(got[:n], statusOK[:n]) {
		line, _, _ := bytes.Cut(got, []byte("\r\n"))
		return false, fmt.Errorf("got %q, want status 200", line[:min(len(line), 80)])
	}
	end := bytes.Index(got, endOfHead)
	if end < 0 {
		if len(got) > longestHead {
			return false, fmt.Errorf("a head of more than %d bytes", longestHead)
		}
		return false, nil
	}
	length, err := contentLength(got[:end])
	if err != nil {
		return false, err
	}
	body := got[end+len(endOfHead):]
	switch {
	case len(body) < length:
		return false, nil
	case len(body) > length:
		return false, fmt.Errorf("%d bytes follow an answer of %d", len(body)-length, length)
	case e.body != nil && len(e.body) != length:
		return false, fmt.Errorf("an answer of %d bytes, want %d", length, len(e.body))
	case e.body != nil && !bytes.Equal(e.body, body), !bytes.Contains(body, e.part):
		return false, errors.New("the answer is another than the one to this request") // not shown: it holds a value
	}
	return true, nil
}

func contentLength(head []byte) (int, error) {
	for at := 0; ; {
		next := bytes.IndexByte(head[at:], '\n')
		if next < 0 {
			return 0, errors.New("an answer without Content-Length")
		}
		at += next - 1 // at the \r
		if line := head[at:]; len(line) > len(lengthField) && bytes.EqualFold(line[:len(lengthField)], lengthField) {
			line, _, _ = bytes.Cut(line[len(lengthField):], []byte("\r"))
			n, err := strconv.Atoi(string(bytes.TrimSpace(line)))
			if err != nil || n < 0 {
				return 0, fmt.Errorf("Content-Length %q", line)
			}
			return n, nil
		}
		at += 2
	}
}
