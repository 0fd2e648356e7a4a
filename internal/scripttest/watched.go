package scripttest

import (
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hyperiondb/vault/internal/watched"
)

// watched FILE...: fails if deploy/alerts.yaml or deploy/grafana.json names a metric, or a label of one, that none of
// these pages of metrics has.
func (h *harness) cmdWatched(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: watched FILE...")
	}
	var pages []string
	for _, file := range args {
		pages = append(pages, ts.ReadFile(file))
	}
	files, err := watched.Read(h.module)
	ts.Check(err)
	if missing := files.Missing(pages...); len(missing) > 0 {
		ts.Fatalf("watched, and in none of these pages:\n%s", strings.Join(missing, "\n"))
	}
}
