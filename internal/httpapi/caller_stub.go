package httpapi

import (
	"context"
	"net/http"
	"strings"

	"github.com/google/uuid"

	"github.com/hyperiondb/vault/internal/access"
)

// Until branch access is merged.

type caller struct {
	access.Decision
	who    access.Identity
	judged bool
	epoch  uuid.UUID
}

type denial struct{ reason access.Reason }

func (d *denial) Error() string { return "permission denied" }

func presentedToken(h http.Header) (text string, presented bool, err error) {
	if t := h.Get("X-Vault-Token"); t != "" {
		return t, true, nil
	}
	text, presented = strings.CutPrefix(h.Get("Authorization"), "Bearer ")
	return text, presented, nil
}

func (q *request) permit(context.Context, uuid.UUID) error { return nil }
