package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/user"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hyperiondb/vault/internal/access"
	"github.com/hyperiondb/vault/internal/access/accessdb"
	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/vault"
)

func newAppCmd(a *app) *cobra.Command {
	return holdCommands(&cobra.Command{
		Use:   "app",
		Short: "Make apps, say what each may read, and give or end their credentials",
		Long: `Make apps, say what each may read, and give or end their credentials. An app is a client of vaultd that is
known by name: it reads the secrets that its rules cover, and no other.

A rule is a PATTERN: a name, a prefix that ends in /* or .*, or * for every name. "prod/app/*" covers neither
"prod/app" nor "prod/apple". It allows read and verify, or what is written after it: "prod/app/*=read,list".

Changes take an admin token. One with a scope makes and changes only apps of which every pattern lies inside it.`,
	}, newAppCreateCmd(a), newAppListCmd(a), newAppShowCmd(a), newAppAllowCmd(a), newAppDisallowCmd(a),
		newAppEnableCmd(a, false), newAppEnableCmd(a, true), newAppDeleteCmd(a), newAppTokenCmd(a), newAppRevokeCmd(a),
		newAppWhoCmd(a), newAppCheckCmd(a))
}

// completeApps offers the names of apps for the first argument; nothing if the database does not answer.
func completeApps(a *app) completer {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
		defer cancel()
		v, err := a.vault(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		all, err := v.AppNames(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var found []string
		for _, name := range all {
			if strings.HasPrefix(name, typed) {
				found = append(found, name)
			}
		}
		return found, cobra.ShellCompDirectiveNoFileComp
	}
}

func checkAppName(name string) error {
	if err := access.CheckAppName(name); err != nil {
		return usage("%s", err)
	}
	return nil
}

// patternArgs takes NAME and one or more patterns.
func patternArgs(cmd *cobra.Command, args []string) error {
	return rangeArgs(2, "NAME", "PATTERN")(cmd, args[:min(len(args), 2)])
}

// parseRule reads PATTERN or PATTERN=ACTION,ACTION.
func parseRule(text string) (accessdb.Rule, error) {
	pattern, actions, given := strings.Cut(text, "=")
	if _, err := access.ParsePattern(pattern); err != nil {
		return accessdb.Rule{}, usage("%q: %s", text, err)
	}
	rule := accessdb.Rule{Pattern: pattern, Actions: access.DefaultActions}
	if !given {
		return rule, nil
	}
	rule.Actions = nil
	for word := range strings.SplitSeq(actions, ",") {
		action, err := access.ParseAction(word)
		if err != nil {
			return rule, usage("%q: %s", text, err)
		}
		rule.Actions = append(rule.Actions, action)
	}
	return rule, nil
}

func parseRules(texts []string) ([]accessdb.Rule, error) {
	var rules []accessdb.Rule
	seen := map[string]bool{}
	for _, text := range texts {
		rule, err := parseRule(text)
		if err != nil {
			return nil, err
		}
		if seen[rule.Pattern] {
			return nil, usage("pattern %q is given twice", rule.Pattern)
		}
		seen[rule.Pattern] = true
		rules = append(rules, rule)
	}
	return rules, nil
}

// parseNetwork reads a network, or an address for a network of one.
func parseNetwork(text string) (netip.Prefix, error) {
	network, err := netip.ParsePrefix(text)
	if address, alone := netip.ParseAddr(text); alone == nil && address.Zone() == "" {
		network, err = netip.PrefixFrom(address, address.BitLen()), nil
	}
	switch {
	case err != nil:
		return network, usage("--network takes a network such as 10.0.0.0/8, not %q", text)
	case network.Addr().Is4In6():
		return network, usage("--network %q is IPv4 mapped into IPv6: write it as IPv4", text)
	case network != network.Masked():
		return network, usage("--network %q has bits after its length: %s", text, network.Masked())
	}
	return network, nil
}

// tokenFlags are those of a command that makes a token of an app.
type tokenFlags struct {
	networks []string
	expires  *time.Duration
	file     string

	parsed []netip.Prefix
}

func (f *tokenFlags) register(flags *pflag.FlagSet) {
	flags.StringArrayVar(&f.networks, "network", nil,
		"a `network` it may be used from, e.g. 10.0.0.0/8; may be repeated (default: any address)")
	flags.Var(durationFlag{&f.expires}, "expires", "how long it is good for, e.g. 90d (default: until it is revoked)")
	flags.StringVar(&f.file, "token-out", "", "write the token to a new `file`, mode 0600, instead of printing it")
}

func (f *tokenFlags) parse(cmd *cobra.Command) error {
	switch {
	case f.expires != nil && *f.expires == 0:
		return usage("--expires is more than 0")
	case cmd.Flags().Changed("token-out") && f.file == "":
		return usage("--token-out takes a file name")
	}
	for _, text := range f.networks {
		network, err := parseNetwork(text)
		if err != nil {
			return err
		}
		f.parsed = append(f.parsed, network)
	}
	return nil
}

// ends is when a credential that is made now expires; nil: never.
func (f tokenFlags) ends() *time.Time {
	if f.expires == nil {
		return nil
	}
	end := time.Now().Add(*f.expires)
	return &end
}

func (f tokenFlags) credential(t access.Token) accessdb.NewCredential {
	return accessdb.NewCredential{ID: t.ID(), Kind: access.ByToken, Fingerprint: t.Fingerprint(), Networks: f.parsed,
		ExpiresAt: f.ends()}
}

type appCreateOptions struct {
	tokenFlags
	name    string
	allow   []string
	certs   []string
	users   []string
	units   []string
	noToken bool

	rules   []accessdb.Rule
	matches []accessdb.NewCredential // without their id and end
}

func newAppCreateCmd(a *app) *cobra.Command {
	var o appCreateOptions
	cmd := &cobra.Command{
		Use:   "create NAME --allow PATTERN...",
		Short: "Make an app, and print its token, once",
		Long: `Make an app, and print its token, once: the database keeps only its fingerprint.

--cert and --unix are credentials without a token: what vaultd finds in the client's certificate (spiffe://DOMAIN/PATH,
dns:NAME or cn:NAME), and the user of a process on a unix socket. --unit is one, too: a systemd unit that gets secrets
from vaultd's credential_socket with LoadCredential=. --network and --expires hold for all credentials that are made,
except that a client on a unix socket, and a unit, has no address.

The app "anonymous" has rules and no credential: they hold for clients that present none.`,
		Example: `  vaultctl app create billing --allow 'prod/billing/*' --allow prod/shared/ca=read
  vaultctl app create ci --allow 'staging/*' --network 10.20.0.0/16 --expires 90d --token-out ci.token
  vaultctl app create web --allow 'prod/web/*' --cert spiffe://example.org/web --no-token
  vaultctl app create backup --allow 'prod/*' --unix backup --no-token
  vaultctl app create mailer --allow 'prod/mailer/*' --unit mailer.service --no-token`,
		Args: exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name = args[0]
			if err := o.parse(cmd); err != nil {
				return err
			}
			return runAppCreate(cmd.Context(), a, o)
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&o.allow, "allow", nil, "a `PATTERN[=read,verify,list]` that it may use; may be repeated")
	flags.StringArrayVar(&o.certs, "cert", nil, "a client certificate: spiffe://DOMAIN/PATH, dns:NAME or cn:NAME")
	flags.StringArrayVar(&o.users, "unix", nil, "a `user` on vaultd's machine, by name or number")
	flags.StringArrayVar(&o.units, "unit", nil, "a systemd `unit` on vaultd's machine, e.g. billing.service")
	flags.BoolVar(&o.noToken, "no-token", false, "make no token")
	o.register(flags)
	return cmd
}

func (o *appCreateOptions) parse(cmd *cobra.Command) (err error) {
	if err := checkAppName(o.name); err != nil {
		return err
	}
	if err := o.tokenFlags.parse(cmd); err != nil {
		return err
	}
	if o.rules, err = parseRules(o.allow); err != nil {
		return err
	}
	for _, text := range o.certs {
		match, err := access.ParseMatch(access.ByCert, text)
		if err != nil {
			return usage("--cert %q: %s", text, err)
		}
		o.matches = append(o.matches, accessdb.NewCredential{Kind: access.ByCert, Match: match, Networks: o.parsed})
	}
	for _, name := range o.users {
		match, err := unixMatch(name)
		if err != nil {
			return err
		}
		o.matches = append(o.matches, accessdb.NewCredential{Kind: access.ByUnix, Match: match})
	}
	for _, name := range o.units {
		match, err := unitMatch(name)
		if err != nil {
			return err
		}
		o.matches = append(o.matches, accessdb.NewCredential{Kind: access.ByUnix, Match: match})
	}
	switch {
	case o.name == access.Anonymous && (len(o.matches) > 0 || o.file != ""):
		return usage("app %q has no credential: it is for clients without one", access.Anonymous)
	case o.name == access.Anonymous:
		o.noToken = true
	case o.noToken && o.file != "":
		return usage("--token-out and --no-token exclude each other")
	}
	switch {
	case o.noToken && len(o.certs) == 0 && len(o.networks) > 0:
		return usage("--network is of a token or a --cert, and neither is made")
	case o.noToken && len(o.matches) == 0 && o.expires != nil:
		return usage("--expires is of a credential, and none is made")
	}
	return nil
}

// unixMatch is the match of a user, by name or number.
func unixMatch(text string) (string, error) {
	if match, err := access.ParseMatch(access.ByUnix, "uid:"+text); err == nil {
		return match, nil
	}
	found, err := user.Lookup(text)
	if err != nil {
		return "", usage("--unix %q: there is no such user on this machine; its number works too", text)
	}
	return access.ParseMatch(access.ByUnix, "uid:"+found.Uid)
}

// unitMatch is the match of a systemd unit.
func unitMatch(name string) (string, error) {
	match, err := access.ParseMatch(access.ByUnix, access.UnitMatch(name))
	if err != nil {
		return "", usage("--unit %q: %s", name, err)
	}
	if len(name) >= access.MaxUnitAndID {
		return "", usage("--unit %q: it has %d characters; with the ID of its credential at most %d, or systemd cannot ask "+
			"for it", name, len(name), access.MaxUnitAndID)
	}
	return match, nil
}

func runAppCreate(ctx context.Context, a *app, o appCreateOptions) error {
	credentials := o.matches
	for i := range credentials {
		credentials[i].ID, credentials[i].ExpiresAt = uuid.New(), o.ends()
	}
	if o.noToken {
		made, err := a.changeApp(ctx, func(v *vault.Vault, c vault.Change) (accessdb.App, error) {
			return v.CreateApp(ctx, c, o.name, o.rules, credentials)
		})
		if err != nil {
			return appHint(err)
		}
		return a.printMade(made, appTokenJSON{App: made})
	}
	return a.makeAppToken(ctx, o.tokenFlags,
		func(v *vault.Vault, c vault.Change, token accessdb.NewCredential) (accessdb.App, error) {
			return v.CreateApp(ctx, c, o.name, o.rules, append(credentials, token))
		})
}

// changeApp runs a change with the operator's admin token.
func (a *app) changeApp(ctx context.Context, do func(*vault.Vault, vault.Change) (accessdb.App, error)) (accessdb.App,
	error) {
	change, err := a.change()
	if err != nil {
		return accessdb.App{}, err
	}
	v, err := a.vault(ctx)
	if err != nil {
		return accessdb.App{}, err
	}
	return do(v, change)
}

// appTokenJSON is an app and its new token: itself, or the file it is in.
type appTokenJSON struct {
	accessdb.App
	TokenID *uuid.UUID `json:"token_id,omitempty"`
	Token   string     `json:"token,omitempty"`
	File    string     `json:"token_file,omitempty"`
}

// makeAppToken makes the file before the token, so that a token is only made if it can be saved.
func (a *app) makeAppToken(ctx context.Context, f tokenFlags,
	do func(*vault.Vault, vault.Change, accessdb.NewCredential) (accessdb.App, error)) error {
	var file *newTokenFile
	if f.file != "" {
		var err error
		if file, err = createTokenFile(f.file); err != nil {
			return err
		}
		defer file.discard()
	}
	token := access.NewToken()
	made, err := a.changeApp(ctx, func(v *vault.Vault, c vault.Change) (accessdb.App, error) {
		return do(v, c, f.credential(token))
	})
	if err != nil {
		return appHint(err)
	}
	id := token.ID()
	answer := appTokenJSON{App: made, TokenID: &id, File: f.file}
	revoke := fmt.Sprintf("vaultctl app revoke %s %s", made.Name, id)
	if file == nil {
		answer.Token = token.Reveal()
	} else if err := file.save(token); err != nil {
		return hint(err, "the token was made but is lost: %s", revoke)
	}
	if err := a.printMade(made, answer); err != nil {
		if file == nil {
			return hint(err, "the token was made but is lost: %s", revoke)
		}
		return err
	}
	return nil
}

// appHint adds the commands that show what there is.
func appHint(err error) error {
	switch {
	case errors.Is(err, vault.ErrOutcomeUnknown):
		return hint(err, "vaultctl app show NAME shows whether it was made; a token whose text is lost: vaultctl app revoke")
	case errors.Is(err, vault.ErrNotFound), errors.Is(err, vault.ErrConflict):
		return hint(err, "vaultctl app list, vaultctl app show NAME")
	}
	return err
}

// printMade prints a new token, the one time that it is shown, and what the app may do.
func (a *app) printMade(made accessdb.App, answer appTokenJSON) error {
	if a.json() {
		return a.printJSON(answer)
	}
	a.note("app %q may %s", made.Name, rulesText(made.Rules))
	switch {
	case answer.File != "":
		a.note("its token %s is in %s", answer.TokenID, answer.File)
	case answer.Token != "":
		a.note("its token %s, shown this once:", answer.TokenID)
		if _, err := fmt.Fprintln(a.out, answer.Token); err != nil {
			return fmt.Errorf("writing the token: %w", reason(err))
		}
	case len(made.Credentials) == 0 && made.Name != access.Anonymous:
		a.note("it has no credential yet: vaultctl app token %s", made.Name)
	}
	for _, c := range made.Credentials {
		if answer.TokenID != nil && c.ID == *answer.TokenID && c.ExpiresAt != nil {
			a.note("it expires at %s", when(c.ExpiresAt))
		}
	}
	return nil
}

// rulesText is what an app may do, in words.
func rulesText(rules []accessdb.Rule) string {
	if len(rules) == 0 {
		return "do nothing yet: it has no rule"
	}
	parts := make([]string, len(rules))
	for i, r := range rules {
		parts[i] = fmt.Sprintf("%s %s", actionsText(r.Actions), r.Pattern)
	}
	return strings.Join(parts, "; ")
}

func actionsText(actions []access.Action) string {
	words := make([]string, len(actions))
	for i, action := range actions {
		words[i] = string(action)
	}
	return strings.Join(words, ",")
}

type appTokenOptions struct {
	tokenFlags
	name string
	cert string
	user string
	unit string

	match *accessdb.NewCredential // instead of a token
}

func newAppTokenCmd(a *app) *cobra.Command {
	var o appTokenOptions
	cmd := &cobra.Command{
		Use:   "token NAME",
		Short: "Make another token of an app, and print it, once",
		Long: `Make another token of an app, and print it, once. The tokens that it has stay valid: give the app the new one,
see in vaultctl app show that the old one is not used any more, and revoke that.

With --cert, --unix or --unit it is no token but what vaultd finds in the client's certificate (spiffe://DOMAIN/PATH,
dns:NAME or cn:NAME), the user of a process on a unix socket, or the systemd unit that a credential is for.`,
		Example: `  vaultctl app token billing --expires 90d
  vaultctl app token ci --token-out ci.token
  vaultctl app token web --cert dns:web.example.org`,
		Args:              exactArgs("NAME"),
		ValidArgsFunction: completeApps(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name = args[0]
			if err := o.parse(cmd); err != nil {
				return err
			}
			return runAppToken(cmd.Context(), a, o)
		},
	}
	cmd.Flags().StringVar(&o.cert, "cert", "", "a client `certificate` instead of a token")
	cmd.Flags().StringVar(&o.user, "unix", "", "a `user` on vaultd's machine instead of a token, by name or number")
	cmd.Flags().StringVar(&o.unit, "unit", "", "a systemd `unit` on vaultd's machine instead of a token")
	o.register(cmd.Flags())
	return cmd
}

func (o *appTokenOptions) parse(cmd *cobra.Command) error {
	if err := checkAppName(o.name); err != nil {
		return err
	}
	if err := o.tokenFlags.parse(cmd); err != nil {
		return err
	}
	byCert, byUser, byUnit := cmd.Flags().Changed("cert"), cmd.Flags().Changed("unix"), cmd.Flags().Changed("unit")
	switch {
	case o.name == access.Anonymous:
		return usage("app %q has no credential: it is for clients without one", access.Anonymous)
	case byCert && byUser, byCert && byUnit, byUser && byUnit:
		return usage("--cert, --unix and --unit exclude each other")
	case o.file != "" && (byCert || byUser || byUnit):
		return usage("--token-out is for a token, and --cert, --unix and --unit make none")
	case (byUser || byUnit) && len(o.networks) > 0:
		return usage("--network is of a token or a --cert: a client on a unix socket has no address")
	case byCert:
		match, err := access.ParseMatch(access.ByCert, o.cert)
		if err != nil {
			return usage("--cert %q: %s", o.cert, err)
		}
		o.match = &accessdb.NewCredential{Kind: access.ByCert, Match: match, Networks: o.parsed}
	case byUser:
		match, err := unixMatch(o.user)
		if err != nil {
			return err
		}
		o.match = &accessdb.NewCredential{Kind: access.ByUnix, Match: match}
	case byUnit:
		match, err := unitMatch(o.unit)
		if err != nil {
			return err
		}
		o.match = &accessdb.NewCredential{Kind: access.ByUnix, Match: match}
	}
	return nil
}

func runAppToken(ctx context.Context, a *app, o appTokenOptions) error {
	add := func(v *vault.Vault, c vault.Change, credential accessdb.NewCredential) (accessdb.App, error) {
		return v.AddAppCredential(ctx, c, o.name, credential)
	}
	if o.match == nil {
		return a.makeAppToken(ctx, o.tokenFlags, add)
	}
	o.match.ID, o.match.ExpiresAt = uuid.New(), o.ends()
	made, err := a.changeApp(ctx, func(v *vault.Vault, c vault.Change) (accessdb.App, error) {
		return add(v, c, *o.match)
	})
	if err != nil {
		return appHint(err)
	}
	if a.json() {
		return a.printJSON(appTokenJSON{App: made})
	}
	a.note("app %q may %s", made.Name, rulesText(made.Rules))
	a.note("its credential %s is %s", o.match.ID, o.match.Match)
	return nil
}

func newAppAllowCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "allow NAME PATTERN...",
		Short: "Let an app use more names, or with other actions",
		Long: `Let an app use more names: PATTERN, or PATTERN=read,verify,list. Of a pattern that the app has, the actions are
replaced. All credentials of the app gain it, also those that another operator has made.`,
		Example: `  vaultctl app allow billing 'prod/invoices/*'
  vaultctl app allow billing prod/shared/ca=read`,
		Args:              patternArgs,
		ValidArgsFunction: completeApps(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			rules, err := parseRules(args[1:])
			if err == nil {
				err = checkAppName(args[0])
			}
			if err != nil {
				return err
			}
			changed, err := a.changeApp(cmd.Context(), func(v *vault.Vault, c vault.Change) (accessdb.App, error) {
				return v.AllowApp(cmd.Context(), c, args[0], rules)
			})
			if err != nil {
				return appHint(err)
			}
			return a.printAllowed(changed)
		},
	}
}

