package chaos

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/hyperiondb/vault/internal/vault"
)

const (
	namesAtOnce  = 3                // written in one epoch: fewer than writers, so that writers conflict
	epoch        = 10 * time.Second // then other names follow, so that each history is short enough to check
	fixedNames   = 4                // written throughout, and read on the standbys: they exist from the beginning
	dueNames     = 12               // automatic secrets
	callLimit    = 90 * time.Second // of one write or read; more than the product's own deadlines
	pause        = 20 * time.Millisecond
	pauseCLI     = 100 * time.Millisecond // processes without pauses would leave the others little of the machine
	pauseRefused = 150 * time.Millisecond // after a failure, as a client does after "unavailable"
)

// Workload keeps a vault busy.
type Workload struct {
	Cluster     Cluster
	Ledger      *Ledger
	Timeline    *Timeline
	Seed        uint64
	Writers     int           // in this process
	CLIWriters  int           // running vaultctl
	RotateEvery time.Duration // of automatic secrets; 0 = a minute, the shortest
	Rotator     string        // a spec that every vaultd can run; "" = no secret has a rotator
	Crashes     []string      // failpoints at which a vaultctl is sometimes killed; none: built without failpoints

	begun   time.Time
	due     sync.Mutex // two calls at once would move one due time twice
	dueConn *pgx.Conn  // guarded by due; kept from call to call. nil: none
	apps    apps
}

// Prepare makes the secrets that exist from the beginning. Its caller then waits until all nodes have replayed them.
func (w *Workload) Prepare(ctx context.Context) error {
	v, err := w.Cluster.openPrimary(ctx, 2)
	if err != nil {
		return err
	}
	defer v.close()
	for i := range fixedNames {
		if r := w.put(ctx, v.Vault, 0, Write{Action: "put", Name: fixedName(i), Expect: 0}); r.Outcome != Acked {
			return fmt.Errorf("preparing %q: %s: %s", r.Name, r.Outcome, r.Why)
		}
	}
	for i := range dueNames {
		if err := w.prepareDue(ctx, v.Vault, i); err != nil {
			return fmt.Errorf("preparing %q: %w", dueName(i), err)
		}
	}
	if !w.Cluster.hasApps() {
		return nil
	}
	return w.prepareApps(ctx, v.Vault)
}

// prepareDue makes one automatic secret. Every fourth has the rotator.
func (w *Workload) prepareDue(ctx context.Context, v *vault.Vault, i int) error {
	generator, interval, value := "hex:32", cmp.Or(w.RotateEvery, time.Minute), newValue()
	settings := vault.Settings{Generator: &generator, RotateEvery: &interval}
	if hasRotator(i) && w.Rotator != "" {
		settings.Rotator = &w.Rotator
	}
	made := Write{Action: "put", Name: dueName(i), Hash: sha256.Sum256(value), Outcome: Acked, Called: time.Now()}
	receipt, err := v.Put(ctx, vault.PutRequest{Change: vault.Change{Token: w.Cluster.Token}, Name: made.Name,
		Value: value, Settings: settings})
	if err != nil {
		return err
	}
	made.Request, made.Version, made.Returned = receipt.RequestID, receipt.Version, time.Now()
	w.Ledger.wrote(made)
	return nil
}

func hasRotator(i int) bool { return i%4 == 0 }

func fixedName(i int) string { return fmt.Sprintf("chaos/fixed/n%d", i) }
func dueName(i int) string   { return fmt.Sprintf("chaos/due/n%d", i) }

// epochName is one of the names written now.
func (w *Workload) epochName(i int) string {
	return fmt.Sprintf("chaos/epoch%d/n%d", time.Since(w.begun)/epoch, i)
}

