// Package watched reads deploy/alerts.yaml and deploy/grafana.json, so that tests can hold them against the metrics of
// running daemons and against the runbooks of docs/OPERATIONS.md. Only tests import it.
package watched

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Alert is one of deploy/alerts.yaml.
type Alert struct {
	Name, Expr, Runbook string
}

// Files are what Prometheus and Grafana load.
type Files struct {
	Alerts []Alert
	Panels []Panel
}

// Panel of the dashboard. Its title is shown in errors.
type Panel struct {
	ID      int
	Title   string
	Targets []struct{ Expr string }
}

// Read reads both files of this module's folder. Rules have each of their fields on a line of its own, which is all
// that this reader understands of YAML.
func Read(module string) (f Files, err error) {
	rules, err := os.ReadFile(filepath.Join(module, "deploy", "alerts.yaml"))
	if err != nil {
		return f, err
	}
	for line := range strings.Lines(string(rules)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if key == "- alert" {
			f.Alerts = append(f.Alerts, Alert{Name: value})
		}
		if len(f.Alerts) == 0 {
			continue
		}
		switch last := &f.Alerts[len(f.Alerts)-1]; key {
		case "expr":
			last.Expr = value
		case "runbook_url":
			last.Runbook = value
		}
	}
	text, err := os.ReadFile(filepath.Join(module, "deploy", "grafana.json"))
	if err != nil {
		return f, err
	}
	var dashboard struct {
		Panels []Panel
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		return f, fmt.Errorf("grafana.json: %w", err)
	}
	f.Panels = dashboard.Panels
	return f, nil
}

// Exprs are all expressions, by what has them.
func (f Files) Exprs() map[string]string {
	all := map[string]string{}
	for _, a := range f.Alerts {
		all["alert "+a.Name] = a.Expr
	}
	for _, p := range f.Panels {
		for i, t := range p.Targets {
			all[fmt.Sprintf("panel %q, query %d", p.Title, i+1)] = t.Expr
		}
	}
	return all
}

var (
	// a metric of a vault and, after it, its matchers: their values may hold braces
	selector = regexp.MustCompile(`\b((?:vaultd|vaultctl|go|process)_[a-z0-9_]+)(\{(?:[^"{}]|"(?:[^"\\]|\\.)*")*\})?`)
	matcher  = regexp.MustCompile(`([a-z_]+)(=~|!~|!=|=)"((?:[^"\\]|\\.)*)"`)
	quoted   = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)
	grouping = regexp.MustCompile(`\b(?:by|on|without|ignoring) ?\([^)]*\)`)
	matchers = regexp.MustCompile(`\{[^}]*\}`)
	period   = regexp.MustCompile(`\[[^\]]*\]`)
	word     = regexp.MustCompile(`[A-Za-z_][A-Za-z0-9_]*`)
	sample   = regexp.MustCompile(`^([a-z][a-z0-9_]*)(?:\{(.*)\})? [^ ]+$`)
	label    = regexp.MustCompile(`([a-z_]+)="((?:[^"\\]|\\.)*)"`)
)

// language has the words of PromQL that the files use, and Prometheus' own metric of its targets.
var language = strings.Fields(`up time rate increase changes sum min max count topk bottomk absent and or
	unless histogram_quantile last_over_time`)

// open are labels whose values come from Prometheus or from requests: a page of metrics need not have all of them.
var open = []string{"job", "instance", "status", "le"}

// Missing names what the expressions ask for and no page of metrics has: a metric, a label or a label's value. Pages
// are in Prometheus' text format.
func (f Files) Missing(pages ...string) []string {
	known := series(pages)
	missing := map[string]bool{}
	for where, expr := range f.Exprs() {
		for _, s := range selector.FindAllStringSubmatch(expr, -1) {
			if why := known.lacks(s[1], s[2]); why != "" {
				missing[where+": "+why] = true
			}
		}
		rest := selector.ReplaceAllString(expr, "")
		for _, drop := range []*regexp.Regexp{quoted, grouping, matchers, period} {
			rest = drop.ReplaceAllString(rest, "")
		}
		for _, w := range word.FindAllString(rest, -1) {
			if !slices.Contains(language, w) {
				missing[fmt.Sprintf("%s: %q is no metric of a vault", where, w)] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(missing))
}

// metrics are the labels of each series, by the metric's name.
type metrics map[string][]map[string]string

func series(pages []string) metrics {
	known := metrics{}
	for _, page := range pages {
		for line := range strings.Lines(page) {
			m := sample.FindStringSubmatch(strings.TrimSpace(line))
			if m == nil {
				continue
			}
			labels := map[string]string{}
			for _, l := range label.FindAllStringSubmatch(m[2], -1) {
				labels[l[1]] = l[2]
			}
			known[m[1]] = append(known[m[1]], labels)
		}
	}
	return known
}

func (k metrics) lacks(name, matchers string) string {
	if len(k[name]) == 0 {
		return fmt.Sprintf("no page has the metric %q", name)
	}
	for _, m := range matcher.FindAllStringSubmatch(matchers, -1) {
		label, operator, value := m[1], m[2], m[3]
		if slices.Contains([]string{"job", "instance"}, label) {
			continue
		}
		found := slices.ContainsFunc(k[name], func(labels map[string]string) bool {
			have, ok := labels[label]
			switch {
			case !ok || slices.Contains(open, label):
				return ok
			case operator == "=":
				return have == value
			case operator == "=~":
				matched, err := regexp.MatchString("^(?:"+value+")$", have)
				return err == nil && matched
			}
			return true
		})
		if !found {
			return fmt.Sprintf("no page has the metric %q with the label %s%s%q", name, label, operator, value)
		}
	}
	return ""
}
