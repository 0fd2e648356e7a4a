package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vault"
)

const (
	skewWarning     = 2 * time.Second // short graces and claims are a few seconds
	skewProblem     = 4 * time.Minute // KMS refuses requests signed 5 minutes off
	tokenWarning    = 14 * 24 * time.Hour
	heartbeatLate   = time.Minute // a supervisor writes a heartbeat every 10 seconds by default
	replayLate      = 30 * time.Second
	standbyLate     = 256 << 20 // bytes
	claimStuckAfter = 10 * time.Minute
	purgeWarning    = 24 * time.Hour
	newestTested    = db.NewestServer
	oldestAllowed   = db.OldestServer
)

func checkNode(_ context.Context, p *probe) finding {
	if p.nodeErr != nil {
		return p.a.failure(p.nodeErr)
	}
	kind := "a primary"
	if p.node.Recovering {
		kind = "a standby"
	}
	return fine("%s, %s, as role %q", p.node.Host, kind, p.node.Role)
}

func checkPrimary(_ context.Context, p *probe) finding {
	switch {
	case p.primaryErr != nil && p.nodeErr != nil && messageOf(p.primaryErr) == messageOf(p.nodeErr):
		return finding{}
	case p.primaryErr != nil && p.node != nil && p.node.Recovering && p.node.Hosts == 1:
		return warning("name every node: --database-url 'postgres://db1,db2,db3/...'",
			"the only host that is named is a standby: reading works, changing does not")
	case p.primaryErr != nil:
		return p.a.failure(p.primaryErr)
	}
	return fine("%s", p.primary.Host)
}

func checkFence(ctx context.Context, p *probe) finding {
	var err error
	if p.node != nil {
		err = p.v.CheckFence(ctx)
	}
	switch {
	case errors.Is(err, vault.ErrFenced):
		return p.a.failure(fmt.Errorf("the node is %w", err))
	case err != nil:
		return p.notChecked(err)
	case p.a.fence.Path() == "":
		return warning("export XDG_STATE_HOME=FOLDER",
			"nothing is remembered of primaries: there is no home folder to keep it in")
	}
	if err := db.Unreachable(p.a.fence.Path()); err != nil {
		return warning("export XDG_STATE_HOME=FOLDER", "nothing is remembered of primaries: state file %q: %s",
			p.a.fence.Path(), reason(err))
	}
	if err := p.a.fence.Probe(); err != nil {
		return warning("mkdir -p "+shellPath(strings.TrimSuffix(p.a.stateFile(), "/primaries.json")),
			"nothing is remembered of primaries: %s", messageOf(err))
	}
	if p.node == nil {
		return finding{}
	}
	return fine("the node is in the newest history seen from here")
}

func checkStateFile(_ context.Context, p *probe) finding {
	path := p.a.fence.Path()
	info, err := os.Stat(path)
	switch {
	case path == "" || errors.Is(err, fs.ErrNotExist) || db.Unreachable(path) != nil: // checkFence reports it
		return finding{}
	case err != nil:
		return p.a.failure(fmt.Errorf("state file %q: %w", path, reason(err)))
	case info.Mode().Perm()&0o022 != 0:
		return problem("chmod 600 "+shellPath(path), "others can write %q (mode %04o)", path, info.Mode().Perm())
	}
	return fine("%s", path)
}

func checkSchema(_ context.Context, p *probe) finding {
	if p.node == nil {
		return finding{}
	}
	switch s := p.node.Schema; {
	case s.Have == 0:
		return problem("vaultctl init, as the owner of the database", "there is no vault in this database")
	case s.Have < s.Want:
		return problem("vaultctl migrate, as the owner of the database", "version %d, and this binary wants %d", s.Have,
			s.Want)
	case s.Have > s.Want:
		return problem("install the vaultctl that migrated it", "version %d, and this binary knows %d", s.Have, s.Want)
	case !s.FunctionsCurrent:
		return problem("vaultctl migrate, as the owner of the database",
			"version %d, with functions or policies of another release", s.Have)
	default:
		return fine("version %d, functions and policies of this release", s.Have)
	}
}

