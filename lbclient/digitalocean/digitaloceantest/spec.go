package digitaloceantest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
)

// spec is the published description of the API.
type spec struct {
	router routers.Router
	seen   sync.Map // calls that were found right: polls repeat themselves
}

// loaded keeps descriptions by file, for they are long.
var loaded = struct {
	sync.Mutex
	byFile map[string]*spec
}{byFile: make(map[string]*spec)}

func load(file string) (*spec, error) {
	loaded.Lock()
	defer loaded.Unlock()
	if s := loaded.byFile[file]; s != nil {
		return s, nil
	}
	doc, err := openapi3.NewLoader().LoadFromFile(file)
	if err != nil {
		return nil, err
	}
	doc.Servers = nil // any host will do
	router, err := gorillamux.NewRouter(doc)
	if err != nil {
		return nil, err
	}
	s := &spec{router: router}
	loaded.byFile[file] = s
	return s, nil
}

// validate says what is wrong with a call.
func (s *spec) validate(r *http.Request, sent []byte, status int, header http.Header, body []byte) []string {
	call := fmt.Sprintf("%s %s %s %s %d %s", r.Method, r.URL, r.Header.Get("Content-Type"), sent, status, body)
	if _, known := s.seen.Load(call); known {
		return nil
	}
	r.Body = io.NopCloser(bytes.NewReader(sent))
	out := s.compare(r, status, header, body)
	if len(out) == 0 {
		s.seen.Store(call, true)
	}
	return out
}

func (s *spec) compare(r *http.Request, status int, header http.Header, body []byte) []string {
	route, params, err := s.router.FindRoute(r)
	if err != nil {
		if status == http.StatusNotFound {
			return nil
		}
		return []string{fmt.Sprintf("the description has no such call: %v", err)}
	}
	in := &openapi3filter.RequestValidationInput{
		Request: r, PathParams: params, Route: route,
		Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, MultiError: true},
	}
	var out []string
	// What the API itself refused need not be valid.
	if err := openapi3filter.ValidateRequest(context.Background(), in); err != nil && status < http.StatusBadRequest {
		out = append(out, fmt.Sprintf("the request: %v", err))
	}
	answer := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: in, Status: status, Header: header, Body: io.NopCloser(bytes.NewReader(body)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true, MultiError: true},
	}
	if err := openapi3filter.ValidateResponse(context.Background(), answer); err != nil {
		out = append(out, fmt.Sprintf("the answer with status %d: %v", status, err))
	}
	return out
}
