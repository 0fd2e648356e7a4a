package scripttest

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hyperiondb/vault/internal/vaulttest"
)

// Between two polls. Most conditions are met after a few; a poll of one that takes seconds costs more than it wins.
const (
	firstPause = 20 * time.Millisecond
	lastPause  = 100 * time.Millisecond
)

// until http STATUS METHOD URL ... [~ REGEXP] | until sql [standby] STATEMENT REGEXP | until kms OPERATION CALLS |
// until s3 OBJECTS | until file PATH REGEXP | until log NODE REGEXP | until credential SOCKET UNIT ID REGEXP: polls
// until the answer is as wanted: of http, its body or its headers. The last answer of http is on stdout and stderr, as
// with the command http, and the log of a daemon on stdout. In a log, ^ and $ are the ends of a line.
func (h *harness) cmdUntil(ts *testscript.TestScript, neg bool, args []string) {
	deadline := time.Now().Add(waitLimit)
	last, body, headers := "", "", ""
	var session repeated
	defer session.close()
	for pause := firstPause; ; pause = min(pause+pause/4, lastPause) {
		var ok bool
		switch {
		case len(args) >= 4 && args[0] == "http":
			call, want := args[2:], ""
			if n := len(call); n > 2 && call[n-2] == "~" {
				call, want = call[:n-2], call[n-1]
			}
			var status int
			status, body, headers = h.request(ts, call)
			last = fmt.Sprintf("%d %s", status, body)
			match := regexp.MustCompile(want).MatchString
			ok = strconv.Itoa(status) == args[1] && (match(body) || match(headers))
		case len(args) == 3 && args[0] == "sql":
			s := h.of(ts)
			out, err := session.query(s.store.URL(vaulttest.Superuser), args[1])
			last = fmt.Sprint(out, err)
			ok = err == nil && regexp.MustCompile(args[2]).MatchString(out)
		case len(args) == 4 && args[0] == "sql" && args[1] == "standby":
			out, err := session.query(h.of(ts).store.StandbyURL(vaulttest.Superuser), args[2])
			last = fmt.Sprint(out, err)
			ok = err == nil && regexp.MustCompile(args[3]).MatchString(out)
		case len(args) == 3 && args[0] == "file":
			content, err := os.ReadFile(ts.MkAbs(args[1]))
			last = fmt.Sprint(string(content), err)
			ok = err == nil && regexp.MustCompile(args[2]).Match(content)
		case len(args) == 3 && args[0] == "log":
			body = h.of(ts).daemons[args[1]].log()
			last = body
			ok = regexp.MustCompile("(?m)" + args[2]).MatchString(body)
		case len(args) == 3 && args[0] == "kms":
			n, err := strconv.Atoi(args[2])
			ts.Check(err)
			ok = h.of(ts).fake.Calls()[args[1]] >= n
		case len(args) == 5 && args[0] == "credential":
			last = "something else" // it can hold a value
			ok = regexp.MustCompile(args[4]).MatchString(readCredential(ts, args[1:4]))
		case len(args) == 2 && args[0] == "s3":
			n, err := strconv.Atoi(args[1])
			ts.Check(err)
			ok = len(h.of(ts).bucket.Keys()) >= n
		default:
			ts.Fatalf("usage: until http STATUS METHOD URL ... [~ REGEXP] | until sql STATEMENT REGEXP")
		}
		if ok {
			fmt.Fprint(ts.Stderr(), headers)
			fmt.Fprint(ts.Stdout(), body)
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("never became so: %s", last)
		}
		time.Sleep(pause)
	}
}
