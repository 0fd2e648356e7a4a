package httpapi

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/access"
	"github.com/hyperiondb/vault/internal/audit"
	"github.com/hyperiondb/vault/internal/listen"
	"github.com/hyperiondb/vault/internal/vault"
)

// How many failed credentials one address may present at once, and a second. Good ones beside them are not counted.
const (
	failuresAtOnce    = 20
	failuresPerSecond = 5
)

// caller is who a request is made for, as far as its credential says. Of a client that is admitted by its address alone
// all of it is empty.
type caller struct {
	access.Decision
	who    access.Identity
	judged bool      // a credential was presented, or every client needs one
	epoch  uuid.UUID // of the copy of the apps that it was judged by; uuid.Nil: by none

	listable []access.Pattern // of a listing that rules decide: the names that it may show
}

// denial is a refusal of a request because of who makes it. The client is told the same for every reason.
type denial struct {
	reason access.Reason
	detail string // for the log; quotes nothing of the request
}

func (d *denial) Error() string { return "permission denied" }

func (d *denial) outcome() outcome {
	return outcome{status: http.StatusForbidden, code: "not_allowed", message: d.Error(), reason: string(d.reason)}
}

// authorise finds the caller and judges whether it may do what the endpoint does with the name, before the node is
// read. A refusal by a copy of the apps that is not the newest is judged again by the newest.
func (a *API) authorise(ctx context.Context, q *request, g *guard) error {
	q.api = a
	who, err := identify(q.http, q.client, g)
	if err != nil {
		return a.refuse(q, err)
	}
	q.caller.who, q.caller.judged = who, who.Kind != "" || g.policy.Apps
	if !q.caller.judged {
		return nil
	}
	x, err := a.apps.any(ctx)
	if err != nil {
		return err
	}
	if err = q.judge(x, g); err == nil {
		return nil
	}
	// The question is shared and paced, so that a flood of bad credentials costs the node nothing.
	if x, err = a.apps.newest(ctx); err != nil {
		return err
	}
	err = q.judge(x, g)
	if q.caller.failed() {
		return a.refuse(q, err)
	}
	return err
}

// failed reports whether a credential was presented and refused.
func (c *caller) failed() bool {
	return c.Reason.Failed() && (c.Reason != access.NoIdentity || c.who.Kind == access.ByCert)
}

// refuse counts a credential that the newest copy of the apps has refused, or that no copy can have.
func (a *API) refuse(q *request, err error) error {
	var d *denial
	if !errors.As(err, &d) {
		return err
	}
	if wait := a.failures.take(bucketOf(q.client), time.Now()); wait > 0 {
		return tooManyCredentials(wait)
	}
	return err
}

// judge sets what the copy of the apps says of the request.
func (q *request) judge(x *access.Index, g *guard) error {
	c := &q.caller
	who := c.who
	// The user of a local process, or a unit, is a credential only if an app has it.
	if who.Kind == access.ByUnix && !x.Knows(who.Matches[0]) {
		who = access.Identity{Addr: who.Addr}
	}
	c.epoch = x.Epoch()
	switch now := time.Now(); {
	case who.Kind == "" && !g.policy.Apps:
		c.Decision = access.Decision{}
	case q.route.identified:
		c.Decision = x.Judge(who, "", "", now)
	case q.route.access == access.List:
		c.Decision, c.listable = x.JudgeList(who, q.folder, now), x.Patterns(who, access.List, now)
	default:
		c.Decision = x.Judge(who, q.route.access, q.secret, now)
	}
	if c.Reason != access.Allowed {
		return &denial{reason: c.Reason}
	}
	return nil
}

// permission is nil for a request that no copy of the apps was asked about.
func (q *request) permission() vault.Permit {
	if !q.caller.judged {
		return nil
	}
	return q.permit
}

// permit is called with the epoch that came with what was read, before any of it is used. If the apps have changed
// since the request was judged, it is judged again.
func (q *request) permit(ctx context.Context, epoch uuid.UUID) error {
	if epoch == q.caller.epoch {
		return nil
	}
	x, err := q.api.apps.at(ctx, epoch)
	if err != nil {
		return err
	}
	return q.judge(x, q.guard)
}

// describe names the app and its credential in an event, as soon as the credential is proven.
func (c *caller) describe(q *request, e *audit.Event) {
	if c.App == "" {
		return
	}
	e.Actor = appPrefix + c.App
	if e.Detail == nil {
		e.Detail = make(map[string]any, 3)
	}
	if c.Credential != uuid.Nil {
		e.Detail["credential"] = c.Credential.String()
	}
	e.Detail["via"] = c.via()
	e.Detail["api"] = q.route.interfaceName()
}

