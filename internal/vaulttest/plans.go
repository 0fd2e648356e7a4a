package vaulttest

import (
	"regexp"
	"strconv"
	"strings"
)

// disabledCost is what PostgreSQL 15 to 17 add to the cost of a plan for each node that a planner switch forbids and
// that nothing can replace. Such a plan costs more than jit_above_cost, however little it does.
const disabledCost = 1e10

var planCost = regexp.MustCompile(`cost=[0-9.]+\.\.([0-9]+(?:\.[0-9]+)?)`)

// BadPlan says what is wrong with a plan that auto_explain logged: it was compiled, or it has a node that a planner
// switch forbids. "": nothing.
func BadPlan(plan string) string {
	if strings.Contains(plan, "JIT:") {
		return "it was compiled"
	}
	for _, m := range planCost.FindAllStringSubmatch(plan, -1) {
		if cost, err := strconv.ParseFloat(m[1], 64); err != nil || cost >= disabledCost {
			return "it has a node that is forbidden, of cost " + m[1]
		}
	}
	return ""
}