// Run works until ctx ends, and returns when all its calls have ended.
func (w *Workload) Run(ctx context.Context) error {
	w.begun = time.Now()
	v, err := w.Cluster.openPrimary(ctx, 2*w.Writers)
	if err != nil {
		return err
	}
	defer v.close()
	defer w.leaveDue()
	var running sync.WaitGroup
	for i := range w.Writers {
		running.Go(func() { w.write(ctx, i+1, v.Vault) })
	}
	for i := range w.CLIWriters {
		running.Go(func() { w.writeCLI(ctx, w.Writers+i+1) })
	}
	for i, node := range w.Cluster.Nodes {
		running.Go(func() { w.readNode(ctx, w.Writers+w.CLIWriters+i+1, node) })
	}
	running.Go(func() { w.makeDue(ctx) })
	if w.Cluster.hasApps() {
		w.useApps(ctx, &running, w.Writers+w.CLIWriters+len(w.Cluster.Nodes)+1, v.Vault)
	}
	running.Wait()
	return nil
}

// random returns a client's random source, the same for a seed.
func (w *Workload) random(client int) *rand.Rand {
	return rand.New(rand.NewPCG(w.Seed, uint64(client)))
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// write is one writer of this process: it reads a name on the primary, and puts after the version it read, or after
// any, or rotates.
func (w *Workload) write(ctx context.Context, client int, v *vault.Vault) {
	random := w.random(client)
	for ctx.Err() == nil {
		next := Write{Action: "put", Name: w.epochName(random.IntN(namesAtOnce)), Expect: -1}
		switch n := random.IntN(20); {
		case n < 3:
			next.Name = fixedName(random.IntN(fixedNames))
		case n < 15:
			version, ok := w.readPrimary(ctx, client, v, next.Name)
			if !ok {
				wait(ctx, pauseRefused)
				continue
			}
			next.Expect = version
		case n < 17:
			next.Action = "rotate"
		}
		done := w.put(ctx, v, client, next)
		if done.Outcome == Acked {
			wait(ctx, pause)
		} else {
			wait(ctx, pauseRefused)
		}
	}
}

// put makes one write with an unused value, and records its outcome. It continues when ctx ends, because the ledger
// needs an outcome.
func (w *Workload) put(ctx context.Context, v *vault.Vault, client int, next Write) Write {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callLimit)
	defer cancel()
	value := newValue()
	next.Client, next.Hash, next.Request, next.Called = client, sha256.Sum256(value), uuid.New(), time.Now()
	change := vault.Change{Token: w.Cluster.Token, RequestID: next.Request}
	var receipt vault.Receipt
	var err error
	if next.Action == "rotate" {
		receipt, err = v.Rotate(ctx, vault.RotateRequest{Change: change, Name: next.Name, Value: value})
	} else {
		request := vault.PutRequest{Change: change, Name: next.Name, Value: value}
		if next.Expect >= 0 {
			request.CAS = &next.Expect
		}
		receipt, err = v.Put(ctx, request)
	}
	next.Returned = time.Now()
	switch {
	case err == nil:
		next.Outcome, next.Version = Acked, receipt.Version
	case errors.Is(err, vault.ErrOutcomeUnknown):
		next.Outcome, next.Why = Unknown, err.Error()
	default:
		next.Outcome, next.Why = Failed, err.Error()
	}
	w.Ledger.wrote(next)
	return next
}

// newValue returns a unique value.
func newValue() []byte { return []byte("chaos-" + uuid.NewString()) }

// readPrimary reads the current version and records the answer.
func (w *Workload) readPrimary(ctx context.Context, client int, v *vault.Vault, name string) (version int, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	read := Read{Name: name, Client: client, Called: time.Now()}
	secret, err := v.Get(ctx, name, vault.GetOptions{})
	read.Returned = time.Now()
	switch {
	case errors.Is(err, vault.ErrNotFound):
	case err != nil:
		return 0, false // without an answer there is nothing to record
	default:
		defer secret.Wipe()
		read.Version, read.Hash = secret.Version, sha256.Sum256(secret.Value)
	}
	w.Ledger.read(read)
	return read.Version, true
}

