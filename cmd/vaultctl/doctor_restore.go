package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/hyperiondb/vault/internal/audit/auditdb"
	"github.com/hyperiondb/vault/internal/audit/seal"
	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/kms"
	"github.com/hyperiondb/vault/internal/vault"
)

const (
	drillSample    = 100
	drillSampleMax = 100_000
	drillPage      = 100  // versions read by one statement: 6.5 MB of values at most
	drillListed    = 1000 // failures that are named one by one
)

// drillOptions are the flags of doctor that go with --restore.
type drillOptions struct {
	restore bool
	all     bool
	sample  int
	oldKeys []string // URIs of further KMS keys
	metrics string   // a file
	seals   auditVerifyOptions
}

// drillFlags are useless without --restore.
var drillFlags = []string{"all", "sample", "old-key", "audit-key", "seals", "metrics-file"}

func (o *drillOptions) register(cmd *cobra.Command) {
	o.seals.keyArg = "audit-key"
	flags := cmd.Flags()
	flags.BoolVar(&o.restore, "restore", false, "open stored versions and verify the audit log of this node alone")
	flags.BoolVar(&o.all, "all", false, "with --restore: open every version")
	flags.IntVar(&o.sample, "sample", drillSample, "with --restore: how many `versions` to open, chosen at random")
	flags.StringArrayVar(&o.oldKeys, "old-key", nil,
		"with --restore: `URI` of another KMS key that wrapped versions; may be given several times")
	flags.StringArrayVar(&o.seals.keys, "audit-key", nil,
		"with --restore: public `key` that may have sealed the audit log: ed25519:... (again for another)")
	flags.StringVar(&o.seals.copies, "seals", "",
		"with --restore: the seals seen before, as in audit verify: a node's `file`, or s3://...")
	flags.StringVar(&o.metrics, "metrics-file", "",
		"with --restore: write the result into this `file`, for node_exporter's textfile collector")
}

func (o *drillOptions) check(cmd *cobra.Command) error {
	for _, name := range drillFlags {
		if !o.restore && cmd.Flags().Changed(name) {
			return usage("--%s goes with --restore", name)
		}
	}
	switch {
	case o.all && cmd.Flags().Changed("sample"):
		return usage("--all and --sample exclude each other")
	case o.sample < 1 || o.sample > drillSampleMax:
		return usage("--sample is 1 to %d", drillSampleMax)
	}
	for _, uri := range o.oldKeys {
		if _, err := kms.ParseURI(uri); err != nil {
			return usage("--old-key: %s", oneLine(err))
		}
	}
	return nil
}

// drilling is one restore drill. Its JSON is the field "restore" of the answer.
type drilling struct {
	a       *app
	o       drillOptions
	node    *db.Examination
	vault   *vault.Vault
	keys    []db.StoredKey
	keyring *kms.Keyring

	Sampled  bool           `json:"sampled"`
	Stored   int64          `json:"stored"` // versions that have sealed bytes and that the role may read
	Opened   int64          `json:"opened"`
	Failed   int64          `json:"failed"`
	NotTried int64          `json:"not_tried"` // their KMS key is not given, or has failed
	KMSKeys  []drilledKey   `json:"kms_keys"`
	Failures []drillFailure `json:"failures"`
	NewestAt *time.Time     `json:"newest_version_at"`
	Audit    *seal.Report   `json:"audit"` // nil: it could not be read

	tick func(int64)
}

// drilledKey is a KMS key and its canary: the newest version that it wrapped.
type drilledKey struct {
	KMSKeyID string `json:"kms_key_id"`
	Versions int64  `json:"versions"`
	Opens    bool   `json:"opens"`

	failed int // calls in a row
}

type drillFailure struct {
	Name    string `json:"name"`
	Version int    `json:"version"`
	Error   string `json:"error"`
}

// runDrill opens stored versions of one node. It uses neither the primary nor the fence, so a spare that was promoted
// for the drill is not remembered as the newest primary, and its sessions are read-only.
func runDrill(ctx context.Context, a *app, o drillOptions) error {
	r := &drilling{a: a, o: o, Sampled: !o.all, KMSKeys: []drilledKey{}, Failures: []drillFailure{}}
	findings, err := r.run(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return err
	}
	d := diagnosis{Checks: []finding{}, Restore: r}
	d.add(findings...)
	if o.metrics != "" {
		if err := r.writeMetrics(o.metrics, d.Problems == 0, time.Now()); err != nil {
			f := problem("the folder has to exist and be writable by this user", "%s", messageOf(err))
			f.Check = "metrics file"
			d.add(f)
		}
	}
	return a.printDiagnosed(d)
}

