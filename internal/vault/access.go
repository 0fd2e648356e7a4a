package vault

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/db"
)

// NewTokenRequest makes an admin token.
type NewTokenRequest struct {
	Change
	Name      string     // 1 to 64 of A-Z a-z 0-9 _ . @ -
	Scope     string     // name prefix it may change; "" = everything, tokens and grants included
	ExpiresAt *time.Time // nil = never
}

// CreateToken makes a token and stores its fingerprint. Only the returned value has the token itself.
func (v *Vault) CreateToken(ctx context.Context, r NewTokenRequest) (Token, db.TokenRow, error) {
	if err := v.canWrite(r.Change); err != nil {
		return Token{}, db.TokenRow{}, err
	}
	token := NewToken()
	row, err := v.writer.CreateToken(ctx, r.credential(), r.requestID(), r.stored(token))
	return token, row, err
}

// CreateTokenAsOwner makes a token without another one: the first, or one to recover when all are lost. It requires the
// owner of the schema.
func (v *Vault) CreateTokenAsOwner(ctx context.Context, r NewTokenRequest) (Token, db.TokenRow, error) {
	if r.Scope != "" {
		return Token{}, db.TokenRow{}, fmt.Errorf("%w: a token made as owner has no scope", ErrInvalid)
	}
	token := NewToken()
	row, err := v.writer.CreateTokenAsOwner(ctx, r.requestID(), r.stored(token))
	return token, row, err
}

func (r NewTokenRequest) stored(t Token) db.NewToken {
	return db.NewToken{ID: t.ID(), Name: r.Name, Fingerprint: t.Fingerprint(), Scope: r.Scope, ExpiresAt: r.ExpiresAt}
}

// Tokens lists all tokens, revoked ones too.
func (v *Vault) Tokens(ctx context.Context, c Change) ([]db.TokenRow, error) {
	if err := v.canWrite(c); err != nil {
		return nil, err
	}
	return v.writer.Tokens(ctx, c.credential())
}

// OwnToken proves a token and returns its row.
func (v *Vault) OwnToken(ctx context.Context, c Change) (db.TokenRow, error) {
	if err := v.canWrite(c); err != nil {
		return db.TokenRow{}, err
	}
	return v.writer.Token(ctx, c.credential())
}

// RevokeToken ends a token at once. The row names the transactions that began before, and have not ended.
func (v *Vault) RevokeToken(ctx context.Context, c Change, name string) (db.TokenRow, error) {
	if err := v.canWrite(c); err != nil {
		return db.TokenRow{}, err
	}
	return v.writer.RevokeToken(ctx, c.credential(), c.requestID(), name)
}

// Group is a kind of access a database role can have.
type Group string

const (
	GroupService Group = "service" // read the secrets under a prefix, call the write API
	GroupWorker  Group = "worker"  // run rotations
	GroupAuditor Group = "auditor" // read the audit log
)

// Grant gives a database role access. The prefix counts for GroupService only; "" = every name.
func (v *Vault) Grant(ctx context.Context, c Change, role string, group Group, prefix string) (db.Grant, error) {
	if err := v.canWrite(c); err != nil {
		return db.Grant{}, err
	}
	var request uuid.UUID = c.requestID()
	switch group {
	case GroupService:
		return v.writer.GrantServiceRole(ctx, c.credential(), request, role, prefix)
	case GroupWorker:
		return v.writer.GrantWorkerRole(ctx, c.credential(), request, role)
	case GroupAuditor:
		return v.writer.GrantAuditorRole(ctx, c.credential(), request, role)
	}
	return db.Grant{}, fmt.Errorf("%w: no access called %q", ErrInvalid, group)
}

// Revoke takes one prefix, or with nil all access, from a database role.
func (v *Vault) Revoke(ctx context.Context, c Change, role string, prefix *string) (db.Grant, error) {
	if err := v.canWrite(c); err != nil {
		return db.Grant{}, err
	}
	return v.writer.RevokeServiceRole(ctx, c.credential(), c.requestID(), role, prefix)
}
