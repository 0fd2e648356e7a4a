package vault

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// CheckTimeZone returns an error that names the environment's TZ if this machine has no such time zone: Go's runtime
// then uses UTC without an error.
func CheckTimeZone() error {
	text, set := os.LookupEnv("TZ")
	name := strings.TrimPrefix(text, ":")
	var err error
	switch {
	case !set || name == "" || name == "UTC":
	case strings.HasPrefix(name, "/"):
		var file []byte
		if file, err = os.ReadFile(name); err == nil {
			_, err = time.LoadLocationFromTZData(name, file)
		}
	default:
		_, err = time.LoadLocation(name)
	}
	if err != nil {
		return fmt.Errorf("the environment's TZ is %q, which is no time zone on this machine: times are UTC", text)
	}
	return nil
}
