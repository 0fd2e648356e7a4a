package rotation

import "time"

// maxAttempts is how many times a rotation job is tried. After the last failure it stays in
// the failed state, where status and doctor show it, and the secret keeps the version it has.
// Nine waits lie between ten attempts: with backoff they take 43 to 85 minutes together,
// longer than a database failover or a key service outage too short to page an operator.
const maxAttempts = 10

const (
	backoffBase = 10 * time.Second
	backoffCap  = time.Hour
)

// backoff returns how long to wait after the given attempt failed (the first attempt is 1; a
// smaller number counts as 1). The whole wait is 10 seconds, doubled with every further
// attempt up to one hour; the answer lies between half of it and the whole, so that jobs
// which failed together do not come back together, and none comes back at once.
//
// random returns a number in [0, 1), as math/rand/v2.Float64 does, and is called once.
func backoff(attempt int, random func() float64) time.Duration {
	whole := backoffBase
	for ; attempt > 1 && whole < backoffCap; attempt-- {
		whole = min(2*whole, backoffCap)
	}
	half := whole / 2
	return half + time.Duration(random()*float64(half))
}
