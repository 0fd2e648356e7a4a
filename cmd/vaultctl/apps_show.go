package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hyperiondb/vault/internal/access"
	"github.com/hyperiondb/vault/internal/access/accessdb"
	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/vault"
)

func newAppListCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List apps, what they may do, and when they were last seen",
		Long:    `List apps, what they may do, and when they were last seen. It works on a standby too.`,
		Example: `  vaultctl app list`,
		Args:    exactArgs(),
		RunE:    func(cmd *cobra.Command, _ []string) error { return runAppList(cmd.Context(), a) },
	}
}

func runAppList(ctx context.Context, a *app) error {
	v, err := a.vault(ctx)
	if err != nil {
		return err
	}
	apps, err := v.Apps(ctx)
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(apps)
	}
	now := time.Now()
	rows := make([][]string, len(apps))
	for i, one := range apps {
		live := 0
		for _, c := range one.Credentials {
			if c.Live(now) {
				live++
			}
		}
		rules := make([]string, len(one.Rules))
		for i, r := range one.Rules {
			rules[i] = r.Pattern
		}
		rows[i] = []string{one.Name, appState(one), strings.Join(rules, " "), fmt.Sprint(live), when(lastUse(one))}
	}
	return a.printTable([]string{"NAME", "STATE", "PATTERNS", "CREDENTIALS", "LAST USED"}, rows, "no apps")
}

func appState(one accessdb.App) string {
	if one.DisabledAt != nil {
		return "disabled"
	}
	return "enabled"
}

// lastUse is the newest use of any credential of an app; nil: none is known.
func lastUse(one accessdb.App) (last *time.Time) {
	for _, c := range one.Credentials {
		if c.LastUsedAt != nil && (last == nil || c.LastUsedAt.After(*last)) {
			last = c.LastUsedAt
		}
	}
	return last
}

func newAppShowCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME",
		Short: "Show an app: its rules, its credentials, and when each was last used",
		Long: `Show an app: its rules, its credentials, and when each was last used, as far as reads have been shipped to the
primary and to about a minute. Tokens themselves are not stored anywhere.`,
		Example:           `  vaultctl app show billing`,
		Args:              exactArgs("NAME"),
		ValidArgsFunction: completeApps(a),
		RunE:              func(cmd *cobra.Command, args []string) error { return runAppShow(cmd.Context(), a, args[0]) },
	}
}

func runAppShow(ctx context.Context, a *app, name string) error {
	one, err := a.readApp(ctx, name)
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(one)
	}
	fields := []string{"name", one.Name, "state", appState(one), "created", when(&one.CreatedAt) + " by " + one.CreatedBy}
	for _, r := range one.Rules {
		fields = append(fields, "allow", r.Pattern+" "+actionsText(r.Actions))
	}
	if err := a.printFields(fields...); err != nil {
		return err
	}
	now := time.Now()
	rows := make([][]string, len(one.Credentials))
	for i, c := range one.Credentials {
		rows[i] = []string{c.ID.String(), credentialText(c), credentialState(c, now), strings.Join(c.Networks, " "),
			when(c.ExpiresAt), when(c.LastUsedAt), c.LastClient, c.CreatedBy}
	}
	return a.printTable([]string{"CREDENTIAL", "KIND", "STATE", "NETWORKS", "EXPIRES", "LAST USED", "FROM", "BY"}, rows,
		"no credentials")
}

func (a *app) readApp(ctx context.Context, name string) (accessdb.App, error) {
	if err := checkAppName(name); err != nil {
		return accessdb.App{}, err
	}
	v, err := a.vault(ctx)
	if err != nil {
		return accessdb.App{}, err
	}
	one, err := v.App(ctx, name)
	if errors.Is(err, vault.ErrNotFound) {
		return one, hint(fmt.Errorf("%w: no app named %q", vault.ErrNotFound, name), "vaultctl app list")
	}
	return one, err
}

func credentialText(c accessdb.Credential) string {
	if c.Match != "" {
		return c.Match
	}
	return string(c.Kind)
}

func credentialState(c accessdb.Credential, now time.Time) string {
	switch {
	case c.RevokedAt != nil:
		return "revoked"
	case !c.Live(now):
		return "expired"
	}
	return "good"
}