const appPrefix = "app:"

// via says how the caller proved who it is, for the audit log.
func (c *caller) via() string {
	if c.Credential == uuid.Nil {
		return "none"
	}
	return string(c.who.Kind)
}

// identify reads the credential of a request: the unit for which systemd asks, or the first of token, client
// certificate and local user that there is.
func identify(r *http.Request, c client, g *guard) (access.Identity, error) {
	who := access.Identity{Addr: c.addr}
	if u := unitOf(r.Context()); u != nil {
		return u.identity(), nil
	}
	text, presented, err := presentedToken(r.Header)
	if err != nil {
		return who, err
	}
	if presented {
		t, err := access.ParseToken(text)
		if err != nil {
			return who, &denial{reason: access.BadToken, detail: whyNoToken(text, err)}
		}
		who.Kind, who.ID, who.Fingerprint = access.ByToken, t.ID(), t.Fingerprint()
		return who, nil
	}
	other := listen.PeerOf(r.Context())
	// The certificate of a proxy is not its client's.
	if other.Certificates != nil && !c.forwarded {
		if chains := other.Certificates(); len(chains) > 0 {
			who.Kind = access.ByCert
			who.Matches, err = g.certificate(chains, time.Now())
			return who, err
		}
	}
	// The kernel shows the users of other user namespaces as overflowUID: that is none.
	if other.Local && other.UID != overflowUID {
		who.Kind, who.Matches = access.ByUnix, []string{access.UnixMatch(other.UID)}
	}
	return who, nil
}

const overflowUID = 65534

func whyNoToken(text string, err error) string {
	if access.IsAdminToken(text) {
		return "an admin token does not read; hint: vaultctl app token makes one that does"
	}
	return err.Error()
}

// presentedToken returns the token of X-Vault-Token or Authorization. Both may be there if they are the same. A scheme
// other than Bearer is not the vault's, and counts only if a token stands in its place.
func presentedToken(h http.Header) (text string, presented bool, err error) {
	own, bearer := h["X-Vault-Token"], h["Authorization"]
	if len(own) > 1 || len(bearer) > 1 {
		return "", false, badRequest("X-Vault-Token or Authorization is given twice")
	}
	if len(bearer) == 1 {
		scheme, rest, spaced := strings.Cut(bearer[0], " ")
		switch {
		case strings.EqualFold(scheme, "Bearer"):
			text, presented = strings.Trim(rest, " "), true
		case !spaced && access.IsToken(scheme):
			text, presented = scheme, true
		}
	}
	if len(own) == 1 {
		if presented && own[0] != text {
			return "", false, badRequest("X-Vault-Token and Authorization hold different tokens")
		}
		text, presented = own[0], true
	}
	return text, presented, nil
}

// authority names a certificate of the authorities that sign those of clients.
type authority [sha256.Size]byte

func authorities(certs []*x509.Certificate) map[authority]bool {
	all := make(map[authority]bool, len(certs))
	for _, c := range certs {
		all[sha256.Sum256(c.Raw)] = true
	}
	return all
}

// certificate returns the matches of a client certificate. The handshake has verified it; the connection, or the
// session that it resumed, may be older than the authorities in force and longer than the certificate.
func (g *guard) certificate(chains [][]*x509.Certificate, now time.Time) ([]string, error) {
	for _, chain := range chains {
		if !g.authorities[sha256.Sum256(chain[len(chain)-1].Raw)] {
			continue
		}
		for _, c := range chain {
			if now.After(c.NotAfter) || now.Before(c.NotBefore) {
				return nil, &denial{reason: access.Expired, detail: "the client's certificate, or one above it, is out of date"}
			}
		}
		matches, err := access.CertificateMatches(chain[0])
		if err != nil {
			return nil, &denial{reason: access.NoIdentity, detail: err.Error()}
		}
		return matches, nil
	}
	return nil, &denial{reason: access.NoIdentity,
		detail: "the authority that signed the client's certificate is not in force"}
}

func tooManyCredentials(retry time.Duration) error {
	return &refusal{outcome{status: http.StatusTooManyRequests, code: "rate_limited",
		message: "too many failed credentials from this address", retry: retry, reason: "failed_credentials"}}
}