// printAllowed also says which credentials gain by it: an operator who widens an app has not made all of them.
func (a *app) printAllowed(changed accessdb.App) error {
	if a.json() {
		return a.printJSON(changed)
	}
	a.note("app %q may %s", changed.Name, rulesText(changed.Rules))
	var by []string
	live := 0
	for _, c := range changed.Credentials {
		if c.Live(time.Now()) {
			live++
			if len(by) == 0 || by[len(by)-1] != c.CreatedBy {
				by = append(by, c.CreatedBy)
			}
		}
	}
	if live > 0 {
		a.note("it has %s, made by %s", plural(live, "credential", "credentials"), strings.Join(by, ", "))
	}
	return nil
}

func newAppDisallowCmd(a *app) *cobra.Command {
	var wait *time.Duration
	cmd := &cobra.Command{
		Use:   "disallow NAME PATTERN...",
		Short: "Take rules away from an app",
		Long: `Take rules away from an app. It holds on each node as soon as that has replayed the change; --wait waits for
all connected standbys, and exits with 7 if one has not replayed it in time.`,
		Example:           `  vaultctl app disallow billing 'prod/invoices/*'`,
		Args:              patternArgs,
		ValidArgsFunction: completeApps(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, text := range args[1:] {
				if _, err := access.ParsePattern(text); err != nil {
					return usage("%q: %s", text, err)
				}
			}
			return a.narrowApp(cmd.Context(), args[0], wait,
				func(v *vault.Vault, c vault.Change) (accessdb.App, error) {
					return v.DisallowApp(cmd.Context(), c, args[0], args[1:])
				},
				func(changed accessdb.App) string {
					return fmt.Sprintf("app %q may now %s", changed.Name, rulesText(changed.Rules))
				})
		},
	}
	registerStandbyWait(cmd, &wait)
	return cmd
}

