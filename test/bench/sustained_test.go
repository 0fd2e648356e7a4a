package main

import (
	"context"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// A short run of two subjects ends in the table and the file: reads were answered in both parts, and their records are
// on the primary in fewer rows.
func TestSustainedFromEndToEnd(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sustained.json")
	var out, progress strings.Builder
	err := run(t.Context(), []string{"sustained", "-for", "1800ms", "-only", "^1,000", "-json", file}, &out, &progress)
	if err != nil {
		t.Fatalf("%v\n%s", err, &progress)
	}
	var got sustainedReport
	mustReadJSON(t, file, &got)
	if len(got.Rows) != 2 || !strings.Contains(out.String(), "1,000 names, 50 clients") {
		t.Fatalf("got %+v and\n%s", got, &out)
	}
	for _, r := range got.Rows {
		if r.Burst.PerSecond <= 0 || r.Rest.PerSecond <= 0 || r.Burst.cpu() <= 0 || r.ByRate <= 0 || r.ByCPU <= 0 ||
			r.Peak <= 0 || r.WAL <= 0 {
			t.Errorf("got %+v", r)
		}
		if r.Rows <= 0 || r.Rows >= 1e6 {
			t.Errorf("%s: %.0f rows for a million reads, want fewer than reads", r.Subject, r.Rows)
		}
	}
}

// The table has the cost of shipping, which is what a node cannot use for reads when they last.
func TestSustainedTable(t *testing.T) {
	var out, progress strings.Builder
	err := run(t.Context(), []string{"sustained", "-table", "-for", "1s", "-only", `"0s", 100 `, "-json", ""}, &out,
		&progress)
	if err != nil {
		t.Fatalf("%v\n%s", err, &progress)
	}
	if !strings.Contains(out.String(), `audit_window = "0s", 100 names`) ||
		!strings.Contains(out.String(), "shipping CPU") {
		t.Errorf("got\n%s", &out)
	}
}

// Every read in turn is of another name.
func TestReadsInTurn(t *testing.T) {
	next := sustained{names: 3, inTurn: true}.exchangesOf()
	var asked []string
	for range 4 {
		asked = append(asked, strings.Fields(string(next().request))[1])
	}
	if asked[0] == asked[1] || asked[1] == asked[2] || asked[0] == asked[2] || asked[3] != asked[0] {
		t.Errorf("got %q, want three names and the first again", asked)
	}
}

// The connections come from as many addresses as are wanted.
func TestDriveFromManyAddresses(t *testing.T) {
	var mu sync.Mutex
	from := map[string]bool{}
	address, _ := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		mu.Lock()
		from[host] = true
		mu.Unlock()
		echo(w, r)
	})
	slice, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := drive(t.Context(), slice, address, 8, 3, random(asking("a"))); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(from) != 3 {
		t.Errorf("got requests from %v, want three addresses", from)
	}
}