func checkServer(_ context.Context, p *probe) finding {
	if p.node == nil {
		return finding{}
	}
	switch major := p.node.Version / 10000; {
	case major < oldestAllowed:
		return problem(fmt.Sprintf("upgrade to PostgreSQL %d or newer", oldestAllowed), "PostgreSQL %d is too old", major)
	case major > newestTested:
		return warning("look for a newer release of the vault", "PostgreSQL %d is newer than the newest tested, %d", major,
			newestTested)
	default:
		return fine("PostgreSQL %d.%d", major, p.node.Version%10000)
	}
}

// checkNodeName warns of names that tell no nodes apart in status and in the audit log. Debian gives every cluster of a
// version the same.
func checkNodeName(_ context.Context, p *probe) finding {
	const help = "ALTER SYSTEM SET cluster_name = 'NAME', and restart that server"
	switch {
	case p.node == nil:
		return finding{}
	case p.node.Name == "":
		return warning(help, "the node has none: reads are filed under its host's name, and changes under none")
	case p.primary != nil && p.node.Recovering && !p.primary.Recovering && p.node.Name == p.primary.Name:
		return warning(help, "the primary and this standby are both called %q: the audit log cannot tell them apart",
			p.node.Name)
	}
	return fine("%q", p.node.Name)
}

func checkTLS(_ context.Context, p *probe) finding {
	for _, e := range []*db.Examination{p.node, p.primary} {
		switch {
		case e == nil || e.Local:
		case !e.Encrypted:
			return problem("sslmode=verify-full", "the connection to %s is not encrypted", e.Host)
		case !e.Verified:
			return warning("sslmode=verify-full, with sslrootcert=FILE", "the certificate of %s is not verified", e.Host)
		default:
			return fine("encrypted, and the certificate is verified")
		}
	}
	if p.node == nil {
		return finding{}
	}
	return fine("not needed: the connection stays on this machine")
}

func checkPooler(_ context.Context, p *probe) finding {
	switch {
	case p.node == nil:
		return finding{}
	case p.node.Pooled || p.primary != nil && p.primary.Pooled:
		return warning("connect straight to PostgreSQL for init and migrate, and for listening in vaultd",
			"a pooler is in the way: it hands out its sessions by transaction")
	}
	return fine("none in the way")
}

func checkClock(_ context.Context, p *probe) finding {
	if p.node == nil {
		return finding{}
	}
	switch skew := p.node.Skew.Abs(); {
	case skew > skewProblem:
		return problem("timedatectl, here and on the server", "this clock and the server's differ by %s",
			skew.Round(time.Second))
	case skew > skewWarning:
		return warning("timedatectl, here and on the server", "this clock and the server's differ by %s",
			skew.Round(100*time.Millisecond))
	}
	return fine("agrees with the server's within %s", skewWarning)
}

func checkRole(_ context.Context, p *probe) finding {
	switch {
	case p.node == nil || p.node.Schema.Have != p.node.Schema.Want:
		return finding{}
	case p.node.TooPowerful != "":
		return warning("connect as a role that was granted access: vaultctl grant ROLE",
			"role %q could bypass the vault: it has %s", p.node.Role, p.node.TooPowerful)
	}
	return fine("%q cannot bypass the vault", p.node.Role)
}

// checkRoles looks at the other roles that were granted access.
func checkRoles(_ context.Context, p *probe) finding {
	if p.node == nil || p.node.Schema.Have != p.node.Schema.Want {
		return finding{}
	}
	var words, helps []string
	for _, odd := range p.node.OddRoles {
		word, help := oddRole(odd)
		words = append(words, word)
		if !slices.Contains(helps, help) {
			helps = append(helps, help)
		}
	}
	help := strings.Join(helps, "; ")
	switch {
	case words == nil:
		return fine("none is gone, renamed or too powerful")
	case slices.ContainsFunc(p.node.OddRoles, lacksGrant):
		return problem(help, "%s", strings.Join(words, "; "))
	}
	return warning(help, "%s", strings.Join(words, "; "))
}

