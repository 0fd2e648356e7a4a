package scripttest

import (
	"bytes"
	"os"
	"regexp"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hyperiondb/vault/internal/vaulttest"
)

var planLine = regexp.MustCompile(`^\S+ \S+ \S+ \[\d+\] \S+ LOG: .* plan:\n$`)

// plans log ROLE...: every later session of these roles in the vault's database logs its plans, and would compile each.
// plans check AT-LEAST: fails if one was compiled, if one has the cost of a forbidden node, or if there are fewer.
func (h *harness) cmdPlans(ts *testscript.TestScript, neg bool, args []string) {
	s := h.of(ts)
	switch {
	case len(args) > 1 && args[0] == "log":
		var statements []string
		for _, role := range args[1:] {
			for _, setting := range []string{`session_preload_libraries = 'auto_explain'`, `auto_explain.log_min_duration = 0`,
				`auto_explain.log_nested_statements = on`, `jit = on`, `jit_above_cost = 0`} {
				statements = append(statements, `LOAD 'auto_explain'; ALTER ROLE `+pgx.Identifier{role}.Sanitize()+
					` IN DATABASE `+pgx.Identifier{s.store.Database}.Sanitize()+` SET `+setting)
			}
			s.cleanup = append(s.cleanup, func() {
				_ = s.inPostgres([]string{`ALTER ROLE ` + pgx.Identifier{role}.Sanitize() + ` IN DATABASE ` +
					pgx.Identifier{s.store.Database}.Sanitize() + ` RESET ALL`})
			})
		}
		ts.Check(s.inPostgres(statements))
	case len(args) == 2 && args[0] == "check":
		least, err := strconv.Atoi(args[1])
		ts.Check(err)
		plans := s.plans(ts)
		for _, plan := range plans {
			if why := vaulttest.BadPlan(plan); why != "" {
				ts.Fatalf("plans: %s:\n%s", why, plan)
			}
		}
		if len(plans) < least {
			ts.Fatalf("plans: got %d, want %d or more", len(plans), least)
		}
	default:
		ts.Fatalf("usage: plans log ROLE... | plans check AT-LEAST")
	}
}

// plans are those that the vault's roles have logged in the vault's database, on all nodes.
func (s *session) plans(ts *testscript.TestScript) (found []string) {
	for _, node := range s.store.Cluster.Nodes() {
		text, err := os.ReadFile(node.LogFile())
		ts.Check(err)
		for _, role := range []string{vaulttest.Operator, vaulttest.Daemon} {
			found = append(found, plansOf(text, role+"@"+s.store.Database)...)
		}
	}
	return found
}

// plansOf are the plans that a session of "role@database" has logged. The log of a shared cluster has a million lines,
// so only those that name the session are matched.
func plansOf(text []byte, session string) (found []string) {
	for mark := []byte("] " + session + " LOG: "); ; {
		at := bytes.Index(text, mark)
		if at < 0 {
			return found
		}
		at = bytes.LastIndexByte(text[:at], '\n') + 1
		end := at + lineLength(text[at:])
		plan := planLine.Match(text[at:end])
		for end < len(text) && text[end] == '\t' { // lines that go on with the message
			end += lineLength(text[end:])
		}
		if plan {
			found = append(found, string(text[at:end]))
		}
		text = text[end:]
	}
}

// lineLength is the length of the first line, with its end.
func lineLength(text []byte) int {
	if n := bytes.IndexByte(text, '\n'); n >= 0 {
		return n + 1
	}
	return len(text)
}
