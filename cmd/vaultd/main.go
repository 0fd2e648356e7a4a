// Command vaultd runs beside every PostgreSQL node and answers reads and verifies from it.
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
	if os.Getpid() == 1 {
		os.Exit(superviseAsInit(os.Args))
	}
	if err := vault.DisableCoreDumps(); err != nil {
		fmt.Fprintln(os.Stderr, "vaultd:", err)
		os.Exit(exitFailed)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(execute(ctx, os.Args[1:], os.Stdout, os.Stderr, reload))
}
