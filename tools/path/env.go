package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/hyperiondb/vault/internal/db"
	"github.com/hyperiondb/vault/internal/kms"
	"github.com/hyperiondb/vault/internal/vault"
	"github.com/hyperiondb/vault/internal/vaulttest"
)

// env is a vault in a cluster, and the programs that are measured.
type env struct {
	program *vaulttest.Program
	store   *vaulttest.Store
	token   vault.Token
	vault   *vault.Vault // connects as the operator

	closers []func() error // in the order of opening
}

func newEnv(ctx context.Context) (*env, error) {
	program, err := vaulttest.Start(ctx)
	if err != nil {
		return nil, fmt.Errorf("starting PostgreSQL: %w", err)
	}
	e := &env{program: program, closers: []func() error{program.Close}}
	if err := e.open(ctx); err != nil {
		return nil, errors.Join(err, e.close())
	}
	return e, nil
}

func (e *env) open(ctx context.Context) (err error) {
	if e.store, err = e.program.NewDatabase(ctx); err != nil {
		return err
	}
	if e.token, err = vault.ParseToken(vaulttest.Token); err != nil {
		return err
	}
	keys, err := kms.OpenKeyring(ctx, []string{e.key()})
	if err != nil {
		return err
	}
	e.closers = append(e.closers, keys.Close)
	options := db.Options{URL: e.store.URL(vaulttest.Operator), ApplicationName: "path"}
	reader, err := db.NewReader(ctx, options)
	if err != nil {
		return err
	}
	e.closers = append(e.closers, func() error { reader.Close(); return nil })
	writer, err := db.NewWriter(ctx, options)
	if err != nil {
		return err
	}
	e.closers = append(e.closers, func() error { writer.Close(); return nil })
	e.vault = vault.New(vault.Options{Reader: reader, Writer: writer, Keys: keys})
	build := exec.CommandContext(ctx, "go", "build", "-cover", "-covermode=atomic", "-o", e.file("vaultd"), "./cmd/vaultd")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building vaultd: %w\n%s", err, out)
	}
	return nil
}

func (e *env) close() error {
	var errs []error
	for i := len(e.closers) - 1; i >= 0; i-- {
		errs = append(errs, e.closers[i]())
	}
	return errors.Join(errs...)
}

func (e *env) file(name string) string { return filepath.Join(e.program.Dir, name) }
func (e *env) key() string             { return "local://" + e.program.KeyFile }

// daemon is a running vaultd.
type daemon struct {
	url    string
	cmd    *exec.Cmd
	output bytes.Buffer // read only after exited
	exited chan error
}

// counts starts vaultd, runs do beside it, ends it and returns how often each block ran.
func (e *env) counts(ctx context.Context, name string, do func(context.Context, *daemon) error) (profile, error) {
	folder := e.file(strings.ReplaceAll(name, " ", "-"))
	if err := os.Mkdir(folder, 0o700); err != nil {
		return nil, err
	}
	d, err := e.start(ctx, folder)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(do(ctx, d), d.stop()); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	text := filepath.Join(folder, "profile")
	convert := exec.CommandContext(ctx, "go", "tool", "covdata", "textfmt", "-i="+folder, "-o="+text)
	if out, err := convert.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("reading the coverage of the %s: %w\n%s", name, err, out)
	}
	file, err := os.Open(text)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return readProfile(file)
}

// start runs vaultd until it is ready. Its folder gets the coverage when it ends.
func (e *env) start(ctx context.Context, folder string) (*daemon, error) {
	addresses := filepath.Join(folder, "addresses")
	settings := fmt.Sprintf(`database_url = %q
primary_database_url = %q
kms_keys = [%q]
listen = ["127.0.0.1:0"]
health_listen = "127.0.0.1:0"
allow = ["127.0.0.0/8"]
admin_api = true
address_file = %q
state_dir = %q
audit_spool = %q
`, e.store.URL(vaulttest.Daemon), e.store.URL(vaulttest.Daemon), e.key(), addresses, filepath.Join(folder, "state"),
		filepath.Join(folder, "spool"))
	config := filepath.Join(folder, "vaultd.toml")
	if err := os.WriteFile(config, []byte(settings), 0o600); err != nil {
		return nil, err
	}
	d := &daemon{cmd: exec.Command(e.file("vaultd"), "--config", config), exited: make(chan error, 1)}
	d.cmd.Stdout, d.cmd.Stderr = &d.output, &d.output
	d.cmd.Env = []string{"HOME=" + os.Getenv("HOME"), "GOCOVERDIR=" + folder}
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C reaches this program only
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { d.exited <- d.cmd.Wait() }()
	if err := await(ctx, func() (bool, error) { return d.ready(ctx, addresses) }); err != nil {
		return nil, errors.Join(fmt.Errorf("starting vaultd: %w", err), d.stop())
	}
	return d, nil
}

// ready reports whether the daemon answers /readyz with 200, and fails if it has ended.
func (d *daemon) ready(ctx context.Context, addresses string) (bool, error) {
	select {
	case err := <-d.exited:
		d.exited <- err
		return false, errors.New("it ended at once")
	default:
	}
	text, err := os.ReadFile(addresses)
	if err != nil {
		return false, nil // not listening yet
	}
	urls := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, url, _ := strings.Cut(strings.TrimSpace(line), "=")
		urls[name] = url
	}
	d.url = urls["VAULTD_URL"]
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, urls["VAULTD_HEALTH_URL"]+"/readyz", nil)
	if err != nil {
		return false, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false, err
	}
	response.Body.Close()
	return response.StatusCode == http.StatusOK, nil
}

// stop ends the daemon in order, so that it writes its coverage. The error has its log.
func (d *daemon) stop() error {
	_ = d.cmd.Process.Signal(syscall.SIGTERM) // it fails if the daemon has ended
	if err := <-d.exited; err != nil {
		return fmt.Errorf("vaultd: %w\n%s", err, d.output.String())
	}
	return nil
}
