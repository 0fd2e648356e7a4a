package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/access"
	"github.com/hyperiondb/vault/internal/access/accessdb"
	"github.com/hyperiondb/vault/internal/vault"
)

const (
	pauseRevoked = 5 * time.Millisecond // between reads with a token that is being revoked, to see its first refusal
	pauseFutile  = time.Second          // between reads that vaultd will refuse: it limits failed credentials to 5/s
	watchedApps  = 4                    // the newest apps that a reader watches at once
	sightLimit   = 5 * time.Second      // of one look at a node's server
	revokeTries  = 20
)

// app is an app with one token and a rule for one secret, which exists from the beginning.
type app struct {
	name, secret string
	token        access.Token
}

// apps are the apps of a run, shared by the goroutine that changes them and the readers.
type apps struct {
	prepared []app // written by prepareApps alone

	mu     sync.Mutex
	made   []app // in the order of their creation, which may have failed without an answer
	ending map[uuid.UUID]bool
}

func (a *apps) add(one app) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.made = append(a.made, one)
}

// end says that the token's revocation is about to be sent.
func (a *apps) end(token uuid.UUID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ending == nil {
		a.ending = map[uuid.UUID]bool{}
	}
	a.ending[token] = true
}

func (a *apps) isEnding(token uuid.UUID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ending[token]
}

// tokens returns the text of every token, for a search.
func (a *apps) tokens() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var texts []string
	for _, one := range slices.Concat(a.prepared, a.made) {
		texts = append(texts, one.token.Reveal())
	}
	return texts
}

// newest returns up to n apps that pass, the newest first.
func (a *apps) newest(n int, pass func(app) bool) []app {
	a.mu.Lock()
	defer a.mu.Unlock()
	var some []app
	for _, one := range slices.Backward(a.made) {
		if len(some) == n {
			break
		}
		if pass(one) {
			some = append(some, one)
		}
	}
	return some
}

func (c Cluster) hasApps() bool {
	return slices.ContainsFunc(c.Nodes, func(n Node) bool { return n.ServerURL != "" })
}

// prepareApps makes an app for each fixed name. Their tokens are never revoked.
func (w *Workload) prepareApps(ctx context.Context, v *vault.Vault) error {
	for i := range fixedNames {
		one := app{fmt.Sprintf("chaos-fixed-%d", i), fixedName(i), access.NewToken()}
		if made := w.createApp(ctx, v, one, true); made.Outcome != Acked {
			return fmt.Errorf("preparing app %q: %s: %s", one.name, made.Outcome, made.Why)
		}
		w.apps.prepared = append(w.apps.prepared, one)
	}
	return nil
}

// useApps starts the goroutine that changes apps, and a reader for each node.
func (w *Workload) useApps(ctx context.Context, running *sync.WaitGroup, client int, v *vault.Vault) {
	running.Go(func() { w.changeApps(ctx, client, v) })
	for i, node := range w.Cluster.Nodes {
		running.Go(func() {
			r := appReader{w: w, node: node, random: w.random(client + 1 + i), refused: map[uuid.UUID]bool{},
				browser: &http.Client{Timeout: callLimit}}
			r.run(ctx)
		})
	}
}

// changeApps makes apps, one after the other, and revokes the token of each.
func (w *Workload) changeApps(ctx context.Context, client int, v *vault.Vault) {
	random := w.random(client)
	for i := 0; ctx.Err() == nil; i++ {
		one := app{fmt.Sprintf("chaos-%d", i), fixedName(random.IntN(fixedNames)), access.NewToken()}
		lifetime := time.Duration(100+random.IntN(300)) * time.Millisecond
		if made := w.createApp(ctx, v, one, false); made.Outcome == Failed {
			wait(ctx, pauseRefused)
			continue
		}
		w.apps.add(one)
		wait(ctx, lifetime)
		w.apps.end(one.token.ID())
		for range revokeTries {
			if ctx.Err() != nil || w.revoke(ctx, v, one).Outcome != Failed {
				break
			}
			wait(ctx, pauseRefused)
		}
	}
}

// createApp makes an app and records the outcome.
func (w *Workload) createApp(ctx context.Context, v *vault.Vault, one app, prepared bool) AppChange {
	return w.changeApp(ctx, AppChange{Action: "create", App: one.name, Token: one.token.ID(), Prepared: prepared},
		func(ctx context.Context, c vault.Change) error {
			_, err := v.CreateApp(ctx, c, one.name, []accessdb.Rule{{Pattern: one.secret, Actions: access.DefaultActions}},
				[]accessdb.NewCredential{{ID: one.token.ID(), Kind: access.ByToken, Fingerprint: one.token.Fingerprint()}})
			return err
		})
}

// revoke ends the token of an app and records the outcome.
func (w *Workload) revoke(ctx context.Context, v *vault.Vault, one app) AppChange {
	id := one.token.ID()
	return w.changeApp(ctx, AppChange{Action: "revoke", App: one.name, Token: id},
		func(ctx context.Context, c vault.Change) error {
			_, err := v.RevokeAppCredential(ctx, c, one.name, &id)
			return err
		})
}

