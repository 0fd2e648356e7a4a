package vault

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/access/accessdb"
)

func (c Change) author() accessdb.Author {
	return accessdb.Author{Credential: c.credential(), Request: c.requestID()}
}

// Apps lists all apps of the local node.
func (v *Vault) Apps(ctx context.Context) ([]accessdb.App, error) {
	return accessdb.Apps(ctx, v.reader)
}

// App reads one app of the local node; ErrNotFound if there is none of that name.
func (v *Vault) App(ctx context.Context, name string) (accessdb.App, error) {
	return accessdb.ReadApp(ctx, v.reader, name)
}

// AppNames lists the names of all apps, sorted.
func (v *Vault) AppNames(ctx context.Context) ([]string, error) { return accessdb.Names(ctx, v.reader) }

// AppFaults lists what the daemons of this node cannot read of its apps, and so do not go by.
func (v *Vault) AppFaults(ctx context.Context) ([]accessdb.Fault, error) {
	return accessdb.Faults(ctx, v.reader)
}

// ExpiringCredentials lists the live credentials of apps that end within a time, the earliest first.
func (v *Vault) ExpiringCredentials(ctx context.Context, within time.Duration) ([]accessdb.Expiring, error) {
	return accessdb.ExpiringWithin(ctx, v.reader, within)
}

// CreateApp makes an app with its rules and credentials.
func (v *Vault) CreateApp(ctx context.Context, c Change, name string, rules []accessdb.Rule,
	credentials []accessdb.NewCredential) (accessdb.App, error) {
	if err := v.canWrite(c); err != nil {
		return accessdb.App{}, err
	}
	return accessdb.Create(ctx, v.writer, c.author(), name, rules, credentials)
}

// AllowApp adds rules to an app, or replaces the actions of those that it has.
func (v *Vault) AllowApp(ctx context.Context, c Change, name string, rules []accessdb.Rule) (accessdb.App, error) {
	if err := v.canWrite(c); err != nil {
		return accessdb.App{}, err
	}
	return accessdb.Allow(ctx, v.writer, c.author(), name, rules)
}

// DisallowApp removes rules of an app.
func (v *Vault) DisallowApp(ctx context.Context, c Change, name string, patterns []string) (accessdb.App, error) {
	if err := v.canWrite(c); err != nil {
		return accessdb.App{}, err
	}
	return accessdb.Disallow(ctx, v.writer, c.author(), name, patterns)
}

// EnableApp takes the credentials of an app again, or (false) none of them any more.
func (v *Vault) EnableApp(ctx context.Context, c Change, name string, enabled bool) (accessdb.App, error) {
	if err := v.canWrite(c); err != nil {
		return accessdb.App{}, err
	}
	if enabled {
		return accessdb.Enable(ctx, v.writer, c.author(), name)
	}
	return accessdb.Disable(ctx, v.writer, c.author(), name)
}

// DeleteApp removes an app with its rules and credentials, and returns it as it was.
func (v *Vault) DeleteApp(ctx context.Context, c Change, name string) (accessdb.App, error) {
	if err := v.canWrite(c); err != nil {
		return accessdb.App{}, err
	}
	return accessdb.Delete(ctx, v.writer, c.author(), name)
}

// AddAppCredential adds a credential to an app.
func (v *Vault) AddAppCredential(ctx context.Context, c Change, name string,
	credential accessdb.NewCredential) (accessdb.App, error) {
	if err := v.canWrite(c); err != nil {
		return accessdb.App{}, err
	}
	return accessdb.AddCredential(ctx, v.writer, c.author(), name, credential)
}

// RevokeAppCredential ends one credential of an app for good, or (nil) all of them.
func (v *Vault) RevokeAppCredential(ctx context.Context, c Change, name string,
	id *uuid.UUID) (accessdb.Revoked, error) {
	if err := v.canWrite(c); err != nil {
		return accessdb.Revoked{}, err
	}
	return accessdb.RevokeCredential(ctx, v.writer, c.author(), name, id)
}
