package hetznertest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
)

// descriptionFile is the part of Hetzner's description that matters here.
const descriptionFile = "hetzner-load-balancers.openapi.json"

// oracle knows what Hetzner's published description allows.
type oracle struct {
	router routers.Router

	mu   sync.Mutex
	fine map[[sha256.Size]byte]bool // what was found to be as described
}

// maxFine bounds what is remembered.
const maxFine = 10000

// oracles keeps each description that was read, for that takes long.
var oracles struct {
	sync.Mutex
	by map[string]*oracle
}

func newOracle(dir string) (*oracle, error) {
	oracles.Lock()
	defer oracles.Unlock()
	if o := oracles.by[dir]; o != nil {
		return o, nil
	}
	o, err := readOracle(dir)
	if err == nil {
		if oracles.by == nil {
			oracles.by = make(map[string]*oracle)
		}
		oracles.by[dir] = o
	}
	return o, err
}

func readOracle(dir string) (*oracle, error) {
	file := filepath.Join(dir, descriptionFile)
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read Hetzner's description of its API: %w", err)
	}
	text, err = normalise(text)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", file, err)
	}
	doc, err := openapi3.NewLoader().LoadFromData(text)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", file, err)
	}
	doc.Servers = openapi3.Servers{{URL: "/v1"}}
	router, err := gorillamux.NewRouter(doc)
	if err != nil {
		return nil, fmt.Errorf("cannot use %s: %w", file, err)
	}
	return &oracle{router: router, fine: make(map[[sha256.Size]byte]bool)}, nil
}

// normalise writes two things the way the library reads them: ranges of status
// codes, and discriminators, whose names point at schemas that the description
// holds inline.
func normalise(text []byte) ([]byte, error) {
	var doc any
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, err
	}
	return json.Marshal(walk(doc))
}

func walk(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, x := range v {
			switch k {
			case "discriminator":
				if _, is := x.(map[string]any)["propertyName"]; is {
					continue
				}
			case "4xx", "5xx":
				k = strings.ToUpper(k)
			}
			out[k] = walk(x)
		}
		return out
	case []any:
		for i := range v {
			v[i] = walk(v[i])
		}
	}
	return v
}

// check tells what in a call or its answer the description does not allow. A
// request that was refused may well be wrong. The same call with the same answer
// is looked at once, for whoever polls makes it often.
func (o *oracle) check(r *http.Request, body []byte, status int, header http.Header, answer []byte) error {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %q %q %d %s", r.Method, r.URL, body, status, answer))
	o.mu.Lock()
	fine := o.fine[sum]
	o.mu.Unlock()
	if fine {
		return nil
	}
	err := o.compare(r, body, status, header, answer)
	if err == nil {
		o.mu.Lock()
		defer o.mu.Unlock()
		if len(o.fine) >= maxFine {
			clear(o.fine)
		}
		o.fine[sum] = true
	}
	return err
}

func (o *oracle) compare(r *http.Request, body []byte, status int, header http.Header, answer []byte) error {
	call := r.Method + " " + r.URL.String()
	again := r.Clone(context.WithoutCancel(r.Context()))
	again.Body = io.NopCloser(bytes.NewReader(body))
	route, params, err := o.router.FindRoute(again)
	if err != nil {
		// The descriptions at hand are of balancers and servers; a network is only
		// shown.
		if status == http.StatusNotFound || strings.HasPrefix(r.URL.Path, "/v1/networks/") {
			return nil
		}
		return fmt.Errorf("%s is not described: %w", call, err)
	}
	options := &openapi3filter.Options{
		AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, IncludeResponseStatus: true,
		SkipSettingDefaults: true, MultiError: true,
	}
	in := &openapi3filter.RequestValidationInput{Request: again, PathParams: params, Route: route, Options: options}
	if err := openapi3filter.ValidateRequest(again.Context(), in); err != nil && status < 400 {
		return fmt.Errorf("the request %s with %s is not as described: %w", call, body, err)
	}
	out := (&openapi3filter.ResponseValidationInput{
		RequestValidationInput: in, Status: status, Header: header, Options: options,
	}).SetBodyBytes(answer)
	if err := openapi3filter.ValidateResponse(again.Context(), out); err != nil {
		return fmt.Errorf("the answer %d to %s is not as described: %w", status, call, err)
	}
	return nil
}
