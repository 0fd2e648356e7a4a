package httpapi

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/access"
	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/vault"
)

// endpoint is what differs between requests.
type endpoint struct {
	name   string   // in metrics and the access log; never the name of a secret
	action string   // in the audit log
	named  bool     // the path holds the name of a secret
	query  []string // the parameters it takes, each at most once
	// it ignores all parameters, known or not
	anyQuery bool
	body     bool // it takes one
	admin    bool // it wants an admin token
	// it reads the local node, which must have replayed what the request names and be fresh enough for the daemon; such
	// an endpoint keeps to ReadTimeout itself
	local   bool
	waits   bool          // it takes wait=, and then waits for a change
	limited bool          // it counts against the client's rate
	quiet   bool          // its access log line is for debugging
	timeout time.Duration // 0 = ReadTimeout

	// What the caller needs: a rule that allows the action, or a valid credential alone.
	access     access.Action // "" = none
	identified bool
	exempt     bool   // it counts against no limit
	api        string // in the audit log; "" = native
	do         func(ctx context.Context, q *request) (answer, error)
}

// router finds the endpoint of a request by its method and decoded path, and the secret that the path names; of a
// listing, the folder.
type router func(r *http.Request) (e *endpoint, secret string, err error)

// request holds the results of the steps in serve.
type request struct {
	http    *http.Request
	id      string
	started time.Time
	client  client
	route   *endpoint // nil until there is one
	secret  string    // a valid name, or empty
	folder  string    // of a listing: what its names begin with
	params  url.Values

	// Of a secret's endpoint.
	api    *API
	guard  *guard
	caller caller
	turn   func() // ends its turn; nil if it has none

	// Of a local endpoint.
	node   *node
	minLSN vault.LSN // 0 = any

	waits  *waits
	wait   time.Duration       // 0 = it is answered at once
	writer http.ResponseWriter // whose deadlines a wait moves

	// Of a read or verify: recorded before it is answered.
	event       audit.Event
	unconfirmed time.Duration // how long ago the node was last heard, if it is away

	// Of an admin endpoint.
	token  vault.Token
	change uuid.UUID // the id under which the write can be repeated
}

// interfaceName is the part of the daemon that the endpoint belongs to, for the audit log.
func (e *endpoint) interfaceName() string {
	if e.api == "" {
		return "native"
	}
	return e.api
}

// answer is the result of an endpoint. serve overwrites the body after it was written.
type answer struct {
	status      int // 0 = 200
	contentType string
	etag        string      // "" unless the answer is a version
	header      http.Header // further headers
	body        []byte
}

// statusGone is for log and metrics only: the client disconnected before there was an answer.
const statusGone = 499

// serve handles every request of both handlers: it answers, records and logs it.
func (a *API) serve(find router,
	admit func(*http.Request) (client, error), record func(*request, router, error) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		started := time.Now()
		q := &request{http: r, id: requestID(r, started), started: started, waits: a.waits, writer: w}
		a.metrics.inFlight.Inc()
		defer a.metrics.inFlight.Dec()

		ans, err := a.answer(q, find, admit)
		if err != nil && r.Context().Err() != nil {
			a.logRequest(q, statusGone, time.Since(started), nil)
			panic(http.ErrAbortHandler) // closes the connection, and net/http logs nothing
		}
		a.metrics.count(q, err)
		if unrecorded := record(q, find, err); unrecorded != nil {
			envelope.Wipe(ans.body)
			err = unrecorded
		}
		if err != nil {
			if ans = errorAnswer(q, err); speaksKV(find, r) {
				ans = kvErrorAnswer(err)
			}
		}
		if a.draining.Load() {
			w.Header().Set("Connection", "close")
		}
		status := write(w, q, ans)
		a.logRequest(q, status, time.Since(started), err)
	})
}

