package filter

import (
	"net/netip"
	"testing"
	"time"
)

func TestMatches(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	read := Subject{At: now.Add(-time.Hour), Secret: "app/db", Actor: "app:billing", Action: "read", Outcome: "ok",
		Client: netip.MustParseAddr("10.0.0.7"), Node: "db2@host", Request: "5e1c6f0a-0000-4000-8000-000000000000",
		Version: 3}
	none := Subject{At: now, Actor: "vaultd", Action: "audit.spool", Outcome: "ok"}
	for text, want := range map[string][2]bool{ // of read, of none
		"":                              {true, true},
		"app/":                          {true, false},
		"secret:app/d":                  {false, false},
		"secret:app/db":                 {true, false},
		"secret:*":                      {true, false}, // a prefix of nothing is any secret, and none is not a secret
		"-app/":                         {false, true},
		"secret:app/x secret:app/db":    {true, false},
		"-secret:app/x -secret:app/db":  {false, true},
		"actor:billing":                 {true, false},
		"actor:app:billing":             {true, false},
		"actor:token:billing":           {false, false},
		"actor:bill*":                   {true, false},
		"-actor:billing":                {false, true},
		"actor:vaultd":                  {false, true},
		"action:read action:verify":     {true, false},
		"action:audit.*":                {false, true},
		"outcome:denied outcome:failed": {false, false},
		"-outcome:denied":               {true, true},
		"ip:10.0.0.0/8":                 {true, false},
		"ip:10.0.0.7":                   {true, false},
		"ip:10.0.0.8":                   {false, false},
		"ip:2001:db8::/32":              {false, false},
		"-ip:10.0.0.0/8":                {false, true},
		"node:db2*":                     {true, false},
		"node:db2":                      {true, false},
		"node:db":                       {false, false},
		"node:host":                     {false, false},
		"-node:db2":                     {false, true},
		"version:3":                     {true, false},
		"-version:3":                    {false, true},
		"request:5e1c6f0a-0000-4000-8000-000000000000": {true, false},
		"since:-1h":  {true, true}, // the border belongs to it
		"since:-59m": {false, true},
		"until:-1h":  {false, false}, // and here it does not
		"app/ actor:billing since:-2h -version:4": {true, false},
		"app/ actor:other":                        {false, false},
	} {
		f, err := Parse(text, now)
		if err != nil {
			t.Fatal(err)
		}
		if got := [2]bool{f.Matches(read), f.Matches(none)}; got != want {
			t.Errorf("%q: got %v, want %v", text, got, want)
		}
	}
}