// changeApp makes one change, also if ctx has ended, because the ledger needs an outcome.
func (w *Workload) changeApp(ctx context.Context, next AppChange,
	change func(context.Context, vault.Change) error) AppChange {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callLimit)
	defer cancel()
	next.Called = time.Now()
	err := change(ctx, vault.Change{Token: w.Cluster.Token, RequestID: uuid.New()})
	next.Returned = time.Now()
	switch {
	case err == nil:
		next.Outcome = Acked
	case errors.Is(err, vault.ErrOutcomeUnknown):
		next.Outcome, next.Why = Unknown, err.Error()
	default:
		next.Outcome, next.Why = Failed, err.Error()
	}
	w.Ledger.changedApp(next)
	return next
}

// appReader reads with the tokens of apps through one node's vaultd, and looks at the node's server before and after.
type appReader struct {
	w       *Workload
	node    Node
	random  *rand.Rand
	browser *http.Client
	server  *pgx.Conn          // nil = not connected
	refused map[uuid.UUID]bool // tokens that this node has refused since their revocation was sent
	futile  time.Time          // of the last read that had to be refused
}

func (r *appReader) run(ctx context.Context) {
	defer r.browser.CloseIdleConnections()
	defer r.leave()
	for ctx.Err() == nil {
		one, name := r.pick()
		read := AppRead{Node: r.node.Name, App: one.name, Token: one.token.ID(), Name: name, Own: name == one.secret}
		read.Before, read.Standby = r.look(ctx, read.Token)
		if (read.Before == Absent || r.refused[read.Token]) && !r.mayBeFutile() {
			wait(ctx, pause)
			continue
		}
		// Before the request: a refusal of a request that was under way when the revocation was sent counts too.
		ending := r.w.apps.isEnding(read.Token)
		read.Called = time.Now()
		read.Status = r.fetch(ctx, one, name)
		read.Returned = time.Now()
		if ctx.Err() != nil {
			return // canceled by the end of the run
		}
		if session := r.server; read.Before != Unseen {
			if read.After, _ = r.look(ctx, read.Token); r.server != session {
				read.After = Unseen
			}
		}
		r.w.Ledger.readAsApp(read)
		switch {
		case ending && read.Own && read.Status == http.StatusForbidden:
			r.refused[read.Token] = true
			wait(ctx, pause)
		case read.Status != http.StatusOK && read.Status != http.StatusForbidden:
			wait(ctx, pauseRefused)
		case ending:
			wait(ctx, pauseRevoked)
		default:
			wait(ctx, pause)
		}
	}
}

// pick chooses an app and the name to read: most often one whose token is being revoked, sometimes one that this node
// has refused before, and sometimes a name of another app.
func (r *appReader) pick() (app, string) {
	apps := &r.w.apps
	watched := apps.newest(watchedApps, func(a app) bool { return !r.refused[a.token.ID()] })
	i := r.random.IntN(len(apps.prepared))
	switch n := r.random.IntN(20); {
	case n == 0:
		return apps.prepared[i], fixedName((i + 1) % fixedNames)
	case n == 1:
		return apps.prepared[i], dueName(r.random.IntN(dueNames))
	case n == 2:
		if gone := apps.newest(50, func(a app) bool { return r.refused[a.token.ID()] }); len(gone) > 0 {
			one := gone[r.random.IntN(len(gone))]
			return one, one.secret
		}
	case n < 16 && len(watched) > 0:
		one := watched[r.random.IntN(len(watched))]
		// The newest first: the revocation of an older one may have been lost without an answer.
		if i := slices.IndexFunc(watched, func(a app) bool { return apps.isEnding(a.token.ID()) }); i >= 0 {
			one = watched[i]
		}
		return one, one.secret
	}
	return apps.prepared[i], apps.prepared[i].secret
}

// mayBeFutile bounds the reads that are refused for their token.
func (r *appReader) mayBeFutile() bool {
	if time.Since(r.futile) < pauseFutile {
		return false
	}
	r.futile = time.Now()
	return true
}

// look returns what the node's own server shows of a token. A session that fails is left.
func (r *appReader) look(ctx context.Context, token uuid.UUID) (Standing, bool) {
	ctx, cancel := context.WithTimeout(ctx, sightLimit)
	defer cancel()
	if r.server == nil {
		conn, err := pgx.Connect(ctx, r.node.ServerURL)
		if err != nil {
			return Unseen, false
		}
		r.server = conn
	}
	var seen Standing
	var standby bool
	row := r.server.QueryRow(ctx, `SELECT coalesce((SELECT CASE WHEN revoked_at IS NULL THEN 'live' ELSE 'revoked' END
		FROM vault.app_credentials WHERE id = $1), 'absent'), pg_is_in_recovery()`, token)
	if err := row.Scan(&seen, &standby); err != nil {
		r.leave()
		return Unseen, false
	}
	return seen, standby
}

func (r *appReader) leave() {
	if r.server != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = r.server.Close(ctx)
		r.server = nil
	}
}

// fetch makes one GET with the app's token and returns the status, or 0 without an answer.
func (r *appReader) fetch(ctx context.Context, one app, name string) int {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.node.DaemonURL+"/v1/secrets/"+name, nil)
	if err != nil {
		return 0
	}
	request.Header.Set("Authorization", "Bearer "+one.token.Reveal())
	response, err := r.browser.Do(request)
	if err != nil {
		return 0
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(response.Body, 1<<20)); err != nil {
		return 0
	}
	return response.StatusCode
}
