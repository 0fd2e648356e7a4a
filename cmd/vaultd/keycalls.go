package main

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hyperiondb/vault/internal/audit/seal"
	"github.com/hyperiondb/vault/internal/envelope"
	"github.com/hyperiondb/vault/internal/vault"
)

// The operations and results of calls of KMS keys, as labels.
const (
	newDataKey  = "new_data_key"
	unwrapKey   = "unwrap"
	describeKey = "describe"
	signSeal    = "sign"

	callOK          = "ok"
	callRefused     = "refused"
	callUnavailable = "unavailable"
	callIntegrity   = "integrity"
	callCancelled   = "cancelled"
	callFailed      = "failed"
)

// keyCalls counts and times what this daemon asks of its KMS keys, those in local key files too.
type keyCalls struct {
	results map[string]map[string]prometheus.Counter // by operation and result
	took    map[string]prometheus.Observer           // by operation
}

func newKeyCalls(r prometheus.Registerer) *keyCalls {
	calls := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "vaultd_kms_calls_total",
		Help: "Operations of KMS keys and of the key of audit seals, in a key service or a key file, by result. " +
			"refused: the key or its service refuses and an operator must act; unavailable: no answer, or throttled; " +
			"integrity: the data key does not open in its context; cancelled: the caller left; failed: any other error, which " +
			"the log has.",
	}, []string{"operation", "result"})
	took := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "vaultd_kms_call_duration_seconds",
		Help:    "Time of an operation of a KMS key, with its retries.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
	}, []string{"operation"})
	r.MustRegister(calls, took)
	c := &keyCalls{results: map[string]map[string]prometheus.Counter{}, took: map[string]prometheus.Observer{}}
	for _, operation := range []string{newDataKey, unwrapKey, describeKey, signSeal} {
		c.results[operation], c.took[operation] = map[string]prometheus.Counter{}, took.WithLabelValues(operation)
		for _, result := range []string{callOK, callRefused, callUnavailable, callIntegrity, callCancelled, callFailed} {
			c.results[operation][result] = calls.WithLabelValues(operation, result)
		}
	}
	return c
}

// begin returns what is to be called with the result of the operation.
func (c *keyCalls) begin(operation string) func(error) {
	began := time.Now()
	return func(err error) {
		c.took[operation].Observe(time.Since(began).Seconds())
		c.results[operation][resultOf(err)].Inc()
	}
}

func resultOf(err error) string {
	switch {
	case err == nil:
		return callOK
	case errors.Is(err, envelope.ErrKeyRefused):
		return callRefused
	case errors.Is(err, envelope.ErrKeyUnavailable):
		return callUnavailable
	case errors.Is(err, envelope.ErrIntegrity):
		return callIntegrity
	case errors.Is(err, context.Canceled):
		return callCancelled
	}
	return callFailed
}

// countedKeys are keys whose operations are counted.
type countedKeys struct {
	keys  vault.Keys
	calls *keyCalls
}

func (k countedKeys) NewDataKey(ctx context.Context, kc envelope.KeyContext) (*envelope.DataKey, envelope.WrappedKey,
	error) {
	done := k.calls.begin(newDataKey)
	key, wrapped, err := k.keys.NewDataKey(ctx, kc)
	done(err)
	return key, wrapped, err
}

func (k countedKeys) Unwrap(ctx context.Context, w envelope.WrappedKey, kc envelope.KeyContext) (*envelope.DataKey,
	error) {
	done := k.calls.begin(unwrapKey)
	key, err := k.keys.Unwrap(ctx, w, kc)
	done(err)
	return key, err
}

// countedSigner is a signer whose signatures are counted. A key service is asked for the public key once.
type countedSigner struct {
	seal.Signer
	calls *keyCalls
}

func (s countedSigner) Sign(ctx context.Context, message []byte) ([]byte, error) {
	done := s.calls.begin(signSeal)
	signature, err := s.Signer.Sign(ctx, message)
	done(err)
	return signature, err
}

// keyCacheCollector shows the cache of data keys. With dek_cache_size or dek_cache_ttl = 0 there is nothing to show.
type keyCacheCollector struct{ vault *vault.Vault }

var (
	cacheHits = prometheus.NewDesc("vaultd_dek_cache_hits_total",
		"Versions that were opened with a data key from the cache.", nil, nil)
	cacheMisses = prometheus.NewDesc("vaultd_dek_cache_misses_total",
		"Versions whose data key was not in the cache. Reads that miss the same key at once share one call of the KMS key.",
		nil, nil)
	cacheKeys = prometheus.NewDesc("vaultd_dek_cache_keys", "Data keys in the cache; dek_cache_size bounds them.", nil,
		nil)
)

// Describe implements prometheus.Collector.
func (c *keyCacheCollector) Describe(to chan<- *prometheus.Desc) {
	to <- cacheHits
	to <- cacheMisses
	to <- cacheKeys
}

// Collect implements prometheus.Collector.
func (c *keyCacheCollector) Collect(to chan<- prometheus.Metric) {
	s, on := c.vault.CachedKeys()
	if !on {
		return
	}
	to <- prometheus.MustNewConstMetric(cacheHits, prometheus.CounterValue, float64(s.Hits))
	to <- prometheus.MustNewConstMetric(cacheMisses, prometheus.CounterValue, float64(s.Misses))
	to <- prometheus.MustNewConstMetric(cacheKeys, prometheus.GaugeValue, float64(s.Keys))
}
