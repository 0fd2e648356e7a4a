package accessdb

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/access"
	"github.com/hyperiondb/vault/internal/db"
)

// NewCredential is a credential to store.
type NewCredential struct {
	ID          uuid.UUID
	Kind        access.Kind
	Fingerprint [32]byte // of a token
	Match       string   // of the others, as access.ParseMatch returns it
	Networks    []netip.Prefix
	ExpiresAt   *time.Time
}

// MarshalJSON spells a credential as vault.create_app wants it.
func (c NewCredential) MarshalJSON() ([]byte, error) {
	stored := struct {
		ID          uuid.UUID   `json:"id"`
		Kind        access.Kind `json:"kind"`
		Fingerprint string      `json:"token_sha256,omitempty"`
		Match       string      `json:"match,omitempty"`
		Networks    []string    `json:"networks,omitempty"`
		ExpiresAt   *time.Time  `json:"expires_at,omitempty"`
	}{ID: c.ID, Kind: c.Kind, Match: c.Match, ExpiresAt: c.ExpiresAt}
	if c.Kind == access.ByToken {
		stored.Fingerprint = hex.EncodeToString(c.Fingerprint[:])
	}
	for _, n := range c.Networks {
		stored.Networks = append(stored.Networks, n.Masked().String())
	}
	return json.Marshal(stored)
}

// Author is who asks for a change, and the id under which a request without a reply is sent again.
type Author struct {
	Credential db.Credential
	Request    uuid.UUID
}

// Create makes an app with its rules and credentials. ErrConflict if the name, or what a credential matches, is taken.
func Create(ctx context.Context, w *db.Writer, by Author, name string, rules []Rule,
	credentials []NewCredential) (App, error) {
	return by.change(ctx, w, "app.create", `SELECT vault.create_app($1, $2, $3, $4)`, name, list(rules), list(credentials),
		by.Request)
}

// Allow adds rules, and replaces the actions of those that the app has. A rule that says what it said changes nothing.
func Allow(ctx context.Context, w *db.Writer, by Author, name string, rules []Rule) (App, error) {
	return by.change(ctx, w, "app.allow", `SELECT vault.allow_app($1, $2, $3)`, name, list(rules), by.Request)
}

// Disallow removes rules; ErrNotFound if the app does not have one of them.
func Disallow(ctx context.Context, w *db.Writer, by Author, name string, patterns []string) (App, error) {
	return by.narrow(ctx, w, name, "app.disallow", `vault.disallow_app($1, $2, $3)`, name, patterns, by.Request)
}

// Enable takes the credentials of a disabled app again.
func Enable(ctx context.Context, w *db.Writer, by Author, name string) (App, error) {
	return by.change(ctx, w, "app.enable", `SELECT vault.set_app_enabled($1, true, $2)`, name, by.Request)
}

// Disable takes no credential of the app any more.
func Disable(ctx context.Context, w *db.Writer, by Author, name string) (App, error) {
	return by.narrow(ctx, w, name, "app.disable", `vault.set_app_enabled($1, false, $2)`, name, by.Request)
}

// Delete removes an app with its rules and credentials, and returns it as it was.
func Delete(ctx context.Context, w *db.Writer, by Author, name string) (App, error) {
	return by.narrow(ctx, w, name, "app.delete", `vault.delete_app($1, $2)`, name, by.Request)
}

// AddCredential adds one to an app. An app keeps 64; the oldest revoked ones make room.
func AddCredential(ctx context.Context, w *db.Writer, by Author, name string, c NewCredential) (App, error) {
	spelled, err := json.Marshal(c)
	if err != nil {
		return App{}, err
	}
	return by.change(ctx, w, "app.token", `SELECT vault.add_app_credential($1, $2, $3)`, name, string(spelled), by.Request)
}

// Revoked is an app, and the credentials of it that have just ended.
type Revoked struct {
	App
	Revoked []uuid.UUID `json:"revoked"`
}

// RevokeCredential ends one credential for good, or (nil) all that the app has. ErrNotFound if there is none to end.
func RevokeCredential(ctx context.Context, w *db.Writer, by Author, name string, id *uuid.UUID) (Revoked, error) {
	var revoked Revoked
	err := w.Narrow(ctx, &by.Credential, db.Refusal{Action: "app.revoke", Request: by.Request}, &revoked,
		`vault.revoke_app_credential($1, $2, $3)`, name, id, by.Request)
	return revoked, aboutApp(name, err)
}

func (by Author) change(ctx context.Context, w *db.Writer, action, sql string, args ...any) (App, error) {
	var a App
	err := w.Change(ctx, &by.Credential, db.Refusal{Action: action, Request: by.Request}, &a, sql, args...)
	return a, err
}

// narrow is a change that takes access away, see [db.Writer.Narrow].
func (by Author) narrow(ctx context.Context, w *db.Writer, name, action, call string, args ...any) (App, error) {
	var a App
	err := w.Narrow(ctx, &by.Credential, db.Refusal{Action: action, Request: by.Request}, &a, call, args...)
	return a, aboutApp(name, err)
}

// aboutApp names the app in an error about what its change has become.
func aboutApp(name string, err error) error {
	if errors.Is(err, db.ErrOutcomeUnknown) {
		return &db.Error{Kind: db.ErrOutcomeUnknown, Text: fmt.Sprintf("app %q: %s", name, err)}
	}
	return err
}

// list spells a list as JSON, an empty one too.
func list[T any](all []T) string {
	if len(all) == 0 {
		return "[]"
	}
	spelled, err := json.Marshal(all)
	if err != nil {
		panic(err) // texts, times and ids
	}
	return string(spelled)
}
