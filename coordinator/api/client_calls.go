package api

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Sync carries an agent's report and returns the node's assignments. With
// rq.Wait the coordinator may hold it for [LongPoll]. Repeats are harmless.
func (c *Client) Sync(ctx context.Context, rq SyncRequest) (SyncResponse, error) {
	var out SyncResponse
	err := c.do(ctx, call{
		method: http.MethodPost, path: "/agent/v1/sync", body: rq, limit: MaxSyncBytes,
		repeatable: true, waits: rq.Wait,
	}, &out)
	return out, err
}

// PostLogs hands in step output; nil means that it is stored. Repeats are
// harmless.
func (c *Client) PostLogs(ctx context.Context, rq LogRequest) error {
	return c.do(ctx, call{method: http.MethodPost, path: "/agent/v1/logs", body: rq, repeatable: true}, nil)
}

// Status returns every app as it stands now.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var out Status
	err := c.get(ctx, "/v1/status", nil, 0, &out)
	return out, err
}

// Rollouts returns the rollouts of an app, the newest first.
func (c *Client) Rollouts(ctx context.Context, app string) ([]Rollout, error) {
	var out []Rollout
	path, err := appPath(app, "rollouts")
	if err != nil {
		return nil, err
	}
	err = c.get(ctx, path, nil, 0, &out)
	return out, err
}

// Rollout returns one rollout as it stands now.
func (c *Client) Rollout(ctx context.Context, id string) (Rollout, error) {
	var out Rollout
	path, err := rolloutPath(id, "")
	if err != nil {
		return out, err
	}
	err = c.get(ctx, path, nil, 0, &out)
	return out, err
}

// Events returns the timeline after event number after, and the rollout as it
// stands now. With wait (at most [LongPoll]) it waits that long for the first
// event or for a target to take another step.
func (c *Client) Events(ctx context.Context, id string, after int64, wait time.Duration) (EventPage, error) {
	return c.News(ctx, id, after, "", wait)
}

// News is Events for one who follows: it does not wait either when the rollout
// stands otherwise than in the [EventPage.State] that was seen last.
func (c *Client) News(ctx context.Context, id string, after int64, state string, wait time.Duration) (EventPage, error) {
	var out EventPage
	path, err := rolloutPath(id, "/events")
	if err != nil {
		return out, err
	}
	q := url.Values{}
	if after != 0 {
		q.Set("after", strconv.FormatInt(after, 10))
	}
	if state != "" {
		q.Set("state", state)
	}
	err = c.get(ctx, path, q, wait, &out)
	return out, err
}

// LogQuery chooses step output of a rollout. The zero value is all of it.
type LogQuery struct {
	Node  string        // "" is every node
	Step  Step          // "" is every step
	After int64         // the last position seen
	Wait  time.Duration // for the first line; at most LongPoll
}

// Logs returns step output of a rollout, oldest first.
func (c *Client) Logs(ctx context.Context, id string, lq LogQuery) (LogPage, error) {
	var out LogPage
	path, err := rolloutPath(id, "/logs")
	if err != nil {
		return out, err
	}
	q := url.Values{}
	if lq.Node != "" {
		q.Set("node", lq.Node)
	}
	if lq.Step != "" {
		q.Set("step", string(lq.Step))
	}
	if lq.After != 0 {
		q.Set("after", strconv.FormatInt(lq.After, 10))
	}
	err = c.get(ctx, path, q, lq.Wait, &out)
	return out, err
}

// Plan returns what a deploy of ref would do now; "" is the app's branch.
func (c *Client) Plan(ctx context.Context, app, ref string) (Plan, error) {
	q := url.Values{}
	if ref != "" {
		q.Set("ref", ref)
	}
	return c.plan(ctx, app, q)
}

// PlanRollback returns what a rollback to a release, as in [RollbackRequest.To],
// would do now.
func (c *Client) PlanRollback(ctx context.Context, app, to string) (Plan, error) {
	q := url.Values{"kind": {"rollback"}}
	if to != "" {
		q.Set("to", to)
	}
	return c.plan(ctx, app, q)
}