func newAppEnableCmd(a *app, enabled bool) *cobra.Command {
	var wait *time.Duration
	cmd := &cobra.Command{
		Use:   "disable NAME",
		Short: "Take no credential of an app any more, until it is enabled",
		Long: `Take no credential of an app any more, until it is enabled. Nothing of it is lost. It holds on each node as
soon as that has replayed the change; --wait waits for all connected standbys.`,
		Example: `  vaultctl app disable billing --wait`,
	}
	done := "disabled app %q"
	if enabled {
		cmd.Use, cmd.Short = "enable NAME", "Take the credentials of a disabled app again"
		cmd.Long = `Take the credentials of a disabled app again. Those that were revoked stay so.`
		cmd.Example = `  vaultctl app enable billing`
		done = "enabled app %q"
	}
	cmd.Args, cmd.ValidArgsFunction = exactArgs("NAME"), completeApps(a)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.narrowApp(cmd.Context(), args[0], wait,
			func(v *vault.Vault, c vault.Change) (accessdb.App, error) {
				return v.EnableApp(cmd.Context(), c, args[0], enabled)
			},
			func(changed accessdb.App) string { return fmt.Sprintf(done, changed.Name) })
	}
	registerStandbyWait(cmd, &wait)
	return cmd
}

func newAppDeleteCmd(a *app) *cobra.Command {
	var wait *time.Duration
	var yes bool
	cmd := &cobra.Command{
		Use:   "delete NAME",
		Short: "Remove an app, its rules and its credentials for good",
		Long: `Remove an app, its rules and its credentials for good. The audit log keeps what it did. To stop it for a while:
vaultctl app disable.

It asks for the name, unless --yes is given.`,
		Example:           `  vaultctl app delete billing --yes`,
		Args:              exactArgs("NAME"),
		ValidArgsFunction: completeApps(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkAppName(args[0]); err != nil {
				return err
			}
			question := fmt.Sprintf("Its clients are refused from now on, and its tokens are lost: app %q.", args[0])
			if err := a.confirm(cmd.Context(), yes, args[0], question); err != nil {
				return err
			}
			return a.narrowApp(cmd.Context(), args[0], wait,
				func(v *vault.Vault, c vault.Change) (accessdb.App, error) {
					return v.DeleteApp(cmd.Context(), c, args[0])
				},
				func(gone accessdb.App) string { return fmt.Sprintf("deleted app %q", gone.Name) })
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	registerStandbyWait(cmd, &wait)
	return cmd
}

// narrowedJSON is a changed app, and with --wait the standbys.
type narrowedJSON struct {
	accessdb.Revoked
	Standbys *[]db.Standby `json:"standbys,omitempty"`
}

func (a *app) narrowApp(ctx context.Context, name string, wait *time.Duration,
	do func(*vault.Vault, vault.Change) (accessdb.App, error), done func(accessdb.App) string) error {
	if err := checkAppName(name); err != nil {
		return err
	}
	change, err := a.change()
	if err != nil {
		return err
	}
	v, err := a.vault(ctx)
	if err != nil {
		return err
	}
	changed, err := do(v, change)
	if err != nil {
		return appHint(err)
	}
	return a.reportChange(ctx, v, changed.LSN, wait, done(changed),
		func(standbys *[]db.Standby) any { return narrowedJSON{accessdb.Revoked{App: changed}, standbys} })
}

func newAppRevokeCmd(a *app) *cobra.Command {
	var wait *time.Duration
	cmd := &cobra.Command{
		Use:   "revoke NAME [ID]",
		Short: "End one credential of an app, or all of them",
		Long: `End one credential of an app, or all of them, for good. ID is that of vaultctl app show, and of the audit log.

It holds on the primary at once, and on a standby as soon as that has replayed it; --wait waits for all connected
standbys, and exits with 7 if one has not replayed it in time.`,
		Example: `  vaultctl app revoke billing 0b5f6a1e-5a70-4f0e-8a3b-0d3a3c1f9a10
  vaultctl app revoke billing --wait`,
		Args:              rangeArgs(1, "NAME", "ID"),
		ValidArgsFunction: completeApps(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			var id *uuid.UUID
			if len(args) == 2 {
				parsed, err := uuid.Parse(args[1])
				if err != nil || len(args[1]) != 36 {
					return hint(notAnID(args[1]), "vaultctl app show %s", args[0])
				}
				id = &parsed
			}
			return runAppRevoke(cmd.Context(), a, args[0], id, wait)
		},
	}
	registerStandbyWait(cmd, &wait)
	return cmd
}

// notAnID does not repeat a token, which is what an operator has at hand when one has leaked.
func notAnID(text string) error {
	if strings.HasPrefix(text, "hvr_") || strings.HasPrefix(text, "hva_") {
		return usage("that is a token, not the id of a credential; other users of the machine could see it: end it")
	}
	return usage("%q is not the id of a credential", text)
}

func runAppRevoke(ctx context.Context, a *app, name string, id *uuid.UUID, wait *time.Duration) error {
	if err := checkAppName(name); err != nil {
		return err
	}
	change, err := a.change()
	if err != nil {
		return err
	}
	v, err := a.vault(ctx)
	if err != nil {
		return err
	}
	revoked, err := v.RevokeAppCredential(ctx, change, name, id)
	if err != nil {
		return appHint(err)
	}
	ended := plural(len(revoked.Revoked), "credential", "credentials")
	return a.reportChange(ctx, v, revoked.LSN, wait, fmt.Sprintf("revoked %s of app %q", ended, name),
		func(standbys *[]db.Standby) any { return narrowedJSON{revoked, standbys} })
}
