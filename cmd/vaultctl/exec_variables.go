package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/lazyregexp"
	"github.com/hyperiondb/vault/internal/vault"
)

var (
	variableName = lazyregexp.New(`^[A-Za-z_][A-Za-z0-9_]*$`)
	namespace    = lazyregexp.New(`^[A-Za-z_][A-Za-z0-9_]*_$`)

	// secretSuffix is the rule for variables of --prefix. A list of forbidden names is never complete, because every
	// program has its own settings; a name with one of these endings holds a credential. URL and USER alone would allow
	// the address of a package index or a proxy.
	secretSuffix = lazyregexp.New(`^([A-Z0-9_]*_)?(` +
		`PASSWORD|PASSWD|PASS|PWD|PASSPHRASE|PIN|SECRET|TOKEN|KEY|APIKEY|CREDENTIALS?|SALT|PEPPER|JWT|PEM|DSN|CLIENT_ID|` +
		`ACCESS_KEY_ID|(DATABASE|DB|POSTGRES|POSTGRESQL|MYSQL|MARIADB|MONGO|MONGODB|REDIS|AMQP|RABBITMQ|SMTP|MAIL|WEBHOOK)` +
		`_(URL|URI|USER|USERNAME))(_[0-9]+)?$`)

	// programSettings matches what programs, loaders and interpreters read as settings, some with endings as above.
	programSettings = lazyregexp.New(`^(` +
		`PATH|IFS|ENV|SHELL|HOME|USER|LOGNAME|PWD|OLDPWD|CDPATH|TERM|TERMINFO|TERMCAP|TMP|TMPDIR|TEMP|TZ|TZDIR|LANG|` +
		`LANGUAGE|EDITOR|VISUAL|PAGER|BROWSER|MANPAGER|PS[0-4]|FPATH|ZDOTDIR|HISTFILE|MAIL|MAILPATH|NLSPATH|LOCPATH|` +
		`GCONV_PATH|GETCONF_DIR|HOSTALIASES|LOCALDOMAIN|RESOLV_HOST_CONF|CLASSPATH|KUBECONFIG|SSLKEYLOGFILE|GNUPGHOME|` +
		`CPATH|LIBRARY_PATH|INPUTRC|MAKEFLAGS|MFLAGS|MAKEFILES|LESSOPEN|LESSCLOSE|LESSKEY|TNS_ADMIN|SSH_AUTH_SOCK|` +
		`GOOGLE_APPLICATION_CREDENTIALS|GO(BIN|CACHE|DEBUG|ENV|FLAGS|GC|MEMLIMIT|MAXPROCS|MODCACHE|PATH|PROXY|PRIVATE|` +
		`ROOT|SUMDB|TMPDIR|TOOLCHAIN|TRACEBACK|VCS)|(.*_)?(PROXY|ASKPASS|PRELOAD|OPTS|OPTIONS|COMMAND)|` +
		`(LD|DYLD|LC|BASH|ZSH|GLIBC|MALLOC|ASAN|TSAN|UBSAN|GIT|SUDO|XDG|DBUS|SYSTEMD|SSL|CURL|OPENSSL|GNUTLS|KRB5|` +
		`NODE|NPM|YARN|DENO|BUN|PIP|UV|POETRY|CONDA|GEM|BUNDLE|JAVA|JDK|JVM|MAVEN|GRADLE|CARGO|RUSTUP|RUST|DOTNET|` +
		`CORECLR|COMPLUS|PHP|LUA|TCL|JULIA|CLOUDSDK|DOCKER|BUILDKIT|VAULTCTL|VAULTD|NSS|GTK|QT|GDK|GIO|GST|AWS|PG)_.*|` +
		`(PYTHON|PERL|RUBY|OCAML).*|PG[A-Z0-9]*)$`)

	// credentialVariables are the exact names in those families that hold credentials.
	credentialVariables = []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "NODE_AUTH_TOKEN",
		"NPM_TOKEN", "PGPASSWORD", "DOCKER_PASSWORD", "CARGO_REGISTRY_TOKEN"}

	// ownCredentials matches what vaultctl itself connects and authenticates with.
	ownCredentials = lazyregexp.New(`^(VAULTCTL_.*|VAULTD_.*|PGPASSWORD|PGPASSFILE|PGSSLPASSWORD|PGSERVICEFILE)$`)
)

