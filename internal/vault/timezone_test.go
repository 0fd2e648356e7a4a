package vault_test

import (
	"strings"
	"testing"

	"github.com/hyperiondb/vault/internal/vault"
)

func TestCheckTimeZone(t *testing.T) {
	for _, c := range []struct {
		tz    string
		known bool
	}{
		{"", true}, {":", true}, {"UTC", true}, {"Europe/Berlin", true}, {":Europe/Berlin", true},
		{"/usr/share/zoneinfo/Europe/Berlin", true},
		{"Europe/Belrin", false}, {"CET-1CEST", false}, {"/etc/hostname", false}, {"/nowhere", false},
		{"../../etc/passwd", false},
	} {
		t.Setenv("TZ", c.tz)
		err := vault.CheckTimeZone()
		if (err == nil) != c.known || err != nil && !strings.Contains(err.Error(), c.tz) {
			t.Errorf("TZ=%q: got %v", c.tz, err)
		}
	}
}
