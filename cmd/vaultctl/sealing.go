package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hyperiondb/vault/internal/audit/auditdb"
	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vault"
)

// sealingLate is how old an unsealed row of the audit log may be; sealing takes a second or two.
const sealingLate = time.Minute

// sealingIsLate is also false if nothing was ever sealed.
func sealingIsLate(s db.Status) bool {
	return s.UnsealedSeconds != nil && *s.UnsealedSeconds > sealingLate.Seconds()
}

func sealingLine(s db.Status, failures []db.RoundFailure) string {
	switch {
	case sealingFailure(failures) != nil:
		return "failing"
	case s.UnsealedSeconds == nil:
		return ""
	case sealingIsLate(s):
		return "behind by " + seconds(int64(*s.UnsealedSeconds))
	}
	return "keeps up"
}

// sealingFailure is the failure that the sealer reports, or nil.
func sealingFailure(failures []db.RoundFailure) *db.RoundFailure {
	for i := range failures {
		if failures[i].Part == vault.RoundSeal {
			return &failures[i]
		}
	}
	return nil
}

// sealingProblem says for how long rows have waited, and for which transaction.
func sealingProblem(lag auditdb.Lag) string {
	late := fmt.Sprintf("rows of the audit log have waited %s for their seal", seconds(int64(lag.Seconds)))
	switch h := waitedFor(lag); {
	case h == nil && !lag.Held:
		return late + ": no sealer is at work"
	case h == nil: // the transaction has just ended
		return late
	default:
		return late + ", for " + transactionText(*h)
	}
}

// waitedFor is the transaction that sealing waits for: one that may still write rows, or the holder of the sealers'
// lock.
func waitedFor(lag auditdb.Lag) *db.Transaction {
	if lag.Held {
		return lag.Holder
	}
	return lag.Sealer
}

func transactionText(h db.Transaction) string {
	switch {
	case h.Prepared != "":
		return fmt.Sprintf("the prepared transaction %q (role %q, database %q), of %s", h.Prepared, h.Role, h.Database,
			when(h.Since))
	case h.Since == nil:
		return fmt.Sprintf("the transaction of pid %d (%q, role %q, database %q); what it does takes "+
			"GRANT pg_read_all_stats TO vault_owner", h.PID, h.Application, h.Role, h.Database)
	default:
		return fmt.Sprintf("the transaction of pid %d (%q, role %q, database %q, %s), of %s", h.PID, h.Application, h.Role,
			h.Database, h.State, when(h.Since))
	}
}

func sealingHelp(lag auditdb.Lag) string {
	switch h := waitedFor(lag); {
	case h == nil && !lag.Held:
		return "systemctl status vaultd, beside the primary, with audit_seal_key"
	case h == nil:
		return "vaultctl doctor, once more"
	default:
		return transactionHelp(*h)
	}
}

// transactionHelp says how to end a transaction that others wait for.
func transactionHelp(h db.Transaction) string {
	switch {
	case h.Prepared != "":
		return "COMMIT PREPARED or ROLLBACK PREPARED, in that database"
	case h.WaitsFor == "SyncRep":
		return "it waits for a synchronous standby: start that"
	default:
		return fmt.Sprintf("SELECT pg_terminate_backend(%d), if it is not to end by itself", h.PID)
	}
}

// lockProblems has a line for each of the vault's locks that others wait for.
func lockProblems(s db.Status) []string {
	var problems []string
	for _, l := range s.HeldLocks {
		problems = append(problems, printable(fmt.Sprintf("%s: others wait for %s", l.Lock, transactionText(l.Holder))))
	}
	return problems
}

func checkLocks(_ context.Context, p *probe) finding {
	if p.status == nil || p.status.HeldLocks == nil {
		return finding{}
	}
	return warning(transactionHelp(p.status.HeldLocks[0].Holder), "%s", strings.Join(lockProblems(*p.status), "; "))
}

func checkSealing(ctx context.Context, p *probe) finding {
	if p.status == nil {
		return p.noStatus()
	}
	failures, err := p.roundFailures(ctx)
	switch failed := sealingFailure(failures); {
	case err != nil:
		return p.notChecked(err)
	case failed != nil:
		return problem("the log of vaultd on the primary", "rows of the audit log cannot be sealed: %s", failed.Error)
	case p.status.UnsealedSeconds == nil:
		return finding{}
	}
	if !sealingIsLate(*p.status) {
		return fine("the seals of the audit log keep up")
	}
	log, err := p.a.log(ctx)
	if err != nil {
		return p.notChecked(err)
	}
	ask := log.SealingLag
	if p.primary != nil {
		ask = log.PrimarySealingLag
	}
	lag, err := ask(ctx)
	if err != nil {
		return p.notChecked(err)
	}
	if lag == nil || lag.Seconds <= sealingLate.Seconds() { // it caught up
		return finding{}
	}
	return warning(sealingHelp(*lag), "%s", sealingProblem(*lag))
}