// lacksGrant reports whether a role lacks what it was granted.
func lacksGrant(r db.OddRole) bool {
	lost, absent := lostGroup(r)
	return lost+absent != "" || r.Problem == "unscoped"
}

// lostGroup is the group that a role was granted: lost if it is not its member, absent if there is no such role.
func lostGroup(r db.OddRole) (lost, absent string) {
	switch what, group, _ := strings.Cut(r.Problem, " "); what {
	case "lost":
		return group, ""
	case "absent":
		return "", group
	}
	return "", ""
}

func oddRole(r db.OddRole) (detail, help string) {
	grant := "vaultctl grant " + shellPath(r.Role)
	switch lost, absent := lostGroup(r); {
	case lost != "":
		return fmt.Sprintf("role %q was granted %s and is not its member", r.Role, lost),
			"after a restore: vaultctl migrate --restore-grants, as the owner of the database; " +
				"else vaultctl grant ROLE --revoke"
	case absent != "":
		return fmt.Sprintf("role %q was granted %s and does not exist", r.Role, absent), absentRoles
	}
	switch r.Problem {
	case "gone":
		return fmt.Sprintf("role %q is gone and still has prefixes", r.Role), grant + " --revoke"
	case "unscoped":
		return fmt.Sprintf("role %q was granted prefixes, and a restore has not brought them", r.Role),
			grant + " --prefix PREFIX, or restore the dump again"
	case "renamed":
		return fmt.Sprintf("role %q was renamed: a restored dump would not know its prefixes", r.Role),
			grant + " --prefix PREFIX, with one that it has"
	case "maintains":
		return fmt.Sprintf("role %q has pg_maintain: it can lock every table", r.Role),
			fmt.Sprintf("REVOKE pg_maintain FROM %q", r.Role)
	}
	return fmt.Sprintf("role %q could bypass the vault: it has %s", r.Role, r.Problem), grant + " --revoke"
}

func checkKey(ctx context.Context, p *probe) finding {
	if p.a.kmsKey == "" && p.node == nil {
		return finding{}
	}
	if _, err := p.a.openKeys(ctx); err != nil {
		if p.a.kmsKey == "" && p.alreadyReported(err) {
			return finding{}
		}
		return p.a.failure(err)
	}
	for _, key := range p.a.keyring.Keys() {
		d, err := key.Describe(ctx)
		switch {
		case err != nil:
			return p.a.failure(err)
		case !d.Usable:
			return problem("enable the key in the KMS, or give another: --kms-key URI", "%s is %s", d.URI, d.State)
		}
	}
	return fine("usable")
}

func checkNewest(ctx context.Context, p *probe) finding {
	if p.a.keyring == nil || p.node == nil {
		return finding{}
	}
	name, err := p.v.TryNewest(ctx)
	switch {
	case errors.Is(err, vault.ErrNotFound): // removed since it was chosen
		return finding{}
	case err != nil:
		return p.notChecked(err)
	case name == "":
		return fine("there is none that this role may read")
	}
	return fine("opens with this key")
}

func checkToken(ctx context.Context, p *probe) finding {
	change, err := p.a.change()
	if errors.Is(err, errNoToken) {
		f := p.a.failure(err)
		f.Result, f.Detail = resultWarning, "none here: reading works, changing does not"
		return f
	}
	if err != nil {
		return p.a.failure(err)
	}
	if p.primary == nil {
		return finding{} // only the primary can check the token
	}
	token, err := p.v.OwnToken(ctx, change)
	switch {
	case err != nil && p.alreadyReported(err):
		return finding{}
	case err != nil:
		return p.a.failure(err)
	case token.ExpiresAt != nil && time.Until(*token.ExpiresAt) < tokenWarning:
		return warning("vaultctl token create NAME, with this one while it lasts", "%q expires %s", token.Name,
			when(token.ExpiresAt))
	}
	scope := "everything"
	if token.Scope != "" {
		scope = fmt.Sprintf("names under %q", token.Scope)
	}
	return fine("%q is good for %s", token.Name, scope)
}

