package httpapi

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strings"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// Tokens are the bearer tokens that are accepted. Only their SHA-256 sums are
// held, and every one is compared each time, so that the time taken tells
// nothing.
type Tokens struct {
	admins [][sha256.Size]byte
	nodes  []nodeToken
}

type nodeToken struct {
	node string
	sum  [sha256.Size]byte
}

// AddAdmin accepts a token for everything that deployctl does.
func (t *Tokens) AddAdmin(token string) {
	t.admins = append(t.admins, sha256.Sum256([]byte(token)))
}

// AddNode accepts a token for the agent of a node, and only for it.
func (t *Tokens) AddNode(node, token string) {
	t.nodes = append(t.nodes, nodeToken{node, sha256.Sum256([]byte(token))})
}

func (t *Tokens) admin(token string) bool {
	sum, ok := sha256.Sum256([]byte(token)), 0
	for _, a := range t.admins {
		ok |= subtle.ConstantTimeCompare(sum[:], a[:])
	}
	return ok == 1
}

func (t *Tokens) node(token string) string {
	sum, node := sha256.Sum256([]byte(token)), ""
	for _, n := range t.nodes {
		if subtle.ConstantTimeCompare(sum[:], n.sum[:]) == 1 {
			node = n.node
		}
	}
	return node
}

type nodeKey struct{}

// nodeOf returns the node that an authenticated agent speaks for.
func nodeOf(ctx context.Context) string {
	node, _ := ctx.Value(nodeKey{}).(string)
	return node
}

func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

func (s *server) asAdmin(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if token := bearer(r); token == "" || !s.Tokens.admin(token) {
			s.fail(w, r, &api.Error{Kind: api.ErrorUnauthorized, Text: "the token is not one of coordinator.admin_tokens"})
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *server) asAgent(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token := bearer(r)
		node := ""
		if token != "" {
			node = s.Tokens.node(token)
		}
		if node == "" {
			s.fail(w, r, &api.Error{Kind: api.ErrorUnauthorized, Text: "the token belongs to no node of fleet.yaml"})
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), nodeKey{}, node)))
	})
}
