package listen

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"sync"
)

// Peer is what the connection of a request says of its other end.
type Peer struct {
	// UID is the user of a process on the other end of a unix socket, as the kernel knew it when the process connected.
	// Local is false over TCP, and where the system does not tell.
	UID   uint32
	Local bool

	// Name is that of the other end's socket, if it has one and the connection is a OneAnswer's: an abstract name begins
	// with "@" in place of its zero byte. Every process chooses it freely, so it counts for a UID that is trusted only.
	Name string

	// Certificates are the chains of a client's certificate that the handshake has verified; nil without one. net/http
	// does not see the TLS connection of a Listener. It is called after the handshake. A nil func is no TLS.
	Certificates func() [][]*x509.Certificate
}

type peerKey struct{}

// PeerOf returns the peer of a request's context; the zero Peer if there is none.
func PeerOf(ctx context.Context) Peer {
	if p, ok := ctx.Value(peerKey{}).(*Peer); ok {
		return *p
	}
	return Peer{}
}

// WithPeer puts a peer into the context of a connection. Limiter.ConnContext does.
func WithPeer(ctx context.Context, p *Peer) context.Context {
	return context.WithValue(ctx, peerKey{}, p)
}

// peer asks the kernel or the TLS connection. It is nil if neither knows anything.
func (c *conn) peer() *Peer {
	if local, ok := c.raw.(*net.UnixConn); ok {
		if uid, ok := peerUID(local); ok {
			return &Peer{UID: uid, Local: true}
		}
	}
	if secure, ok := c.Conn.(*tls.Conn); ok {
		return &Peer{Certificates: sync.OnceValue(func() [][]*x509.Certificate {
			return secure.ConnectionState().VerifiedChains
		})}
	}
	return nil
}