// writeCLI is one writer that runs vaultctl. Some runs are killed: at a failpoint, or at any time.
func (w *Workload) writeCLI(ctx context.Context, client int) {
	random := w.random(client)
	known := map[string]int{} // versions that vaultctl has printed
	for crash := 0; ctx.Err() == nil; {
		next := Write{Action: "put", Client: client, Name: w.epochName(random.IntN(namesAtOnce)), Expect: -1}
		if version, ok := known[next.Name]; ok && random.IntN(2) == 0 {
			next.Expect = version
		}
		var failpoint string
		var killAfter time.Duration
		switch n := random.IntN(8); {
		case n == 0 && len(w.Crashes) > 0:
			failpoint = w.Crashes[crash%len(w.Crashes)]
			crash++
		case n == 1:
			killAfter = time.Duration(10+random.IntN(60)) * time.Millisecond
		}
		done := w.putCLI(ctx, next, failpoint, killAfter)
		if done.Outcome == Acked {
			known[done.Name] = done.Version
			wait(ctx, pauseCLI)
		} else {
			wait(ctx, pauseRefused)
		}
	}
}

// putCLI runs one vaultctl put and records its exit code.
func (w *Workload) putCLI(ctx context.Context, next Write, failpoint string, killAfter time.Duration) Write {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*callLimit)
	defer cancel()
	value := newValue()
	next.Hash, next.Called = sha256.Sum256(value), time.Now()
	args := []string{"put", next.Name, "-", "-o", "json"}
	if next.Expect >= 0 {
		args = append(args, "--cas", strconv.Itoa(next.Expect))
	}
	command := exec.CommandContext(ctx, w.Cluster.Vaultctl, args...)
	command.Env = slices.Clone(w.Cluster.VaultctlEnv)
	if failpoint != "" {
		command.Env = append(command.Env, "VAULT_FAILPOINT="+failpoint)
	}
	var out, talk bytes.Buffer
	command.Stdin, command.Stdout, command.Stderr = bytes.NewReader(value), &out, &talk
	err := command.Start()
	if err == nil {
		if killAfter > 0 {
			timer := time.AfterFunc(killAfter, func() { _ = command.Process.Kill() })
			defer timer.Stop()
		}
		err = command.Wait()
	}
	next.Returned = time.Now()
	next.Outcome = cliOutcome(command, err)
	switch {
	case next.Outcome == Acked:
		var receipt vault.Receipt
		if err := json.Unmarshal(out.Bytes(), &receipt); err != nil {
			next.Outcome, next.Why = Unknown, "vaultctl said it was done and did not say what"
			break
		}
		next.Version, next.Request = receipt.Version, receipt.RequestID
	case killed(command) && failpoint != "":
		w.Timeline.Fault("vaultctl dies at " + failpoint)
	case killed(command):
		w.Timeline.Fault("vaultctl killed")
	}
	if next.Outcome != Acked && next.Why == "" {
		next.Why = strings.TrimSpace(talk.String())
	}
	w.Ledger.wrote(next)
	return next
}

// cliOutcome maps the exit code as its users do: 0 done, 7 unknown, all others not done. The outcome is unknown too if
// vaultctl was killed, or did not start.
func cliOutcome(command *exec.Cmd, err error) Outcome {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return Acked
	case !errors.As(err, &exit) || killed(command) || exit.ExitCode() == 7:
		return Unknown
	default:
		return Failed
	}
}

func killed(command *exec.Cmd) bool {
	if command.ProcessState == nil {
		return false
	}
	status, ok := command.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled()
}

