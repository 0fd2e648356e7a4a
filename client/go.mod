module github.com/hyperiondb/vault/client

go 1.25
