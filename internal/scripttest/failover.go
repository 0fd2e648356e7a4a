package scripttest

import (
	"fmt"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hyperiondb/vault/internal/localpg"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// node freeze|thaw NODE | node hosts NODE NODE ...: a server that takes connections and answers nothing; $HOSTS_URL
// names several nodes in this order.
func (h *harness) cmdNode(ts *testscript.TestScript, neg bool, args []string) {
	s := h.of(ts)
	if len(args) < 2 || s.store.Cluster == h.program.Shared {
		ts.Fatalf("usage: node freeze|thaw NODE | hosts NODE NODE ..., after: vault own")
	}
	switch args[0] {
	case "freeze":
		node := s.node(ts, args[1])
		ts.Check(node.Freeze())
		s.cleanup = append(s.cleanup, func() { _ = node.Thaw() }) // before the cluster goes
	case "thaw":
		ts.Check(s.node(ts, args[1]).Thaw())
	case "hosts":
		var hosts, ports []string
		for _, name := range args[1:] {
			node := s.node(ts, name)
			hosts, ports = append(hosts, node.SocketDir()), append(ports, fmt.Sprint(node.Port()))
		}
		ts.Setenv("HOSTS_URL", fmt.Sprintf("host=%s port=%s user=%s dbname=%s",
			strings.Join(hosts, ","), strings.Join(ports, ","), vaulttest.Operator, s.store.Database))
	default:
		ts.Fatalf("node: unknown %q", args[0])
	}
}

func (s *session) node(ts *testscript.TestScript, name string) *localpg.Node {
	for _, n := range s.store.Cluster.Nodes() {
		if n.Name() == name {
			return n
		}
	}
	ts.Fatalf("no node %q", name)
	return nil
}