func checkDurability(_ context.Context, p *probe) finding {
	if p.status == nil || p.status.Durability == nil {
		return p.noStatus()
	}
	if text := durabilityProblem(*p.status); text != "" {
		return problem("start the standby, or take it out of synchronous_standby_names", "%s",
			strings.TrimPrefix(text, "durability: "))
	}
	if all := durabilityWarnings(*p.status); len(all) > 0 {
		return warning("synchronous_standby_names, fsync and full_page_writes decide: SHOW ALL", "%s",
			strings.Join(all, "; "))
	}
	return fine("%s", durabilityLine(*p.status))
}

func checkStandbys(ctx context.Context, p *probe) finding {
	if p.primary == nil {
		return finding{}
	}
	replicas, err := p.v.Replicas(ctx)
	if err != nil {
		return p.notChecked(err)
	}
	if len(replicas) == 0 {
		return finding{} // checkDurability reports it
	}
	var late []string
	for _, r := range replicas {
		switch {
		case r.State == nil:
			return warning("GRANT pg_read_all_stats TO vault_owner, as a superuser",
				"the replication lag of the standbys cannot be read")
		case *r.State != "streaming":
			late = append(late, fmt.Sprintf("%q is in state %s", *r.Name, *r.State))
		case r.LagBytes != nil && *r.LagBytes > standbyLate, r.LagSeconds != nil && *r.LagSeconds > replayLate.Seconds():
			late = append(late, fmt.Sprintf("%q is behind", *r.Name))
		}
	}
	if late != nil {
		return warning("SELECT * FROM pg_stat_replication, on the primary", "%s", strings.Join(late, ", "))
	}
	return fine("%d, and none is far behind", len(replicas))
}

// checkReplay looks at a standby's lag. It compares the heartbeat that it has replayed with the row on the primary,
// which takes no clocks, and with the standby's clock, as status does.
func checkReplay(_ context.Context, p *probe) finding {
	if p.node == nil || !p.node.Recovering || p.node.BeatAt == nil {
		return finding{}
	}
	age := p.node.BeatAge.Round(time.Second)
	if p.primary == nil || p.primary.BeatAt == nil {
		if p.node.BeatAge > replayLate {
			return problem("SELECT * FROM pg_stat_wal_receiver, on the standby; "+
				"systemctl status vaultd, beside the primary",
				"the last heartbeat of the primary that this standby has is %s old", age)
		}
		return fine("the last heartbeat of the primary that this standby has is %s old", age)
	}
	if behind := p.primary.BeatAt.Sub(*p.node.BeatAt); behind > replayLate {
		return problem("SELECT * FROM pg_stat_wal_receiver, on the standby", "this standby is %s behind its primary",
			behind.Round(time.Second))
	}
	if p.node.BeatAge > replayLate {
		return problem("systemctl status vaultd, beside the primary",
			"this standby keeps up, and the primary's own last heartbeat is %s old", age)
	}
	return fine("this standby keeps up")
}

func checkHeartbeat(_ context.Context, p *probe) finding {
	e := p.primary
	if e == nil {
		e = p.node
	}
	if e == nil || e.Schema.Have != e.Schema.Want {
		return finding{}
	}
	if p.primary == nil && e.Recovering && e.BeatAt != nil && e.BeatAge > replayLate {
		return finding{} // replay may be the cause: checkReplay reports it
	}
	const help = "systemctl status vaultd, beside the primary"
	detail := ""
	switch {
	case e.BeatAt == nil:
		detail = "no supervisor has run yet: nothing rotates, expires or is purged"
	case e.BeatAge > heartbeatLate:
		detail = fmt.Sprintf("no supervisor has run for %s: nothing rotates, expires or is purged",
			e.BeatAge.Round(time.Second))
	default:
		return fine("a supervisor is at work")
	}
	if p.status != nil && p.status.NextRotationAt != nil {
		return problem(help, "%s", detail)
	}
	return warning(help, "%s", detail)
}

