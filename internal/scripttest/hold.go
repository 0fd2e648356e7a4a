package scripttest

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hyperiondb/vault/internal/vault"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// hold STATEMENT: runs the statement in a transaction that the token in VAULTCTL_TOKEN authorises, and keeps it open
// until the script ends or hold COMMIT.
func (h *harness) cmdHold(ts *testscript.TestScript, neg bool, args []string) {
	s := h.of(ts)
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	if len(args) != 1 {
		ts.Fatalf("usage: hold STATEMENT")
	}
	if args[0] != "COMMIT" {
		ts.Check(s.hold(ctx, ts.Getenv("VAULTCTL_TOKEN")))
		ts.Setenv("HELD", fmt.Sprint(s.held.PgConn().PID()))
	}
	_, err := s.held.Exec(ctx, args[0])
	if neg != (err != nil) {
		ts.Fatalf("hold: got error %v", err)
	}
	if err != nil {
		fmt.Fprintln(ts.Stderr(), err)
	}
}

func (s *session) hold(ctx context.Context, text string) error {
	token, err := vault.ParseToken(text)
	if err != nil {
		return err
	}
	if s.held, err = pgx.Connect(ctx, s.store.URL(vaulttest.Operator)); err != nil {
		return err
	}
	s.cleanup = append(s.cleanup, func() { _ = s.held.Close(context.Background()) })
	var nonce []byte
	if _, err := s.held.Exec(ctx, `BEGIN`); err != nil {
		return err
	}
	if err := s.held.QueryRow(ctx, `SELECT vault.challenge()`).Scan(&nonce); err != nil {
		return err
	}
	_, err = s.held.Exec(ctx, `SELECT vault.authorize_proof($1, $2)`, token.ID(), token.Prove(nonce))
	return err
}