// covering is the rule of an app that covers a name for an action. A whole name counts before a prefix, and the longer
// prefix before the shorter.
func covering(one accessdb.App, name string, action access.Action) (best *accessdb.Rule) {
	for i, r := range one.Rules {
		pattern, err := access.ParsePattern(r.Pattern)
		if err == nil && pattern.Covers(name) && slices.Contains(r.Actions, action) &&
			(best == nil || r.Pattern == name || best.Pattern != name && len(r.Pattern) > len(best.Pattern)) {
			best = &one.Rules[i]
		}
	}
	return best
}

// appUseJSON is an app that may use a secret.
type appUseJSON struct {
	App        string          `json:"app"`
	State      string          `json:"state"`
	Pattern    string          `json:"pattern"`
	Actions    []access.Action `json:"actions"`
	LastUsedAt *time.Time      `json:"last_used_at,omitempty"` // of the app, whatever it has read
}

func newAppWhoCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "who SECRET",
		Short: "Show which apps may use a secret, by which rule, and when each was last seen",
		Long: `Show which apps may use a secret, by which rule, and when each was last seen at all. Who has read this secret
is in the audit log: vaultctl audit list secret:SECRET. The name need not exist.`,
		Example:           `  vaultctl app who prod/billing/db`,
		Args:              exactArgs("SECRET"),
		ValidArgsFunction: completeNames(a, names{live: true}),
		RunE:              func(cmd *cobra.Command, args []string) error { return runAppWho(cmd.Context(), a, args[0]) },
	}
}

func runAppWho(ctx context.Context, a *app, name string) error {
	if err := envelope.CheckName(name); err != nil {
		return err
	}
	v, err := a.vault(ctx)
	if err != nil {
		return err
	}
	apps, err := v.Apps(ctx)
	if err != nil {
		return err
	}
	uses := []appUseJSON{}
	for _, one := range apps {
		for _, r := range one.Rules {
			if pattern, err := access.ParsePattern(r.Pattern); err == nil && pattern.Covers(name) {
				uses = append(uses, appUseJSON{one.Name, appState(one), r.Pattern, r.Actions, lastUse(one)})
			}
		}
	}
	if a.json() {
		return a.printJSON(uses)
	}
	rows := make([][]string, len(uses))
	for i, u := range uses {
		rows[i] = []string{u.App, u.State, u.Pattern, actionsText(u.Actions), when(u.LastUsedAt)}
	}
	return a.printTable([]string{"APP", "STATE", "RULE", "MAY", "APP LAST USED"}, rows, "no app may use it")
}

type appCheckOptions struct {
	name, secret string
	action       string
	from         string

	address netip.Addr
}