// controlsProgram reports whether a variable is known to change what a program runs or how.
func controlsProgram(variable string) bool {
	return programSettings().MatchString(strings.ToUpper(variable)) && !slices.Contains(credentialVariables, variable)
}

// holdsSecret reports whether a name chosen by the author of a secret may be a variable.
func holdsSecret(variable string) bool {
	return slices.Contains(credentialVariables, variable) ||
		secretSuffix().MatchString(variable) && !controlsProgram(variable)
}

// inherited is the part of vaultctl's environment that the command gets.
func (o execOptions) inherited(environ []string) []string {
	return slices.DeleteFunc(environ, func(line string) bool {
		variable, _, _ := strings.Cut(line, "=")
		return !slices.Contains(o.keep, variable) && (o.pristine || ownCredentials().MatchString(variable))
	})
}

// environment is what the command gets: what it inherits, and secrets.
type environment struct {
	a         *app
	inherited []string
	files     bool // the variables hold paths
	set       []setVariable
	refused   []setVariable // of the prefix
}

type setVariable struct {
	variable string
	secret   *vault.Secret
	by       origin
}

// origin says how the name of a variable was chosen.
type origin int

const (
	byEnv    origin = iota // the caller: also over one that is set already
	bySecret               // the caller, who named the secret
	byPrefix               // the author of the secret
)

func (e *environment) wipe() {
	for _, s := range e.set {
		s.secret.Wipe()
	}
}

func (e *environment) events() []audit.Event {
	var events []audit.Event
	for _, s := range e.set {
		events = append(events, vault.AuditedGet(s.secret.Name, s.secret))
	}
	return events
}

func (e *environment) variables() []string {
	var variables []string
	for _, s := range e.set {
		variables = append(variables, s.variable)
	}
	return variables
}

// fill reads secrets given by name first: those are left out of the prefix.
func (e *environment) fill(ctx context.Context, v *vault.Vault, o execOptions) error {
	for _, pair := range o.env {
		variable, name, _ := strings.Cut(pair, "=")
		if err := e.read(ctx, v, o, variable, name, byEnv); err != nil {
			return err
		}
	}
	for _, name := range o.secrets {
		if err := e.read(ctx, v, o, variableOf(name[strings.LastIndex(name, "/")+1:]), name, bySecret); err != nil {
			return err
		}
	}
	if o.prefix != "" {
		return e.fromPrefix(ctx, v, o)
	}
	return nil
}

func (e *environment) read(ctx context.Context, v *vault.Vault, o execOptions, variable, name string, by origin) error {
	secret, err := v.Get(ctx, name, vault.GetOptions{})
	if err != nil {
		o.record.refused(ctx, e.a, audit.Read, name, 0, err)
		return about(name, err)
	}
	return e.add(setVariable{variable, secret, by})
}

func (e *environment) fromPrefix(ctx context.Context, v *vault.Vault, o execOptions) error {
	named := map[string]bool{}
	for _, s := range e.set {
		named[s.secret.Name] = true
	}
	found := false
	for after, more := "", true; more; {
		page, err := v.Export(ctx, o.prefix, after, exportPage)
		if err != nil {
			return err
		}
		for i, s := range page {
			found = true
			switch {
			case s.Err != nil:
				o.record.refused(ctx, e.a, audit.Read, s.Name, s.Version, s.Err)
				err = s.Err
			case named[s.Name]:
				page[i].Wipe()
			default:
				err = e.addDerived(o, &page[i].Secret)
			}
			if err != nil {
				vault.WipeAll(page)
				return err
			}
		}
		if more = len(page) == exportPage; more {
			after = page[len(page)-1].Name
		}
	}
	if !found {
		return hint(&kindError{vault.ErrNotFound, fmt.Sprintf("no secret under %q", o.prefix)},
			"vaultctl list; a database role sees only the names it was granted")
	}
	return e.refusal()
}

