package httpapi

import (
	"context"
	"net/http"
	"strings"

	"github.com/hyperiondb/vault/internal/vault"
)

const secretsPath = "/v1/secrets"

var errNoRoute = badRequest("unknown route")

// byMethod is the endpoints of one path.
type byMethod map[string]*endpoint

// find also answers HEAD where there is GET (RFC 9110, section 9.3.2).
func (m byMethod) find(method string) (*endpoint, error) {
	if method == http.MethodHead {
		method = http.MethodGet
	}
	if e := m[method]; e != nil {
		return e, nil
	}
	return nil, noSuchMethod(m.allow())
}

func (m byMethod) allow() string {
	var methods []string
	for _, method := range []string{http.MethodGet, http.MethodHead, methodList, http.MethodPost, http.MethodPut,
		http.MethodDelete} {
		if m[method] != nil || method == http.MethodHead && m[http.MethodGet] != nil {
			methods = append(methods, method)
		}
	}
	return strings.Join(methods, ", ")
}

// secretRoutes does not use http.ServeMux, which cleans paths and redirects: a name must be checked as it was sent.
func secretRoutes(v *vault.Vault, adminAPI bool) router {
	collection := byMethod{}
	named := byMethod{http.MethodGet: getEndpoint(v.Get)}
	actions := map[string]*endpoint{"verify": verifyEndpoint(v.Verify)}
	if adminAPI {
		collection[http.MethodPost] = createEndpoint(v.Put)
		named[http.MethodPut] = putEndpoint(v.Put)
		named[http.MethodDelete] = deleteEndpoint(v.Delete)
		actions["rotate"] = rotateEndpoint(v.Rotate, func(ctx context.Context, name string) (string, error) {
			s, err := v.Describe(ctx, name)
			return s.Generator, err
		})
	}
	return route(collection, named, actions)
}

func route(collection, named byMethod, actions map[string]*endpoint) router {
	return func(r *http.Request) (*endpoint, string, error) {
		rest, ok := below(r.URL.Path, secretsPath)
		if !ok {
			return nil, "", errNoRoute
		}
		if rest == "" {
			e, err := collection.find(r.Method)
			return e, "", err
		}
		name := rest[1:]
		if r.Method == http.MethodPost {
			if slash := strings.LastIndexByte(name, '/'); slash >= 0 && actions[name[slash+1:]] != nil {
				return actions[name[slash+1:]], name[:slash], nil
			}
		}
		e, err := named.find(r.Method)
		return e, name, err
	}
}

// below returns what follows a prefix of a path: nothing, or a slash and more.
func below(path, prefix string) (rest string, ok bool) {
	rest, ok = strings.CutPrefix(path, prefix)
	return rest, ok && (rest == "" || rest[0] == '/')
}
