package db

import "testing"

func TestHasPassword(t *testing.T) {
	for url, want := range map[string]bool{
		"": false, "postgres://vaultd@/app?host=/run": false, "postgres://vaultd:pw@h/app": true,
		"postgresql://u:p%40@h": true, "jdbc:postgresql://u:pw@h/app": true,
		"postgres://u@h:5432/app": false, "postgres://h/app?user=u&password=pw": true,
		"postgres://h/app?sslpassword=pw": true,
		"host=h user=u":                   false, "host=h password=pw": true, "host=h PASSWORD = 'a b'": true,
		"host=h passfile=/f": false,
		"password=":          false,
	} {
		if got := HasPassword(url); got != want {
			t.Errorf("%q: got %t, want %t", url, got, want)
		}
	}
}
