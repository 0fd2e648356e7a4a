package httpapi

import (
	"context"
	"errors"
	"net/http"

	"github.com/hyperiondb/vault/internal/access"
	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/envelope"
)

// Recorder puts an event on record, or returns within a few seconds why it could not. The answer that the event is for
// may not be sent then.
type Recorder interface {
	Record(ctx context.Context, e audit.Event) error
}

// recordEvent is called once for every request, when its answer is known and before a byte of it is sent. Its error
// replaces the answer: what is not on record is not given. A 403 is sent all the same, as it holds no secret.
func (a *API) recordEvent(q *request, find router, err error) error {
	if a.recorder == nil {
		return nil
	}
	e, ok := q.buildEvent(find, err)
	if !ok {
		return nil
	}
	// Not the request's context: the record is kept also if the client has disconnected.
	unrecorded := a.recorder.Record(context.Background(), e)
	if unrecorded != nil && (err == nil || outcomeOf(err).status != http.StatusForbidden) {
		return unrecorded
	}
	return nil
}

// buildEvent returns the event of a request; false for a change, whose row the database writes.
func (q *request) buildEvent(find router, err error) (audit.Event, bool) {
	e := q.event
	if err != nil {
		e = q.errorEvent(find, err)
	}
	e.RequestID = q.id
	e.Actor = q.client.actor()
	if q.client.addr.IsValid() {
		e.Client = e.Actor[len(actorPrefix):]
	}
	q.caller.describe(q, &e)
	if u := unitOf(q.http.Context()); u != nil {
		u.describe(&e)
	}
	return e, e.Action != "" && (err == nil || q.token.IsZero())
}

// errorEvent describes a request that ended in an error. The guard comes before the route, so the route and the secret
// are looked up here.
func (q *request) errorEvent(find router, err error) audit.Event {
	o := outcomeOf(err)
	e := audit.Event{Action: audit.Read, Secret: q.secret, Outcome: audit.Failed, Detail: map[string]any{"reason": o.code}}
	var d *denial
	switch {
	case errors.As(err, &d):
		e.Detail["reason"] = string(d.reason)
	case o.reason != "" && o.reason != "allowlist":
		e.Detail["refused_for"] = o.reason
	}
	if o.status == http.StatusForbidden || o.status == http.StatusTooManyRequests {
		e.Outcome = audit.Denied
	}
	route, secret, _ := find(q.http)
	if route == nil {
		return e
	}
	e.Action = route.action
	if folder, err := folderOf(secret); route.access == access.List && err == nil {
		e.Detail["folder"] = folder
	}
	if route.named && envelope.CheckName(secret) == nil {
		e.Secret = secret
	}
	return e
}
