package main

import (
	"fmt"
	"strings"

	"github.com/hyperiondb/vault/internal/db"
)

// durabilityLine describes the replication of acknowledged writes; "" on a standby, which does not know it.
func durabilityLine(s db.Status) string {
	d := s.Durability
	if d == nil {
		return ""
	}
	line := d.Replication
	if len(d.Synchronous) > 0 {
		line += fmt.Sprintf(": %s", strings.Join(d.Synchronous, ", "))
	}
	if d.Needed > 1 {
		line += fmt.Sprintf(" (a write waits for %d)", d.Needed)
	}
	return line
}

// durabilityProblem says why writes are not acknowledged; "" if they are.
func durabilityProblem(s db.Status) string {
	if d := s.Durability; d != nil && d.Replication == "blocked" {
		return fmt.Sprintf("durability: writes wait for %s, and %d connected",
			plural(d.Needed, "synchronous standby", "synchronous standbys"), len(d.Synchronous))
	}
	return ""
}

// durabilityWarnings lists the ways in which an acknowledged write could be lost.
func durabilityWarnings(s db.Status) []string {
	d := s.Durability
	if d == nil {
		return nil
	}
	var all []string
	switch {
	case s.Standbys != nil && *s.Standbys == 0 && d.Replication == "asynchronous":
		all = append(all, "no standby is connected: with this node, everything is lost")
	case d.Replication == "asynchronous":
		all = append(all, "replication is asynchronous: a failover can lose acknowledged writes")
	case d.Replication == "unknown":
		all = append(all,
			"whether a synchronous standby is connected cannot be seen: GRANT pg_read_all_stats TO vault_owner")
	}
	for _, setting := range d.WeakenedBy {
		all = append(all, setting+": a crash of the machine can lose acknowledged writes, or the cluster")
	}
	return all
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
