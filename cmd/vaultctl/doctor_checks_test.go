package main

import (
	"strings"
	"testing"

	"github.com/hyperiondb/vault/internal/db"
)

func TestDoctorOnNodeNames(t *testing.T) {
	standby := func(name string) *db.Examination { return &db.Examination{Name: name, Recovering: true} }
	primary := func(name string) *db.Examination { return &db.Examination{Name: name} }
	for name, c := range map[string]struct {
		node, primary *db.Examination
		result, want  string
	}{
		"named":           {standby("db2"), primary("db1"), resultOK, `"db2"`},
		"no name":         {standby(""), primary("db1"), resultWarning, "the node has none"},
		"both the same":   {standby("15/main"), primary("15/main"), resultWarning, `both called "15/main"`},
		"the primary":     {primary("db1"), primary("db1"), resultOK, `"db1"`},
		"no primary":      {standby("db2"), nil, resultOK, `"db2"`},
		"the node is off": {nil, primary("db1"), "", ""},
	} {
		got := checkNodeName(t.Context(), &probe{node: c.node, primary: c.primary})
		if got.Result != c.result || !strings.Contains(got.Detail, c.want) {
			t.Errorf("%s: got %+v, want %s %q", name, got, c.result, c.want)
		}
		if got.Result == resultWarning && !strings.Contains(got.Hint, "cluster_name") {
			t.Errorf("%s: got hint %q", name, got.Hint)
		}
	}
}