func checkRotations(ctx context.Context, p *probe) finding {
	if p.status == nil {
		return p.noStatus()
	}
	stuck, err := stuckRotations(ctx, p)
	if err != nil {
		return p.notChecked(err)
	}
	var wrong []string
	add := func(n int64, what string) {
		if n > 0 {
			wrong = append(wrong, fmt.Sprintf("%d %s", n, what))
		}
	}
	add(p.status.RotationsFailed, "failed")
	add(p.status.RotationsOverdue, "overdue")
	add(stuck, "stuck")
	switch {
	case wrong != nil:
		return problem("vaultctl rotation list; vaultctl rotation retry NAME", "%s", strings.Join(wrong, ", "))
	case p.status.MaxRotations != nil && *p.status.MaxRotations == 0:
		return problem("vaultctl rotation limit none", "all are stopped (vaultctl rotation limit 0)")
	case p.status.RotationsPaused > 0:
		return warning("vaultctl rotation list; vaultctl rotation resume NAME", "%d paused", p.status.RotationsPaused)
	}
	return fine("none failed, overdue or stuck")
}

// stuckRotations counts claims older than claimStuck. A role that may not list rotations counts none.
func stuckRotations(ctx context.Context, p *probe) (int64, error) {
	if p.node == nil {
		return 0, nil
	}
	jobs, err := p.v.Rotations(ctx, db.RotationQuery{})
	if errors.Is(err, vault.ErrRefused) {
		return 0, nil
	}
	var n int64
	for _, j := range jobs {
		if j.State == "claimed" && j.ClaimedAt != nil && time.Now().Add(p.node.Skew).Sub(*j.ClaimedAt) > claimStuckAfter {
			n++
		}
	}
	return n, err
}

// checkApps names what daemons do not go by: rows of apps that were stored past the checks of the database.
func checkApps(ctx context.Context, p *probe) finding {
	if p.node == nil {
		return finding{}
	}
	faults, err := p.v.AppFaults(ctx)
	if errors.Is(err, vault.ErrRefused) { // the role is not of the vault
		return finding{}
	}
	if err != nil {
		return p.notChecked(err)
	}
	if len(faults) == 0 {
		return fine("each rule and credential is one that daemons can read")
	}
	const most = 3
	var words []string
	for _, f := range faults[:min(len(faults), most)] {
		words = append(words, strings.TrimSpace(fmt.Sprintf("app %q %s", f.App, f.Part)))
	}
	if len(faults) > most {
		words = append(words, fmt.Sprintf("%d more", len(faults)-most))
	}
	return problem("vaultctl migrate restores the checks that refuse such rows; remove them as a superuser",
		"daemons ignore what they cannot read: %s", strings.Join(words, "; "))
}

func checkDeleted(ctx context.Context, p *probe) finding {
	if p.node == nil {
		return finding{}
	}
	rows, err := p.v.List(ctx, db.ListQuery{Deleted: true})
	if errors.Is(err, vault.ErrRefused) { // the role may not list deleted secrets
		return finding{}
	}
	if err != nil {
		return p.notChecked(err)
	}
	soon := 0
	for _, s := range rows {
		if s.RestoreUntil != nil && s.RestoreUntil.Sub(time.Now().Add(p.node.Skew)) < purgeWarning {
			soon++
		}
	}
	if soon > 0 {
		return warning("vaultctl list --deleted; vaultctl restore NAME", "%s purged within a day",
			plural(soon, "secret is", "secrets are"))
	}
	return fine("%s restorable", plural(len(rows), "secret is", "secrets are"))
}
