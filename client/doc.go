// Package client gives a Go program its secrets from vaultd, and keeps them current while it runs. It needs nothing but
// the standard library.
//
//	c, err := client.New(ctx, client.Config{
//		URL:       "https://db1:8400,https://db2:8400",
//		TokenFile: "/run/credentials/billing/vault-token",
//		Names:     []string{"prod/billing/db"},
//		Cache:     client.File("/var/lib/billing/secrets"),
//	})
//	if err != nil { ... }
//	defer c.Close()
//	password := c.Secret("prod/billing/db") // password.String() is the current value, now and after a rotation
//
// # What it guarantees
//
// When [New] returns without an error, every name in Config.Names has a value, and has one until [Client.Close]. A
// value is replaced by a newer version as soon as the node that is asked has it, usually within a second: vaultd holds
// a request open until there is one (wait=). Where that is not possible, the client looks every Config.Poll. A program
// that has a value goes on with it whatever happens to the vault: when nodes are away, and also when vaultd says that
// the secret is deleted (404) or that the app may not read it any more (403). It is told so through Config.OnError and
// [Secret.Err], and decides.
//
// # Which node is asked
//
// The first of Config.URL that answers. A node that does not connect, does not answer or says that it cannot (5xx, 429)
// is passed over for a second, then for longer, up to half a minute; then it is asked first again. A 403 or 404 of one
// node is believed when no other node gives a value, because a standby may not have replayed a new secret or rule yet.
// For the same reason an older version than the one held is not taken for a minute; after that it is, since a restored
// or failed-over vault has lost the newer one.
//
// # Starting without a vault
//
// With Config.Cache, New takes from the cache what no node gives, so that a program starts while the whole vault is
// away. It does so only if no node answers: a 403 or 404 is an error of New, so revoking works on the next start.
// Config.MaxCacheAge bounds the time since vaultd last confirmed a cached value. The cache holds the values in the
// clear, readable by its owner only; New refuses a cache file that others can read.
//
// # What it refuses
//
// http:// beyond this machine, unless Config.Insecure is set; redirects; answers that are not vaultd's, such as the
// error page of a proxy, which count as a node that is away. It uses no proxy of the environment.
//
// # What cannot leak
//
// [Value] and [Secret] print as "[redacted]" by every verb of package fmt, in JSON, and in package log/slog, also
// inside other structures. No error has a value or a token in it. Bytes and String give the value; where it goes from
// there is up to the program.
//
// # Goroutines
//
// One for each name, until Close: each holds one request open. With more than 16 names the client does not wait but
// polls, since a daemon bounds the requests that wait. OnError is called by one of them at a time.
package client
