package watched

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "../.."

func mustRead(t *testing.T) Files {
	t.Helper()
	f, err := Read(module)
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Alerts) < 30 || len(f.Panels) < 30 {
		t.Fatalf("got %d alerts and %d panels: the files are not read whole", len(f.Alerts), len(f.Panels))
	}
	return f
}

// The word is a heading's anchor on the pages of a repository.
var notInAnchor = regexp.MustCompile(`[^a-z0-9 _-]`)

// sections are the texts below the headings of a page, by anchor, each to the next heading of its level or above.
func sections(page string) map[string]string {
	all, open := map[string]string{}, map[string]int{}
	for line := range strings.Lines(page) {
		if marks, title, ok := strings.Cut(strings.TrimSpace(line), " "); ok && marks != "" &&
			strings.Trim(marks, "#") == "" {
			for anchor, level := range open {
				if level >= len(marks) {
					delete(open, anchor)
				}
			}
			anchor := strings.ReplaceAll(notInAnchor.ReplaceAllString(strings.ToLower(title), ""), " ", "-")
			open[anchor], all[anchor] = len(marks), ""
		}
		for anchor := range open {
			all[anchor] += line
		}
	}
	return all
}

// Each alert leads to a section of OPERATIONS.md that names it.
func TestEachAlertHasARunbook(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(module, "docs", "OPERATIONS.md"))
	if err != nil {
		t.Fatal(err)
	}
	runbooks := sections(string(text))
	named := map[string]bool{}
	for _, a := range mustRead(t).Alerts {
		page, anchor, _ := strings.Cut(a.Runbook, "#")
		section, ok := runbooks[anchor]
		switch {
		case !strings.HasSuffix(page, "/docs/OPERATIONS.md") || !ok:
			t.Errorf("alert %s: its runbook %q is no section of OPERATIONS.md", a.Name, a.Runbook)
		case !strings.Contains(section, "`"+a.Name+"`"):
			t.Errorf("alert %s: the section %q does not name it", a.Name, anchor)
		case a.Expr == "" || named[a.Name]:
			t.Errorf("alert %s has no expression on its line, or another alert has its name", a.Name)
		}
		named[a.Name] = true
	}
	for _, name := range regexp.MustCompile("`(Vault[A-Z][A-Za-z]+)`").FindAllStringSubmatch(string(text), -1) {
		if !named[name[1]] {
			t.Errorf("OPERATIONS.md names the alert %s, which alerts.yaml does not have", name[1])
		}
	}
}

func TestPanelsHaveTheirOwnPlace(t *testing.T) {
	var ids []int
	for _, p := range mustRead(t).Panels {
		if slices.Contains(ids, p.ID) || p.Title == "" {
			t.Errorf("panel %d %q: another has its id, or it has no title", p.ID, p.Title)
		}
		ids = append(ids, p.ID)
	}
}

// promtool runs Prometheus' own checks.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.Command("promtool", args...).CombinedOutput()
	if err != nil {
		t.Errorf("promtool %s: %v\n%s\nhint: tools/install-promtool installs it", strings.Join(args, " "), err, out)
	}
}

func TestPrometheusTakesTheRules(t *testing.T) {
	promtool(t, "check", "rules", "--lint=all", "--lint-fatal", filepath.Join(module, "deploy", "alerts.yaml"))
}

// testdata/alerts.yaml has samples, and the alerts that they raise.
func TestAlertsFire(t *testing.T) {
	promtool(t, "test", "rules", "testdata/alerts.yaml")
}

// A dashboard's expression is checked as a rule, with Grafana's variables replaced.
func TestPrometheusTakesTheDashboard(t *testing.T) {
	replace := strings.NewReplacer("$__rate_interval", "5m", "$job", "vaultd", "$instance", ".*")
	rules := "groups:\n- name: dashboard\n  rules:\n"
	n := 0
	for where, expr := range mustRead(t).Exprs() {
		if strings.HasPrefix(where, "panel") {
			n++
			rules += fmt.Sprintf("  - record: panel:%d\n    expr: '%s'\n", n, replace.Replace(expr))
		}
	}
	path := filepath.Join(t.TempDir(), "dashboard.yaml")
	if err := os.WriteFile(path, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "rules", path)
}

func TestMissing(t *testing.T) {
	const lacks = "alert X: no page has the metric "
	page := "# HELP vaultd_a x\nvaultd_a{state=\"on\",route=\"GET /x/{name}\"} 1\nvaultd_b 2\n"
	for expr, want := range map[string]string{
		`sum by (job) (rate(vaultd_a{job="$job",state="on"}[5m])) > 0`: "",
		`vaultd_a{route="GET /x/{name}"} and vaultd_b`:                 "",
		`vaultd_a{state=~"on|off"}`:                                    "",
		`vaultd_c > 0`:                                                 lacks + `"vaultd_c"`,
		`vaultd_b / valutd_b`:                                          `alert X: "valutd_b" is no metric of a vault`,
		`vaultd_a{state="of"}`:                                         lacks + `"vaultd_a" with the label state="of"`,
		`vaultd_b{state="on"}`:                                         lacks + `"vaultd_b" with the label state="on"`,
	} {
		got := strings.Join(Files{Alerts: []Alert{{Name: "X", Expr: expr}}}.Missing(page), "; ")
		if got != want {
			t.Errorf("%s: got %q, want %q", expr, got, want)
		}
	}
}
