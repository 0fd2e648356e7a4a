package auditdb

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/audit/spool"
	"github.com/hyperiondb/vault/internal/db"
)

// Ledgers are the positions of all spools, and the records that are on record as lost, to compare an archive with. It
// takes a role in vault_auditor.
func (l *Log) Ledgers(ctx context.Context) ([]spool.Ledger, error) {
	ledgers, err := db.Collect(ctx, l.reader, func(row pgx.CollectableRow) (spool.Ledger, error) {
		var one spool.Ledger
		var last []byte
		err := row.Scan(&one.Node, &one.Boot, &one.Next, &last)
		if len(last) == len(spool.Hash{}) {
			one.Last = spool.Hash(last)
		}
		return one, err
	}, `SELECT node, boot, next_seq, last_hash FROM vault.audit_spools`)
	if err != nil {
		return nil, err
	}
	type gap struct {
		boot    uuid.UUID
		records spool.Range
	}
	// Only the primary's own rows count: those that a node ships have a number.
	gaps, err := db.Collect(ctx, l.reader, func(row pgx.CollectableRow) (gap, error) {
		var one gap
		err := row.Scan(&one.boot, &one.records.First, &one.records.Next)
		return one, err
	}, `SELECT (detail->>'boot')::uuid, (detail->>'from')::bigint, (detail->>'to')::bigint + 1 FROM vault.audit_log
		WHERE outcome <> 'ok' AND action = 'audit.gap' AND NOT detail ? 'seq'
			AND detail->>'from' ~ '^[0-9]{1,18}$' AND detail->>'to' ~ '^[0-9]{1,18}$'`)
	for _, one := range gaps {
		for i := range ledgers {
			if ledgers[i].Boot == one.boot {
				ledgers[i].Gaps = append(ledgers[i].Gaps, one.records)
			}
		}
	}
	return ledgers, err
}