func (c *Client) plan(ctx context.Context, app string, q url.Values) (Plan, error) {
	var out Plan
	path, err := appPath(app, "plan")
	if err != nil {
		return out, err
	}
	// Held like a wait: the coordinator may have to fetch the repository first.
	err = c.do(ctx, call{method: http.MethodGet, path: path, query: q, repeatable: true, waits: true}, &out)
	return out, err
}

// Deploy starts a rollout to a commit and returns it as accepted.
func (c *Client) Deploy(ctx context.Context, app string, rq DeployRequest) (Rollout, error) {
	return c.start(ctx, app, "deploy", rq)
}

// Rollback starts a rollout to an earlier release and returns it as accepted. Its
// warnings name the nodes that do not have the release any more.
func (c *Client) Rollback(ctx context.Context, app string, rq RollbackRequest) (Rollout, error) {
	return c.start(ctx, app, "rollback", rq)
}

// Retry lets the app's live rollout try again, or starts the last one that
// failed anew, and returns the rollout to follow.
func (c *Client) Retry(ctx context.Context, app string, rq ActionRequest) (Rollout, error) {
	return c.start(ctx, app, "retry", rq)
}

// Pause keeps the app's live rollout from beginning further turns.
func (c *Client) Pause(ctx context.Context, app string, rq ActionRequest) (Rollout, error) {
	return c.start(ctx, app, "pause", rq)
}

// Resume lets a paused rollout go on.
func (c *Client) Resume(ctx context.Context, app string, rq ActionRequest) (Rollout, error) {
	return c.start(ctx, app, "resume", rq)
}

// Abort stops the app's live rollout and rolls back what it has changed.
func (c *Client) Abort(ctx context.Context, app string, rq ActionRequest) (Rollout, error) {
	return c.start(ctx, app, "abort", rq)
}

// Deliveries returns the webhook deliveries that were received last and what
// became of them, the newest first.
func (c *Client) Deliveries(ctx context.Context) ([]Delivery, error) {
	var out []Delivery
	err := c.get(ctx, "/v1/deliveries", nil, 0, &out)
	return out, err
}

// Hold keeps automation from deploying the app, and returns its status after.
func (c *Client) Hold(ctx context.Context, app string, rq HoldRequest) (AppStatus, error) {
	var out AppStatus
	err := c.act(ctx, app, "hold", rq, &out)
	return out, err
}

// Unhold lets automation deploy the app again, and returns its status after.
func (c *Client) Unhold(ctx context.Context, app string, rq ActionRequest) (AppStatus, error) {
	var out AppStatus
	err := c.act(ctx, app, "unhold", rq, &out)
	return out, err
}

func (c *Client) start(ctx context.Context, app, verb string, body any) (Rollout, error) {
	var out Accepted
	err := c.act(ctx, app, verb, body, &out)
	return out.Rollout, err
}

// act posts an admin action: never repeated once it may have arrived, and given
// the long timeout, since some of them fetch the repository before they answer.
func (c *Client) act(ctx context.Context, app, verb string, body, out any) error {
	path, err := appPath(app, verb)
	if err != nil {
		return err
	}
	return c.do(ctx, call{method: http.MethodPost, path: path, body: body, waits: true}, out)
}

func (c *Client) get(ctx context.Context, path string, q url.Values, wait time.Duration, out any) error {
	if wait > 0 {
		q.Set("wait", min(wait, LongPoll).String())
	}
	return c.do(ctx, call{method: http.MethodGet, path: path, query: q, repeatable: true, waits: wait > 0}, out)
}

func appPath(app, verb string) (string, error) {
	if err := checkSegment("app", app); err != nil {
		return "", err
	}
	return "/v1/apps/" + url.PathEscape(app) + "/" + verb, nil
}

func rolloutPath(id, rest string) (string, error) {
	if err := checkSegment("rollout", id); err != nil {
		return "", err
	}
	return "/v1/rollouts/" + url.PathEscape(id) + rest, nil
}

// checkSegment refuses names that would make the path mean something else.
func checkSegment(what, name string) error {
	if name == "" || name == "." || name == ".." {
		return fmt.Errorf("cannot ask for %s %q: expected a name", what, name)
	}
	return nil
}
