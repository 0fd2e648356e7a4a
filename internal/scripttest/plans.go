package scripttest

import (
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hyperiondb/vault/internal/vaulttest"
)

var planLine = regexp.MustCompile(`(?m)^\S+ \S+ \S+ \[\d+\] (\S+)@(\S+) LOG: .* plan:$`)

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
		for _, at := range planLine.FindAllSubmatchIndex(text, -1) {
			role, database := string(text[at[2]:at[3]]), string(text[at[4]:at[5]])
			if database != s.store.Database || role != vaulttest.Operator && role != vaulttest.Daemon {
				continue
			}
			end := at[1] + 1
			for end < len(text) && text[end] == '\t' { // lines that go on with the message
				next := strings.IndexByte(string(text[end:]), '\n')
				if next < 0 {
					break
				}
				end += next + 1
			}
			found = append(found, string(text[at[0]:end]))
		}
	}
	return found
}