// answer takes the steps in the order of the package doc.
func (a *API) answer(q *request, find router, admit func(*http.Request) (client, error)) (ans answer, err error) {
	var settle func(verdict) // nil: there is no admin token to judge
	defer func() {
		if settle != nil {
			settle(verdictOf(err)) // after a panic has become an error
		}
	}()
	defer func() {
		if v := recover(); v != nil {
			if v == http.ErrAbortHandler {
				err = http.ErrAbortHandler
				panic(v)
			}
			err = &panicked{kind: fmt.Sprintf("%T", v), stack: debug.Stack()}
		}
	}()
	q.guard = a.guard.Load()
	if q.client, err = admit(q.http); err != nil {
		a.metrics.refused.WithLabelValues(outcomeOf(err).reason).Inc()
		return answer{}, err
	}
	if err := q.resolve(find); err != nil {
		return answer{}, err
	}
	if !q.route.exempt {
		if err := q.guard.limits.takeRate(q.http.Context(), q.client, q.started); err != nil {
			return answer{}, err
		}
	}
	if q.route.access != "" || q.route.identified {
		if err := a.authorise(q.http.Context(), q, q.guard); err != nil {
			return answer{}, err
		}
	}
	if !q.route.exempt && !q.guard.limits.none() {
		if err := q.guard.limits.takeAppRate(q.http.Context(), q.caller.App, q.started); err != nil {
			return answer{}, err
		}
		if err := q.takeTurn(q.http.Context()); err != nil {
			return answer{}, err
		}
		defer q.leaveTurn()
	}
	if q.route.admin {
		if err := q.parseToken(); err != nil {
			return answer{}, err
		}
		var wait time.Duration
		if settle, wait = a.guesses.admit(q.client, q.token, time.Now()); wait > 0 {
			return answer{}, tooManyTokens(wait)
		}
	}
	if q.route.limited {
		if err := q.guard.takeRateToken(q.client, time.Now()); err != nil {
			return answer{}, err
		}
	}
	timeout := q.route.timeout
	if timeout == 0 {
		timeout = ReadTimeout
	}
	if q.route.waits {
		if err := q.parseWait(); err != nil {
			return answer{}, err
		}
		timeout += q.wait
	}
	if q.route.local {
		if err := q.parseMinLSN(&a.node); err != nil {
			return answer{}, err
		}
		if q.minLSN == 0 {
			return q.route.do(q.http.Context(), q) // a context with a timer would cost a read as much as opening its value
		}
		timeout += a.node.atMost
	}
	ctx, cancel := context.WithTimeout(q.http.Context(), timeout)
	defer cancel()
	return q.route.do(ctx, q)
}

// panicked stands for a panic of an endpoint: its type and stack, never its value, which may hold anything.
type panicked struct {
	kind  string
	stack []byte
}

func (p *panicked) Error() string { return "panic with a " + p.kind }

func (q *request) resolve(find router) error {
	route, secret, err := find(q.http)
	q.route = route
	if err != nil {
		return err
	}
	if route.api == apiKV {
		if err := checkKVHeaders(q.http.Header); err != nil {
			return err
		}
	}
	if route.access == access.List {
		if q.folder, err = folderOf(secret); err != nil {
			return err
		}
	}
	if route.named {
		if err := envelope.CheckName(secret); err != nil {
			return err
		}
		q.secret = secret
	}
	if !route.anyQuery {
		if q.params, err = parseQuery(q.http.URL.RawQuery, route.query); err != nil {
			return err
		}
	}
	if !route.body && q.http.ContentLength != 0 {
		return badRequest("this request takes no body")
	}
	return nil
}

func parseQuery(raw string, known []string) (url.Values, error) {
	if raw == "" {
		return nil, nil
	}
	params, err := url.ParseQuery(raw)
	if err != nil {
		return nil, badRequest("the query cannot be read") // without err, which quotes it
	}
	for name, values := range params {
		if !slices.Contains(known, name) {
			return nil, badRequest("unknown query parameter, known here: " + listOr(known, "none"))
		}
		if len(values) > 1 {
			return nil, badRequest(fmt.Sprintf("query parameter %q is given twice", name))
		}
	}
	return params, nil
}

func listOr(names []string, none string) string {
	if len(names) == 0 {
		return none
	}
	return strings.Join(names, ", ")
}

// parseToken reads the token and the id of the change. The database decides what the token may do.
func (q *request) parseToken() error {
	scheme, text, _ := strings.Cut(q.http.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || len(q.http.Header.Values("Authorization")) != 1 {
		return noAdminToken("an admin token is needed: Authorization: Bearer hva_...")
	}
	token, err := vault.ParseToken(text)
	if err != nil {
		return noAdminToken(err.Error())
	}
	q.token = token
	q.change, err = idempotencyKey(q.http.Header)
	return err
}

func idempotencyKey(h http.Header) (uuid.UUID, error) {
	keys := h.Values("Idempotency-Key")
	if len(keys) == 0 {
		return uuid.New(), nil
	}
	// uuid.Parse takes other spellings than the 36 characters of RFC 9562.
	id, err := uuid.Parse(keys[0])
	if len(keys) != 1 || err != nil || len(keys[0]) != 36 || id == uuid.Nil {
		return uuid.Nil, badRequest("Idempotency-Key is not one UUID of 36 characters")
	}
	return id, nil
}

func (q *request) changed() vault.Change {
	return vault.Change{Token: q.token, RequestID: q.change, Client: q.client.addr}
}

// requestID takes the client's id only if it is safe to log.
func requestID(r *http.Request, now time.Time) string {
	id := r.Header.Get("X-Request-Id")
	if id == "" || len(id) > 64 || strings.ContainsFunc(id, func(c rune) bool { return !isIDChar(c) }) {
		return newRequestID(now)
	}
	return id
}

// newRequestID makes a UUID of version 7: it begins with the time, so that those of one time are neighbours in the
// index of the audit log. Its random bits tell requests apart and protect nothing, so they are not the kernel's.
func newRequestID(now time.Time) string {
	var id uuid.UUID
	binary.BigEndian.PutUint64(id[:8], uint64(now.UnixMilli())<<16|7<<12|rand.Uint64()>>52)
	binary.BigEndian.PutUint64(id[8:], 2<<62|rand.Uint64()>>2)
	return id.String()
}

func isIDChar(c rune) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-'
}

