package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/hyperiondb/vault/internal/lazyregexp"
)

const drillMetric = "vaultctl_restore_drill_"

var lastSuccess = lazyregexp.New(`(?m)^` + drillMetric + `last_success_timestamp_seconds (\d+)$`)

// writeMetrics replaces the file. The time of the last success is taken over from it if this drill has failed, so that
// an alarm can be set on its age. The file has mode 0644: another user's collector reads it, and it names no secret.
func (r *drilling) writeMetrics(path string, success bool, now time.Time) error {
	previous, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading %q: %w", path, reason(err))
	}
	var last string
	if match := lastSuccess().FindSubmatch(previous); match != nil {
		last = string(match[1])
	}
	if success {
		last = fmt.Sprint(now.Unix())
	}
	text := r.metrics(success, last, now)
	if err := writeWhole(path, true, func(w io.Writer) error {
		_, err := io.WriteString(w, text)
		return err
	}); err != nil {
		return err
	}
	if err := os.Chmod(path, 0o644); err != nil {
		return fmt.Errorf("%q: %w", path, reason(err))
	}
	return nil
}

func (r *drilling) metrics(success bool, last string, now time.Time) string {
	var b strings.Builder
	gauge := func(name, help string, samples ...string) {
		fmt.Fprintf(&b, "# HELP %s%s %s\n# TYPE %s%s gauge\n", drillMetric, name, help, drillMetric, name)
		for _, s := range samples {
			fmt.Fprintf(&b, "%s%s%s\n", drillMetric, name, s)
		}
	}
	ok := 0
	if success {
		ok = 1
	}
	gauge("success", "1 if the last restore drill found no problem.", fmt.Sprintf(" %d", ok))
	gauge("last_run_timestamp_seconds", "When the last restore drill ended.", fmt.Sprintf(" %d", now.Unix()))
	if last != "" {
		gauge("last_success_timestamp_seconds", "When a restore drill last found no problem.", " "+last)
	}
	gauge("versions", "Versions of the last restore drill.", fmt.Sprintf(`{result="opened"} %d`, r.Opened),
		fmt.Sprintf(`{result="failed"} %d`, r.Failed), fmt.Sprintf(`{result="not_tried"} %d`, r.NotTried))
	if r.NewestAt != nil {
		gauge("newest_version_timestamp_seconds", "When the newest version that the drill saw was made.",
			fmt.Sprintf(" %d", r.NewestAt.Unix()))
	}
	return b.String()
}