func newAppCheckCmd(a *app) *cobra.Command {
	o := appCheckOptions{action: string(access.Read)}
	cmd := &cobra.Command{
		Use:   "check NAME SECRET",
		Short: "Say whether an app may read a secret, and why",
		Long: `Say whether an app may read a secret, and why. It exits with 0 if it may and with 4 if it may not: it is
disabled, no rule covers the name, or it has no credential that is good (from the address --from, if that is given).
Whether the secret exists makes no difference.`,
		Example: `  vaultctl app check billing prod/billing/db
  vaultctl app check billing prod/billing/db --from 10.20.0.5
  vaultctl app check billing prod/billing/db --action verify`,
		Args:              exactArgs("NAME", "SECRET"),
		ValidArgsFunction: completeApps(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name, o.secret = args[0], args[1]
			if err := o.parse(cmd); err != nil {
				return err
			}
			return runAppCheck(cmd.Context(), a, o)
		},
	}
	cmd.Flags().StringVar(&o.action, "action", o.action, "read, verify or list")
	cmd.Flags().StringVar(&o.from, "from", "", "the client's `address`, as vaultd's allowlist sees it")
	_ = cmd.RegisterFlagCompletionFunc("action", cobra.FixedCompletions([]string{"read", "verify", "list"},
		cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (o *appCheckOptions) parse(cmd *cobra.Command) (err error) {
	if err := envelope.CheckName(o.secret); err != nil {
		return err
	}
	if _, err := access.ParseAction(o.action); err != nil {
		return usage("--action: %s", err)
	}
	if cmd.Flags().Changed("from") {
		if o.address, err = netip.ParseAddr(o.from); err != nil || o.address.Zone() != "" {
			return usage("--from takes an address such as 10.20.0.5, not %q", o.from)
		}
		o.address = o.address.Unmap()
	}
	return nil
}

// appCheckJSON is whether an app may use a secret.
type appCheckJSON struct {
	App     string `json:"app"`
	Secret  string `json:"secret"`
	Action  string `json:"action"`
	Allowed bool   `json:"allowed"`
	Pattern string `json:"pattern,omitempty"` // of the rule that allows it
	Reason  string `json:"reason,omitempty"`  // as the audit log has it
}

func runAppCheck(ctx context.Context, a *app, o appCheckOptions) error {
	one, err := a.readApp(ctx, o.name)
	if err != nil {
		return err
	}
	answer := appCheckJSON{App: o.name, Secret: o.secret, Action: o.action}
	var why, help string
	rule := covering(one, o.secret, access.Action(o.action))
	usable, reason := usableCredential(one, o.address, time.Now())
	switch {
	case one.DisabledAt != nil:
		answer.Reason, why = string(access.Disabled), "it is disabled"
		help = "vaultctl app enable " + o.name
	case rule == nil:
		answer.Reason, why = string(access.Policy), fmt.Sprintf("no rule allows it to %s this name", o.action)
		help = fmt.Sprintf("vaultctl app allow %s %s=%s", o.name, o.secret, actionsText(withAction(one, o)))
	case !usable && o.name != access.Anonymous:
		answer.Reason, why = string(reason), credentialProblem(reason)
		help = "vaultctl app show " + o.name
	default:
		answer.Allowed, answer.Pattern = true, rule.Pattern
	}
	if a.json() {
		if err := a.printJSON(answer); err != nil {
			return err
		}
	} else if answer.Allowed {
		a.note("app %q may %s %q: rule %s", o.name, o.action, o.secret, rule.Pattern)
	}
	if !answer.Allowed {
		return hint(refused(fmt.Errorf("app %q may not %s %q: %s", o.name, o.action, o.secret, why)), "%s", help)
	}
	return nil
}

// withAction is what a rule for the secret itself has to allow: app allow replaces the actions of a rule that is there.
func withAction(one accessdb.App, o appCheckOptions) []access.Action {
	var actions []access.Action
	for _, r := range one.Rules {
		if r.Pattern == o.secret {
			actions = append(actions, r.Actions...)
		}
	}
	return append(actions, access.Action(o.action))
}

// usableCredential reports whether an app has a credential that is good from an address (invalid: from any), or what
// keeps the last one from it.
func usableCredential(one accessdb.App, from netip.Addr, now time.Time) (bool, access.Reason) {
	reason := access.NoIdentity
	for _, c := range one.Credentials {
		within := len(c.Networks) == 0 || !from.IsValid() || slices.ContainsFunc(c.Networks, func(text string) bool {
			network, err := netip.ParsePrefix(text)
			return err == nil && network.Contains(from)
		})
		switch {
		case c.RevokedAt != nil:
			reason = access.Revoked
		case !c.Live(now):
			reason = access.Expired
		case !within:
			reason = access.Network
		default:
			return true, ""
		}
	}
	return false, reason
}

func credentialProblem(reason access.Reason) string {
	switch reason {
	case access.Revoked:
		return "its credentials are revoked"
	case access.Expired:
		return "its credentials have expired"
	case access.Network:
		return "its credentials may not be used from that address"
	}
	return "it has no credential"
}

// expiresSoon is how long before its end a credential is named by status.
const expiresSoon = 14 * 24 * time.Hour

// expiringNamed is how many credentials status names.
const expiringNamed = 10

func (a *app) warnExpiring(all []accessdb.Expiring) {
	for _, c := range all[:min(len(all), expiringNamed)] {
		end := c.ExpiresAt
		a.note("warning: %s %s of app %q expires at %s", c.Kind, c.ID, c.App, when(&end))
	}
	if more := len(all) - expiringNamed; more > 0 {
		a.note("warning: %d more credentials of apps expire within 14 days: vaultctl app list", more)
	}
}