// Header values of every answer, or of every version. They are shared and never modified.
var (
	noStore    = []string{"no-store"}
	noSniff    = []string{"nosniff"}
	varyAccept = []string{"Accept"}
)

// unconfirmedKey is the header of an answer from memory while the node is away: the seconds since it was heard.
const unconfirmedKey = "Vault-Unconfirmed"

// write sends the answer, wipes its body and returns the status it had.
func write(w http.ResponseWriter, q *request, ans answer) int {
	defer envelope.Wipe(ans.body)
	if ans.status == 0 {
		ans.status = http.StatusOK
	}
	h := w.Header()
	maps.Copy(h, ans.header)
	own := &[...]string{q.id, ans.etag, ans.contentType, strconv.Itoa(len(ans.body))}
	h["X-Request-Id"] = own[0:1:1]
	h["Cache-Control"] = noStore
	h["X-Content-Type-Options"] = noSniff
	if ans.etag != "" {
		h["Etag"] = own[1:2:2]
		h["Vary"] = varyAccept
	}
	if q.unconfirmed > 0 {
		h[unconfirmedKey] = []string{strconv.FormatFloat(q.unconfirmed.Seconds(), 'f', 3, 64)}
	}
	if q.change != uuid.Nil {
		h["Idempotency-Key"] = []string{q.change.String()}
	}
	if ans.status != http.StatusNotModified {
		h["Content-Type"] = own[2:3:3]
		h["Content-Length"] = own[3:4:4]
	}
	w.WriteHeader(ans.status)
	if q.http.Method != http.MethodHead && len(ans.body) > 0 {
		_, _ = w.Write(ans.body) // it fails only if the client is gone
	}
	return ans.status
}

// logRequest counts a request and writes its one line in the log. The line of an answered read or verify is for
// debugging, since the audit log has it.
func (a *API) logRequest(q *request, status int, took time.Duration, err error) {
	route, level := "unknown", slog.LevelInfo
	if q.route != nil {
		route = q.route.name
		if q.wait > 0 {
			route += waitSuffix // its duration says nothing about how fast reads are
		}
		if q.route.quiet || q.route.local && err == nil {
			level = slog.LevelDebug
		}
	}
	if status == http.StatusTooManyRequests {
		level = slog.LevelDebug // a client in a loop must not fill the log; a metric counts them
	}
	a.metrics.observe(route, status, took, err)
	unlogged, lineless := 0, err == nil || status == http.StatusTooManyRequests
	if level == slog.LevelInfo && q.refused(err) {
		var ok bool
		if unlogged, ok = a.refusals.admit(outcomeOf(err), time.Now()); !ok {
			level, lineless = slog.LevelDebug, true
		}
	}
	if lineless && !a.log.Enabled(q.http.Context(), level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("method", shortMethod(q.http.Method)), slog.String("route", route), slog.Int("status", status),
		slog.Duration("took", took), slog.String("client", q.client.String()), slog.String("request_id", q.id),
	}
	if q.caller.App != "" {
		attrs = append(attrs, slog.String("app", q.caller.App))
	}
	if q.secret != "" {
		attrs = append(attrs, slog.String("secret", q.secret))
	}
	if !q.token.IsZero() {
		attrs = append(attrs, slog.String("token_id", q.token.ID().String()), slog.String("change_id", q.change.String()))
	}
	if err != nil {
		o := outcomeOf(err)
		attrs = append(attrs, slog.String("error", o.code))
		if o.reason != "" {
			attrs = append(attrs, slog.String("refused_for", o.reason))
		}
	}
	if unlogged > 0 {
		attrs = append(attrs, slog.Int("unlogged", unlogged)) // refusals for the same reason since the last line
	}
	var d *denial
	if errors.As(err, &d) && d.detail != "" {
		attrs = append(attrs, slog.String("detail", d.detail))
	}
	if err != nil && status >= 500 {
		level = slog.LevelError
		attrs = append(attrs, slog.String("detail", err.Error()))
	}
	var p *panicked
	if errors.As(err, &p) {
		attrs = append(attrs, slog.String("stack", string(p.stack)))
	}
	if u := unitOf(q.http.Context()); u != nil {
		attrs = append(attrs, u.log(q, err)...)
		if err != nil {
			level = slog.LevelError
		}
	}
	a.log.LogAttrs(context.WithoutCancel(q.http.Context()), level, "request", attrs...)
}

// refused reports whether the log has a bounded number of lines of such an error. It has a line of each failed change
// that came with an admin token, and of each refused unit, for which systemd shows no reason.
func (q *request) refused(err error) bool {
	if err == nil || unitOf(q.http.Context()) != nil {
		return false
	}
	status := outcomeOf(err).status
	change := q.route != nil && q.route.admin && status != http.StatusForbidden
	return status >= 400 && status < 500 && !change
}

// shortMethod keeps an invented method from filling the log.
func shortMethod(m string) string {
	return m[:min(len(m), 16)]
}
