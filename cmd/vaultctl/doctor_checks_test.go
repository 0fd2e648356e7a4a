package main

import (
	"strings"
	"testing"
	"time"

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

// A standby that is behind by more than status allows has a problem of replay, and its supervisor is not blamed for it.
func TestDoctorOnLag(t *testing.T) {
	now := time.Now()
	at := func(age time.Duration, standby bool) *db.Examination {
		beat := now.Add(-age)
		return &db.Examination{Recovering: standby, BeatAt: &beat, BeatAge: age}
	}
	const ok, late, lateToo, minutes = 2 * time.Second, 31 * time.Second, 45 * time.Second, 137 * time.Second
	for name, c := range map[string]struct {
		node, primary     *db.Examination
		replay, heartbeat string
		detail            string // of replay
	}{
		"alone, keeps up":        {at(ok, true), nil, resultOK, resultOK, "is 2s old"},
		"alone, behind":          {at(late, true), nil, resultProblem, "", "is 31s old"},
		"alone, for minutes":     {at(minutes, true), nil, resultProblem, "", "is 2m17s old"},
		"keeps up":               {at(ok, true), at(ok, false), resultOK, resultOK, "keeps up"},
		"behind":                 {at(lateToo, true), at(ok, false), resultProblem, resultOK, "43s behind"},
		"behind for minutes":     {at(minutes, true), at(ok, false), resultProblem, resultOK, "2m15s behind"},
		"no supervisor lately":   {at(lateToo, true), at(lateToo, false), resultProblem, resultOK, "own last heartbeat"},
		"no supervisor for long": {at(minutes, true), at(minutes, false), resultProblem, resultWarning, "own last heartbeat"},
		"the primary":            {at(minutes, false), at(minutes, false), "", resultWarning, ""},
		"never":                  {&db.Examination{Recovering: true}, nil, "", resultWarning, ""},
	} {
		p := &probe{node: c.node, primary: c.primary}
		replay, heartbeat := checkReplay(t.Context(), p), checkHeartbeat(t.Context(), p)
		if replay.Result != c.replay || !strings.Contains(replay.Detail, c.detail) || heartbeat.Result != c.heartbeat {
			t.Errorf("%s: got replay %+v and heartbeat %+v, want %q (%s) and %q", name, replay, heartbeat, c.replay, c.detail,
				c.heartbeat)
		}
	}
}
