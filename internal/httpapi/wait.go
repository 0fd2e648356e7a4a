package httpapi

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hyperiondb/vault/internal/vault"
)

const (
	// MinWait and MaxWait bound wait=. The least keeps a mistyped unit from becoming a request in a loop; the most
	// bounds how long a client that vanished without closing its connection holds it.
	MinWait = time.Second
	MaxWait = 5 * time.Minute

	// DefaultMaxWaits is half of the connections that a daemon accepts where descriptors are plenty.
	DefaultMaxWaits = 2048

	// waitSuffix is added to the route of a request with wait= in metrics and the access log.
	waitSuffix = "?wait"
)

// parseWait reads ?wait=. It needs the one version that the client has: a wait without would be answered at once, and
// repeated at once.
func (q *request) parseWait() error {
	if !q.params.Has("wait") {
		return nil
	}
	wait, err := time.ParseDuration(q.params.Get("wait"))
	switch {
	case err != nil || wait < MinWait || wait > MaxWait:
		return badRequest("wait is not a time from 1s to 5m, such as 60s")
	case q.params.Has("version"):
		return badRequest("wait is for the current version: leave out version")
	case ifNoneMatch(q.http.Header).one() == uuid.Nil:
		return badRequest("wait needs If-None-Match with the ETag of the one version that the client has")
	}
	q.wait = wait
	return nil
}

// waits bounds the requests that wait for a change, and ends their waits when the daemon stops.
type waits struct {
	await   func(ctx context.Context, name string, held, epoch uuid.UUID) error // vault.AwaitChange
	admit   func(context.Context, *request) error                               // policy and rights may have changed
	most    int
	address int // of one address

	ending context.Context // done when the daemon stops
	end    context.CancelFunc

	mu       sync.Mutex
	now      int
	byClient map[netip.Prefix]int
}

func newWaits(v *vault.Vault, admit func(context.Context, *request) error, most, perAddress int) *waits {
	if most == 0 {
		most = DefaultMaxWaits
	}
	if perAddress == 0 {
		perAddress = max(most/4, 1)
	}
	w := &waits{await: v.AwaitChange, admit: admit, most: most, address: perAddress, byClient: map[netip.Prefix]int{}}
	w.ending, w.end = context.WithCancel(context.Background())
	return w
}

// untilChanged reads again after every sign of a change, until the answer is another than ErrNotModified, the wait of
// the request is over, or the daemon stops. What ends the wait is always a read, with all that a read checks.
func (w *waits) untilChanged(ctx context.Context, q *request, held uuid.UUID,
	read func() (*vault.Secret, error)) (*vault.Secret, error) {
	if err := w.enter(q.client); err != nil {
		return nil, err
	}
	defer w.leave(q.client)
	until := time.Now().Add(q.wait)
	q.moveDeadlines(until)
	waiting, stop := context.WithDeadline(ctx, until)
	defer stop()
	defer context.AfterFunc(w.ending, stop)()
	for {
		q.leaveTurn() // others are answered meanwhile
		err := w.await(waiting, q.secret, held, q.caller.epoch)
		if ctx.Err() != nil {
			return nil, ctx.Err() // the client has left
		}
		if err := w.admit(ctx, q); err != nil {
			return nil, err
		}
		s, readErr := read()
		if err != nil || !errors.Is(readErr, vault.ErrNotModified) {
			return s, readErr
		}
	}
}

// moveDeadlines allows the server's connection as long as the wait, and then what a read may take. Without it the read
// deadline of the request would end its context, and the write deadline its answer. net/http sets both anew for the
// next request of the connection.
func (q *request) moveDeadlines(until time.Time) {
	c := http.NewResponseController(q.writer)
	// A writer without deadlines, as in a test, has none to move.
	_ = c.SetReadDeadline(until.Add(2 * ReadTimeout))
	_ = c.SetWriteDeadline(until.Add(2 * ReadTimeout))
}

// enter counts a wait, or refuses it. Those over a unix socket are counted in all only: one address is many clients.
func (w *waits) enter(c client) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := bucketOf(c)
	switch {
	case !c.unix && w.byClient[key] >= w.address:
		return tooManyWaits("too many requests of this address wait for a change: read without wait, or later")
	case w.now >= w.most:
		return tooManyWaits("too many requests wait for a change: read without wait, or later")
	}
	w.now++
	w.byClient[key]++
	return nil
}

func (w *waits) leave(c client) {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := bucketOf(c)
	w.now--
	if w.byClient[key]--; w.byClient[key] == 0 {
		delete(w.byClient, key)
	}
}

func (w *waits) register(r prometheus.Registerer) {
	r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "vaultd_http_waits_in_flight",
		Help: "Requests that wait for a secret to change. vaultd_http_requests_in_flight has them too.",
	}, func() float64 {
		w.mu.Lock()
		defer w.mu.Unlock()
		return float64(w.now)
	}))
}