// run returns the findings. Its error is one of the command line.
func (r *drilling) run(ctx context.Context) ([]finding, error) {
	options, err := r.o.seals.options()
	if err != nil {
		return nil, err
	}
	var all []finding
	add := func(name string, f finding) bool {
		if f.Check = name; f.Result != "" {
			all = append(all, f)
		}
		return f.Result != resultProblem
	}
	if !add("node", r.connect(ctx)) || !add("schema", checkSchema(ctx, &probe{a: r.a, node: r.node})) {
		return all, nil
	}
	if add("kms key", r.openKeyring(ctx)) {
		for _, f := range r.canaries(ctx) {
			add("canary", f)
		}
		for _, f := range r.versions(ctx) {
			add("versions", f)
		}
	}
	f, err := r.audit(ctx, options)
	add("audit seals", f)
	return all, err
}

// connect makes the reader without a fence.
func (r *drilling) connect(ctx context.Context) finding {
	options := db.Options{URL: r.a.databaseURL, ApplicationName: applicationName, MaxConns: 2, ReadOnly: true}
	node, err := db.Examine(ctx, options, false)
	if err != nil {
		return r.a.failure(err)
	}
	r.node = &node
	if r.a.reader, err = db.NewReader(ctx, options); err != nil {
		return r.a.failure(err)
	}
	kind := "a primary"
	if node.Recovering {
		kind = "a standby"
	}
	return fine("%s, %s, as role %q; nothing else is asked, and nothing is written", node.Host, kind, node.Role)
}

// openKeyring opens the key of --kms-key, else the vault's default one, and those of --old-key.
func (r *drilling) openKeyring(ctx context.Context) finding {
	uri := r.a.kmsKey
	if uri == "" {
		config, err := r.a.reader.Config(ctx)
		if err == nil {
			uri, err = defaultKey(config)
		}
		if err != nil {
			return r.a.failure(err)
		}
	}
	keyring, err := kms.OpenKeyring(ctx, append([]string{uri}, r.o.oldKeys...))
	if err != nil {
		return r.a.failure(hint(err, "--kms-key URI, of the key that the vault was made with; a copy of a key file will do"))
	}
	r.a.keyring, r.keyring = keyring, keyring
	r.vault = vault.New(vault.Options{Reader: r.a.reader, Keys: keyring})
	var uris []string
	for _, key := range keyring.Keys() {
		uris = append(uris, key.URI())
	}
	return fine("%s", strings.Join(uris, ", "))
}

// canaries opens the newest version of each KMS key.
func (r *drilling) canaries(ctx context.Context) []finding {
	keys, err := r.a.reader.StoredKeys(ctx)
	if err != nil {
		return []finding{r.a.failure(err)}
	}
	r.keys = keys
	if len(keys) == 0 {
		return []finding{problem("vaultctl grant ROLE, by an operator with an admin token, if there should be some",
			"there is no version that role %q may read, so nothing was opened", r.node.Role)}
	}
	var all []finding
	for _, k := range keys {
		r.Stored += k.Versions
		if r.NewestAt == nil || k.NewestAt.After(*r.NewestAt) {
			r.NewestAt = &k.NewestAt
		}
		key := drilledKey{KMSKeyID: k.KMSKeyID, Versions: k.Versions}
		err := r.canary(ctx, k.Newest)
		if key.Opens = err == nil; isKeyFailure(err) {
			key.failed = keyFailures // the others would fail in the same way
		}
		r.KMSKeys = append(r.KMSKeys, key)
		n := plural(int(k.Versions), "version is", "versions are")
		switch {
		case err == nil:
			all = append(all, fine("%s wrapped by %s, which opens %q version %d", n, k.KMSKeyID, k.Newest.Name,
				k.Newest.Version))
		case errors.Is(err, vault.ErrKeyRefused):
			_, help := r.a.verdict(err)
			if strings.Contains(err.Error(), "which is not configured") { // internal/kms's text
				help = "--old-key URI, of that key, or --kms-key URI"
			}
			all = append(all, problem(help, "%s wrapped by %s and cannot be opened: %s", n, k.KMSKeyID, messageOf(err)))
		default:
			_, help := r.a.verdict(err)
			all = append(all, problem(help, "%s wrapped by %s, which does not open the newest of them: %s", n, k.KMSKeyID,
				messageOf(err)))
		}
	}
	return all
}

func isKeyFailure(err error) bool {
	return errors.Is(err, vault.ErrKeyRefused) || errors.Is(err, vault.ErrKeyUnavailable)
}

func (r *drilling) canary(ctx context.Context, place db.StoredPlace) error {
	rows, err := r.a.reader.Stored(ctx, []db.StoredPlace{place})
	if err != nil {
		return err
	}
	errs, err := r.vault.TryStored(ctx, rows)
	return errors.Join(append(errs, err)...)
}