// addDerived collects the names it refuses, so that one error lists them all.
func (e *environment) addDerived(o execOptions, secret *vault.Secret) error {
	s := setVariable{o.namespace + variableOf(strings.TrimPrefix(secret.Name, o.prefix)), secret, byPrefix}
	allowed := holdsSecret(s.variable) || o.namespace != "" && !controlsProgram(s.variable)
	if variableName().MatchString(s.variable) && !allowed {
		e.refused = append(e.refused, s)
		secret.Wipe()
		return nil
	}
	return e.add(s)
}

// refusal names the variables that a prefix may not set, and the flags that would set them.
func (e *environment) refusal() error {
	const shown = 10
	var what, flags []string
	for _, s := range e.refused[:min(shown, len(e.refused))] {
		what = append(what, fmt.Sprintf("secret %q would set $%s", s.secret.Name, s.variable))
		flags = append(flags, fmt.Sprintf("--env %s=%s", s.variable, s.secret.Name))
	}
	if more := len(e.refused) - shown; more > 0 {
		what = append(what, plural(more, "more secret", "more secrets"))
	}
	if len(what) == 0 {
		return nil
	}
	return hint(usage("a prefix sets only variables whose names end as a secret's do: %s", strings.Join(what, ", ")),
		"%s, or --namespace APP_ for all", strings.Join(flags, " "))
}

// variableOf makes a variable's name from a secret's.
func variableOf(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToUpper(name))
}

// add rejects a variable that is already set, that no program could read, or that controls programs and was not given
// by name.
func (e *environment) add(s setVariable) error {
	e.set = append(e.set, s)
	name := s.secret.Name
	same := func(other setVariable) bool { return other.variable == s.variable }
	if i := slices.IndexFunc(e.set, same); i < len(e.set)-1 {
		return hint(usage("secrets %q and %q would both be $%s", e.set[i].secret.Name, name, s.variable),
			"--env VARIABLE=%s", name)
	}
	switch {
	case !variableName().MatchString(s.variable):
		return hint(usage("secret %q makes no variable's name", name), "--env VARIABLE=%s", name)
	case s.by != byEnv && e.inherits(s.variable):
		return hint(usage("secret %q would replace $%s", name, s.variable),
			"--env %s=%s, if it is to", s.variable, name)
	case s.by == bySecret && controlsProgram(s.variable):
		return hint(usage("secret %q would set $%s, which programs read as a setting", name, s.variable),
			"--env %s=%s, if it is to", s.variable, name)
	case !e.files && bytes.IndexByte(s.secret.Value, 0) >= 0:
		return hint(usage("secret %q has a zero byte: no variable can hold it", name), "--files DIR")
	}
	return nil
}

func (e *environment) inherits(variable string) bool {
	return slices.ContainsFunc(e.inherited, func(line string) bool {
		return strings.HasPrefix(line, variable+"=")
	})
}

// environ is the environment in which the secrets, or the paths of the files that it writes, replace variables of the
// same name.
func (e *environment) environ(folder *secretFolder) ([]string, error) {
	environ := slices.DeleteFunc(e.inherited, func(line string) bool {
		variable, _, _ := strings.Cut(line, "=")
		return slices.ContainsFunc(e.set, func(s setVariable) bool { return s.variable == variable })
	})
	var failures []error
	for _, s := range e.set {
		value := string(s.secret.Value)
		if folder != nil {
			path, err := folder.write(s.variable, s.secret.Value)
			failures, value = append(failures, err), path
		}
		environ = append(environ, s.variable+"="+value)
	}
	return environ, errors.Join(failures...)
}
