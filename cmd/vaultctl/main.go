// Command vaultctl is the operator's tool: it talks straight to the Postgres cluster that holds the vault.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/hyperiondb/vault/internal/vault"
)

func main() {
	if err := vault.DisableCoreDumps(); err != nil {
		fmt.Fprintln(os.Stderr, "vaultctl:", err)
		os.Exit(exitFailed)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C kills the process
	code := run(ctx, os.Args[1:], stdio{in: os.Stdin, out: os.Stdout, err: os.Stderr})
	stop()
	os.Exit(code)
}