// versions opens the sample, or all.
func (r *drilling) versions(ctx context.Context) []finding {
	if len(r.KMSKeys) == 0 {
		return nil
	}
	done := r.a.progress("versions", r.Stored, &r.tick)
	err := r.openAll(ctx)
	done()
	if err != nil {
		f := r.a.failure(err)
		f.Detail = fmt.Sprintf("%d were opened, then: %s", r.Opened, f.Detail)
		return []finding{f}
	}
	var all []finding
	for _, one := range r.Failures {
		all = append(all, problem("restore this version from another backup", "%q version %d: %s", one.Name, one.Version,
			one.Error))
	}
	what := fmt.Sprintf("of %d opened, the newest of %s", r.Stored, at(*r.NewestAt))
	if rest := r.Failed - int64(len(r.Failures)); rest > 0 {
		what += fmt.Sprintf("; %d more failed", rest)
	}
	switch {
	case r.NotTried > 0:
		return append(all, problem("give the KMS keys that are missing, and run it again",
			"%d %s; %d not tried, for want of their KMS key", r.Opened, what, r.NotTried))
	case r.Failed > 0:
		return append(all, problem("the others can be used; vaultctl history NAME has the versions of a secret",
			"%d %s; %d failed", r.Opened, what, r.Failed))
	}
	return append(all, fine("%d %s", r.Opened, what))
}

func (r *drilling) openAll(ctx context.Context) error {
	if r.Sampled {
		places, err := r.a.reader.StoredSample(ctx, r.o.sample)
		if err != nil {
			return err
		}
		for page := range slices.Chunk(places, drillPage) {
			if err := r.page(ctx, page); err != nil {
				return err
			}
		}
		return nil
	}
	var after db.StoredPlace
	for more := true; more; {
		places, next, rest, err := r.a.reader.StoredAfter(ctx, after, drillPage)
		if err == nil {
			err = r.page(ctx, places)
		}
		if err != nil {
			return err
		}
		after, more = next, rest
	}
	return nil
}

// page opens versions, without those whose KMS key has failed too often.
func (r *drilling) page(ctx context.Context, places []db.StoredPlace) error {
	tried := slices.DeleteFunc(slices.Clone(places), func(p db.StoredPlace) bool {
		key := r.key(p.KMSKeyID)
		return key != nil && key.failed >= keyFailures
	})
	r.NotTried += int64(len(places) - len(tried))
	rows, err := r.a.reader.Stored(ctx, tried)
	if err != nil {
		return err
	}
	errs, err := r.vault.TryStored(ctx, rows)
	if err != nil {
		return err
	}
	for i, err := range errs {
		r.settle(rows[i].StoredPlace, err)
	}
	if r.tick != nil {
		r.tick(r.Opened + r.Failed + r.NotTried)
	}
	return nil
}

func (r *drilling) settle(p db.StoredPlace, err error) {
	key := r.key(p.KMSKeyID)
	switch {
	case err == nil:
		r.Opened++
		if key != nil {
			key.failed = 0
		}
		return
	case key != nil && isKeyFailure(err):
		key.failed++
	}
	r.Failed++
	if len(r.Failures) < drillListed {
		r.Failures = append(r.Failures, drillFailure{p.Name, p.Version, messageOf(err)})
	}
}

// key is nil for one that came up during the drill.
func (r *drilling) key(id string) *drilledKey {
	for i := range r.KMSKeys {
		if r.KMSKeys[i].KMSKeyID == id {
			return &r.KMSKeys[i]
		}
	}
	return nil
}

// audit verifies the audit log of this node against its seals. Its error is one of the command line; all others are
// findings, so that the file of metrics has them.
func (r *drilling) audit(ctx context.Context, options seal.Options) (finding, error) {
	source := auditdb.New(r.a.reader, nil).Source(time.Time{})
	var err error
	if options.Copies, err = r.o.seals.seals(ctx, func(ctx context.Context) (uuid.UUID, error) {
		return source.Cluster(ctx)
	}); errors.Is(err, errUsage) {
		return finding{}, err
	} else if err != nil {
		return r.a.failure(err), nil
	}
	done := r.a.progress("rows", 0, &options.Progress)
	report, err := seal.Verify(ctx, source, options)
	done()
	var fault *seal.Fault
	switch {
	case errors.As(err, &fault):
		r.Audit = &report
		return problem("vaultctl audit verify, with a copy of the seals or an archive", "%s", fault.What), nil
	case errors.Is(err, vault.ErrRefused):
		return problem("vaultctl grant ROLE --as auditor, by an operator with an admin token",
			"role %q may not read the audit log", r.node.Role), nil
	case err != nil:
		return r.a.failure(err), nil
	}
	r.Audit = &report
	switch {
	case report.Seals == 0 && (len(options.Keys) > 0 || len(options.Copies) > 0):
		return problem("audit_seal_key of vaultd, and whether this is the right backup", "there is no seal at all"), nil
	case report.Seals == 0:
		return warning("audit_seal_key of vaultd, and vaultctl keygen --audit FILE",
			"the audit log has no seals to verify"), nil
	case !report.Trusted:
		return warning("--audit-key ed25519:..., as vaultctl keygen --audit printed it",
			"%d rows fit %d seals, which any key may have signed", report.Rows, report.Seals), nil
	}
	return fine("%d rows fit %d seals, the last of %s", report.Rows, report.Seals, at(*report.SealedUntil)), nil
}
