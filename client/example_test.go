package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/hyperiondb/vault/client"
	"github.com/hyperiondb/vault/client/clienttest"
)

// A program that takes its password from the vault each time it connects.
func Example() {
	vault := clienttest.NewServer(map[string]string{"prod/billing/db": "correct horse"})
	defer vault.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := client.New(ctx, client.Config{
		URL:     vault.URL, // in production: "https://db1:8400,https://db2:8400" or "unix:///run/vaultd/vaultd.sock"
		Names:   []string{"prod/billing/db"},
		OnError: func(err error) { log.Print(err) },
	})
	if err != nil {
		log.Print(err)
		return
	}
	defer c.Close()

	password := c.Secret("prod/billing/db")
	fmt.Println("version", password.Version(), "has", len(password.Bytes()), "bytes; in a log it is", password)
	// Output: version 1 has 13 bytes; in a log it is [redacted]
}

// A program that reacts to a rotation.
func ExampleClient_Watch() {
	vault := clienttest.NewServer(map[string]string{"prod/billing/db": "one"})
	defer vault.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := client.New(ctx, client.Config{URL: vault.URL, Names: []string{"prod/billing/db"}})
	if err != nil {
		log.Print(err)
		return
	}
	defer c.Close()

	versions := c.Watch(ctx, "prod/billing/db")
	vault.Set("prod/billing/db", "two") // what a rotation does
	fmt.Println("now version", (<-versions).Version())
	// Output: now version 2
}

// A connection pool that is made anew after a rotation, if the new password works.
func ExampleNewUpdater() {
	vault := clienttest.NewServer(map[string]string{"prod/billing/db": "one"})
	defer vault.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := client.New(ctx, client.Config{URL: vault.URL, Names: []string{"prod/billing/db"}})
	if err != nil {
		log.Print(err)
		return
	}
	defer c.Close()

	type pool struct{ version int } // stands for *sql.DB
	pools, err := client.NewUpdater(c, "prod/billing/db", func(v client.Value) (*pool, error) {
		if v.String() == "bad" {
			return nil, errors.New("password authentication failed")
		}
		return &pool{v.Version()}, nil
	})
	if err != nil {
		log.Print(err)
		return
	}
	for _, value := range []string{"bad", "three"} {
		versions := c.Watch(ctx, "prod/billing/db")
		vault.Set("prod/billing/db", value)
		<-versions
		fmt.Println("the pool is of version", pools.Get().version)
	}
	// Output:
	// the pool is of version 1
	// the pool is of version 3
}