// readNode reads through one node's vaultd without a pause, be the node primary, standby or broken.
func (w *Workload) readNode(ctx context.Context, client int, node Node) {
	random := w.random(client)
	browser := &http.Client{Timeout: callLimit}
	defer browser.CloseIdleConnections()
	for ctx.Err() == nil {
		name := dueName(random.IntN(dueNames))
		if random.IntN(2) == 0 {
			name = fixedName(random.IntN(fixedNames))
		}
		read := Read{Node: node.Name, Name: name, Client: client, Called: time.Now()}
		err := fetch(ctx, browser, node.DaemonURL+"/v1/secrets/"+name, &read)
		read.Returned = time.Now()
		if ctx.Err() != nil {
			return // canceled by the end of the run
		}
		attempt := Attempt{Node: node.Name, Called: read.Called, Returned: read.Returned}
		if err != nil {
			attempt.Err = err.Error()
		} else {
			w.Ledger.read(read)
		}
		w.Ledger.attempted(attempt)
		wait(ctx, pause)
	}
}

// fetch makes one GET and fills in the read.
func fetch(ctx context.Context, browser *http.Client, url string, into *Read) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := browser.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d: %s", response.StatusCode, bytes.TrimSpace(body))
	}
	var secret struct {
		Version         int
		Value, Encoding string
	}
	if err := json.Unmarshal(body, &secret); err != nil {
		return err
	}
	value := []byte(secret.Value)
	if secret.Encoding == "base64" {
		if value, err = base64.StdEncoding.DecodeString(secret.Value); err != nil {
			return err
		}
	}
	into.Version, into.Hash = secret.Version, sha256.Sum256(value)
	return nil
}

// makeDue moves the due time of automatic secrets that are not due to now, since an interval takes a minute at least.
// A due time that the database has acknowledged is recorded for the oracle.
func (w *Workload) makeDue(ctx context.Context) {
	for ctx.Err() == nil {
		if err := w.MakeDue(ctx, 2); err != nil {
			wait(ctx, pauseRefused)
		}
		wait(ctx, 300*time.Millisecond)
	}
}

// MakeDue makes up to n secrets due that are neither due nor being rotated. It keeps its session; if that has ended, or
// its server is no longer the primary, it tries once more over another.
func (w *Workload) MakeDue(ctx context.Context, n int) error {
	return w.makeDueUnder(ctx, "chaos/due/", n)
}

func (w *Workload) makeDueUnder(ctx context.Context, prefix string, n int) error {
	w.due.Lock()
	defer w.due.Unlock()
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	if w.dueConn != nil {
		err := w.moveDue(ctx, prefix, n)
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
	conn, err := pgx.Connect(ctx, w.Cluster.SuperuserURL)
	if err != nil {
		return err
	}
	w.dueConn = conn
	return w.moveDue(ctx, prefix, n)
}

// moveDue is called with due held. It leaves the session after an error.
func (w *Workload) moveDue(ctx context.Context, prefix string, n int) (err error) {
	defer func() {
		if err != nil {
			w.leaveDue()
		}
	}()
	rows, err := w.dueConn.Query(ctx, `UPDATE vault.secrets s SET next_rotation_at = clock_timestamp() FROM (
			SELECT id FROM vault.secrets WHERE next_rotation_at > clock_timestamp() AND name ^@ $2
			  AND NOT EXISTS (SELECT FROM vault.rotation_jobs j
			    WHERE j.secret_id = secrets.id AND j.state IN ('queued', 'claimed'))
			ORDER BY rotated_at LIMIT $1 FOR UPDATE SKIP LOCKED) AS picked
		WHERE s.id = picked.id RETURNING s.name, s.next_rotation_at`, n, prefix)
	if err != nil {
		return err
	}
	var moved []Due
	for rows.Next() {
		var d Due
		if err := rows.Scan(&d.Name, &d.At); err != nil {
			return err
		}
		moved = append(moved, d)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for _, d := range moved {
		w.Ledger.due(d)
	}
	return nil
}

// leaveDue ends the session of MakeDue. It is called with due held, or when no call is in progress.
func (w *Workload) leaveDue() {
	if w.dueConn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = w.dueConn.Close(ctx)
		w.dueConn = nil
	}
}
