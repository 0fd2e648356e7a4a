package httpapi

import (
	"context"
	"net/http"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/envelope"
)

// Recorder puts an event on record, or says within a few seconds that it could not. While it returns an error, nothing
// may be answered that the event stands for.
type Recorder interface {
	Record(ctx context.Context, e audit.Event) error
}

// audited is called once for every request, when its answer is known and before a byte of it leaves. Its error replaces
// the answer: what is not on record is not given. A refusal stays the refusal it is, as it gives nothing.
func (a *API) audited(q *request, find router, err error) error {
	if a.recorder == nil {
		return nil
	}
	e, ok := q.happened(find, err)
	if !ok {
		return nil
	}
	// The client may have left: the record is kept all the same.
	unrecorded := a.recorder.Record(context.Background(), e)
	if unrecorded != nil && (err == nil || outcomeOf(err).status != http.StatusForbidden) {
		return unrecorded
	}
	return nil
}

// happened is the event of a request; false for a change, which has its row from the database.
func (q *request) happened(find router, err error) (audit.Event, bool) {
	e := q.event
	if err != nil {
		e = q.refused(find, err)
	}
	e.RequestID = q.id
	e.Actor = q.client.actor()
	if q.client.addr.IsValid() {
		e.Client = e.Actor[len(actorPrefix):]
	}
	return e, e.Action != "" && (err == nil || q.token.IsZero())
}

// refused describes a request that was not answered as it wanted. The guard comes before the route, so what was wanted
// is looked up here.
func (q *request) refused(find router, err error) audit.Event {
	o := outcomeOf(err)
	e := audit.Event{Action: audit.Read, Secret: q.secret, Outcome: audit.Failed, Detail: map[string]any{"reason": o.code}}
	if o.reason != "" && o.reason != "allowlist" {
		e.Detail["refused_for"] = o.reason
	}
	if o.status == http.StatusForbidden || o.status == http.StatusTooManyRequests {
		e.Outcome = audit.Denied
	}
	route, secret, _ := find(q.http.Method, q.http.URL.Path)
	if route == nil {
		return e
	}
	e.Action = route.action
	if route.named && envelope.CheckName(secret) == nil {
		e.Secret = secret
	}
	return e
}
