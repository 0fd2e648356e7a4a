package rotation

import (
	"math"
	"testing"
	"time"
)

func always(x float64) func() float64 { return func() float64 { return x } }

func TestBackoff(t *testing.T) {
	wholes := map[int]time.Duration{
		math.MinInt: 10 * time.Second,
		-1:          10 * time.Second,
		0:           10 * time.Second,
		1:           10 * time.Second,
		2:           20 * time.Second,
		3:           40 * time.Second,
		8:           1280 * time.Second,
		9:           2560 * time.Second,
		10:          time.Hour,
		11:          time.Hour,
		64:          time.Hour,
		math.MaxInt: time.Hour,
	}
	for attempt, whole := range wholes {
		if got := backoff(attempt, always(0)); got != whole/2 {
			t.Errorf("attempt %d, lowest jitter: got %v, want %v", attempt, got, whole/2)
		}
		if got := backoff(attempt, always(0.5)); got != whole*3/4 {
			t.Errorf("attempt %d, middle jitter: got %v, want %v", attempt, got, whole*3/4)
		}
		top := backoff(attempt, always(math.Nextafter(1, 0)))
		if top > whole || top < whole-time.Microsecond {
			t.Errorf("attempt %d, highest jitter: got %v, want just below %v", attempt, top, whole)
		}
	}
}

func TestBackoffDrawsOnce(t *testing.T) {
	draws := 0
	backoff(5, func() float64 { draws++; return 0 })
	if draws != 1 {
		t.Errorf("got %d draws of jitter, want 1", draws)
	}
}

// The comment on maxAttempts promises operators this span.
func TestAllAttemptsTogether(t *testing.T) {
	var shortest, longest time.Duration
	for attempt := 1; attempt < maxAttempts; attempt++ {
		shortest += backoff(attempt, always(0))
		longest += backoff(attempt, always(1))
	}
	if shortest.Round(time.Minute) != 43*time.Minute || longest.Round(time.Minute) != 85*time.Minute {
		t.Errorf("got %v to %v, want 43 to 85 minutes", shortest, longest)
	}
}
