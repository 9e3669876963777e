package gate

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

// Status is what a gate shows of itself.
type Status struct {
	Server string `json:"server"`
	File   string `json:"file"`
	// Drained and Held are why it is closed: by the state file, or by another
	// hand's hold file. Unreadable, if not empty, is why the state is not known,
	// which counts as closed.
	Drained    bool   `json:"drained"`
	Held       bool   `json:"held"`
	Unreadable string `json:"unreadable,omitempty"`
	// Unhealthy is why the app is not healthy; "" if it is, or was not asked
	// because the gate is closed anyway.
	Unhealthy string `json:"unhealthy,omitempty"`
	// Refused and Admitted tell whether everybody who polls knows that the target
	// is out, or in.
	Refused  Evidence        `json:"refused"`
	Admitted Evidence        `json:"admitted"`
	Check    lbclient.Timing `json:"check"` // what the balancer was configured to do
	Started  time.Time       `json:"started"`
	At       time.Time       `json:"at"`
	Epoch    string          `json:"epoch"`
	Pollers  []Poller        `json:"pollers"`
}

// Phase is how the target stands, as far as the polls tell.
func (s Status) Phase() lbclient.Phase {
	switch {
	case s.Unreadable != "":
		return lbclient.PhaseUnknown
	case s.Held:
		return lbclient.PhaseForeignOut
	case s.Drained:
		return lbclient.PhaseDraining
	case s.Unhealthy == "" && s.Admitted.Done:
		return lbclient.PhaseServing
	case s.Unhealthy != "" && s.Refused.Done:
		return lbclient.PhaseUnhealthy
	}
	return lbclient.PhasePending
}

// words say the same to people.
func (s Status) words() string {
	switch {
	case s.Unreadable != "":
		return "the gate is closed, for " + s.Unreadable
	case s.Held:
		return "the gate is held closed by another hand"
	case s.Drained:
		return "the gate is closed; " + s.Refused.Text
	case s.Unhealthy != "":
		return "the gate is open but the app is not healthy (" + s.Unhealthy + "); " + s.Refused.Text
	}
	return "the gate is open; " + s.Admitted.Text
}

// Viewer shows a gate: the [*Gate] itself, or [Remote].
type Viewer interface {
	// Status takes a fresh look.
	Status(ctx context.Context) (Status, error)
}

// maxStatus bounds what is read from another gate.
const maxStatus = 64 << 10

// remoteTimeout bounds a look at a gate in another process.
const remoteTimeout = 5 * time.Second

type remote struct {
	url    string
	client *http.Client
}

// Remote is a gate in another process or on another node, by the URL of its
// status, such as http://10.0.0.11:9101/ready/status. Its errors are of class
// [lbclient.ClassInvalid].
func Remote(address string) (Viewer, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return nil, &lbclient.Error{Class: lbclient.ClassInvalid, Op: "look at a gate",
			Text: fmt.Sprintf("%q is no URL such as http://10.0.0.11:9101%s%s", address, DefaultPath, statusSuffix)}
	}
	return &remote{url: address, client: &http.Client{
		Timeout: remoteTimeout,
		// A connection that is kept would outlive a restart of the gate.
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Status implements [Viewer].
func (r *remote) Status(ctx context.Context) (Status, error) {
	fail := func(err error) (Status, error) { return Status{}, fmt.Errorf("the gate at %s: %w", r.url, err) }
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url, http.NoBody)
	if err != nil {
		return fail(err)
	}
	a, err := r.client.Do(q)
	if err != nil {
		return fail(err)
	}
	defer a.Body.Close()
	if a.StatusCode != http.StatusOK {
		return fail(fmt.Errorf("it answers %s", a.Status))
	}
	data, err := io.ReadAll(io.LimitReader(a.Body, maxStatus+1))
	if err != nil {
		return fail(err)
	}
	s, err := parseStatus(data)
	if err != nil {
		return fail(err)
	}
	return s, nil
}

// parseStatus reads what a gate, perhaps of another version, shows.
func parseStatus(data []byte) (Status, error) {
	if len(data) > maxStatus {
		return Status{}, fmt.Errorf("its answer is longer than %d bytes", maxStatus)
	}
	var s Status
	if err := json.Unmarshal(data, &s); err != nil {
		return Status{}, fmt.Errorf("its answer cannot be understood: %w", err)
	}
	if s.Server == "" || s.Epoch == "" {
		return Status{}, fmt.Errorf("its answer is not a gate's: it names no server or no epoch")
	}
	return s, nil
}
