package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/vault"
)

// outcome is what a client sees of an error.
type outcome struct {
	status  int
	code    string
	message string        // "" = the text of the error itself, which for a 4xx is written for the caller
	retry   time.Duration // Retry-After; 0 = none
	allow   *string       // of a 405
	reason  string        // of a refusal that is counted: a label of a metric
}

// refusal is an error of this package itself.
type refusal struct{ outcome }

func (r *refusal) Error() string { return r.message }

func badRequest(message string) error {
	return &refusal{outcome{status: http.StatusBadRequest, code: "bad_request", message: message}}
}

// noAdminToken refuses a request whose admin token is missing or is not one.
func noAdminToken(message string) error {
	return &refusal{outcome{status: http.StatusForbidden, code: "not_allowed", message: message, reason: byAdminToken}}
}

// notForClients refuses a path of Vault's API that is for its operators.
func notForClients() error {
	return &refusal{outcome{status: http.StatusForbidden, code: "not_allowed", message: "permission denied",
		reason: byPath}}
}

func noSuchMethod(allow string) error {
	return &refusal{outcome{status: http.StatusMethodNotAllowed, code: "method_not_allowed",
		message: "this path does not have that method", allow: &allow}}
}

func tooLarge(message string) error {
	return &refusal{outcome{status: http.StatusRequestEntityTooLarge, code: "too_large", message: message}}
}

func mediaType(message string) error {
	return &refusal{outcome{status: http.StatusUnsupportedMediaType, code: "media_type", message: message}}
}

func tooMany(retry time.Duration) error {
	return &refusal{outcome{status: http.StatusTooManyRequests, code: "rate_limited",
		message: "too many verifies from this address", retry: retry, reason: "verify_rate"}}
}

func tooManyWaits(message string) error {
	return &refusal{outcome{status: http.StatusTooManyRequests, code: "too_many_waits", message: message,
		retry: retryWaits, reason: "waits"}}
}

const (
	retryWaits       = 10 * time.Second
	retryUnavailable = 2 * time.Second
	retryBehind      = time.Second
)

// outcomes is the table from what the vault returns to what a client sees. The first match counts.
var outcomes = []struct {
	err error
	outcome
}{
	{audit.ErrUnrecorded, outcome{503, "audit_unavailable", "this read cannot be put on record, so it is not answered",
		retryUnavailable, nil, ""}},
	{vault.ErrOutcomeUnknown, outcome{503, "outcome_unknown",
		"the change may or may not have happened: a repeat with this idempotency_key is made at most once", retryUnavailable,
		nil, ""}},
	{vault.ErrIntegrity, outcome{500, "integrity", "the stored value failed its integrity check", 0, nil, ""}},
	{vault.ErrKeyRefused, outcome{503, "key_refused", "the key service refuses this daemon or this key", 0, nil, ""}},
	{vault.ErrKeyUnavailable, outcome{503, "unavailable", "the key service does not answer", retryUnavailable, nil, ""}},
	{vault.ErrNotFound, outcome{404, "not_found", "no such secret or version", 0, nil, ""}},
	{vault.ErrDeleted, outcome{409, "conflict", "the secret is deleted: restore or purge it first", 0, nil, ""}},
	{vault.ErrConflict, outcome{409, "conflict", "", 0, nil, ""}},
	{vault.ErrName, outcome{400, "bad_request", "", 0, nil, ""}},
	{vault.ErrValueSize, outcome{413, "too_large", "", 0, nil, ""}},
	{vault.ErrInvalid, outcome{400, "bad_request", "", 0, nil, ""}},
	{vault.ErrRefused, outcome{403, "not_allowed", "", 0, nil, ""}},
	{vault.ErrBehind, outcome{412, "behind", "", retryBehind, nil, ""}},
	{vault.ErrStale, outcome{503, "stale", "this node is too far behind the primary", retryBehind, nil, ""}},
	{vault.ErrBusy, outcome{503, "busy", "another session is changing it and has not finished",
		retryUnavailable, nil, ""}},
	{vault.ErrFenced, outcome{503, "unavailable", "the primary that answers is an old one", retryUnavailable, nil, ""}},
	{vault.ErrNotInitialised, outcome{503, "unavailable", "the vault is not initialised in this daemon's database",
		retryUnavailable, nil, ""}},
	{vault.ErrSchema, outcome{503, "unavailable", "the schema of the database does not fit this daemon", retryUnavailable,
		nil, ""}},
	{vault.ErrUnavailable, outcome{503, "unavailable", "the database does not answer", retryUnavailable, nil, ""}},
	{context.DeadlineExceeded, outcome{503, "unavailable", "no answer in time", retryUnavailable, nil, ""}},
	{context.Canceled, outcome{503, "unavailable", "the daemon gave up on this request", retryUnavailable, nil, ""}},
}

func outcomeOf(err error) outcome {
	var d *denial
	if errors.As(err, &d) {
		return d.outcome()
	}
	var r *refusal
	if errors.As(err, &r) {
		return r.outcome
	}
	for _, known := range outcomes {
		if errors.Is(err, known.err) {
			o := known.outcome
			if o.message == "" {
				o.message = err.Error()
			}
			return o
		}
	}
	return outcome{status: http.StatusInternalServerError, code: "internal", message: "internal error"}
}

type errorBody struct {
	Error          string `json:"error"`
	Message        string `json:"message"`
	RequestID      string `json:"request_id"`
	IdempotencyKey string `json:"idempotency_key,omitempty"` // of outcome_unknown
}

func errorAnswer(q *request, err error) answer {
	o := outcomeOf(err)
	if o.status == http.StatusForbidden && errors.Is(err, vault.ErrRefused) && q.token.IsZero() {
		// The request had no token, so the database refused the daemon's own role; the reason is in the log only.
		o.message = "the database refuses this daemon"
	}
	body := errorBody{Error: o.code, Message: o.message, RequestID: q.id}
	if errors.Is(err, vault.ErrOutcomeUnknown) {
		body.IdempotencyKey = q.change.String()
	}
	ans := jsonAnswer(o.status, body)
	if o.retry > 0 {
		ans.header.Set("Retry-After", strconv.Itoa(int(math.Ceil(o.retry.Seconds()))))
	}
	if o.allow != nil {
		ans.header.Set("Allow", *o.allow)
	}
	return ans
}

// jsonAnswer is for answers that hold no value.
func jsonAnswer(status int, v any) answer {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err) // the types are this package's own
	}
	return answer{status: status, contentType: "application/json", header: http.Header{}, body: append(body, '\n')}
}
