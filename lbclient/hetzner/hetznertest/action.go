package hetznertest

import (
	"fmt"
	"net/http"
	"slices"
	"time"
)

// action is a change that takes its time.
type action struct {
	id       int64
	balancer int64
	command  string
	status   string
	started  time.Time
	finished time.Time
	duration time.Duration
	server   int64 // also concerned, 0 if none
	code     string
	message  string
	vanished bool
}

func (a *action) object() map[string]any {
	progress := 100
	if a.status == "running" {
		progress = int(min(95, 100*time.Since(a.started)/max(1, a.duration)))
	}
	resources := []any{map[string]any{"id": a.balancer, "type": "load_balancer"}}
	if a.server != 0 {
		resources = append(resources, map[string]any{"id": a.server, "type": "server"})
	}
	out := map[string]any{
		"id": a.id, "command": a.command, "status": a.status, "progress": progress,
		"started": a.started.UTC().Format(time.RFC3339), "finished": nil, "resources": resources, "error": nil,
	}
	if !a.finished.IsZero() {
		out["finished"] = a.finished.UTC().Format(time.RFC3339)
	}
	if a.status == "error" {
		out["error"] = map[string]any{"code": a.code, "message": a.message}
	}
	return out
}

// begin starts an action that locks the balancer and does its work at the end.
func (c *Cloud) begin(b *balancer, command string, server int64, f Fault, do func()) *action {
	a := &action{
		id: c.newID(), balancer: b.id, command: command, server: server,
		status: "running", started: time.Now(), duration: c.opt.ActionTime, vanished: f.Action == OutcomeVanish,
	}
	c.actions = append(c.actions, a)
	b.busy[a.id] = true
	if c.opt.ListAtOnce && (f.Action == "" || f.Action == OutcomeStuck) {
		do()
		do = func() {}
	}
	if f.Action == OutcomeStuck {
		return a
	}
	c.after(a.duration, func() {
		a.finished = time.Now()
		delete(b.busy, a.id)
		if f.Action == OutcomeError {
			a.status, a.code, a.message = "error", f.ErrorCode, "the action failed"
			return
		}
		a.status = "success"
		if f.Action != OutcomeNoEffect {
			do()
			c.after(c.opt.DataPlaneLag, func() { c.wire(b) })
		}
	})
	return a
}

// Lock begins an action of another hand on a balancer, which keeps it locked
// for as long as it takes.
func (c *Cloud) Lock(id int64, d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.balancers[id]
	a := &action{id: c.newID(), balancer: id, command: "change_algorithm", status: "running", started: time.Now(), duration: d}
	c.actions = append(c.actions, a)
	b.busy[a.id] = true
	c.after(d, func() {
		a.status, a.finished = "success", time.Now()
		delete(b.busy, a.id)
	})
}

// Unstick lets stuck actions of a balancer end without having done anything.
func (c *Cloud) Unstick(id int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.actions {
		if a.balancer == id && a.status == "running" {
			a.status, a.finished, a.code, a.message = "error", time.Now(), "timeout", "the action was given up"
			delete(c.balancers[id].busy, a.id)
		}
	}
}

// change carries out add_target and remove_target.
func (c *Cloud) change(b *balancer, command string, body targetRequest, f Fault) answer {
	t, server, refused := body.target()
	if refused != nil {
		return *refused
	}
	if len(b.busy) > 0 {
		return refuse(http.StatusLocked, "locked", "load balancer is locked because another action is running")
	}
	has := slices.ContainsFunc(b.targets, t.same)
	if command == "remove_target" {
		if t.Server != 0 && c.servers[t.Server] == nil {
			return noServer(t.Server)
		}
		if !has {
			return refuse(http.StatusUnprocessableEntity, "load_balancer_target_not_found", "load balancer target not found")
		}
		return created(c.begin(b, command, server, f, func() { b.targets = without(b.targets, t) }))
	}
	if has {
		return refuse(http.StatusUnprocessableEntity, "target_already_defined", "load balancer target is already defined")
	}
	if refused := c.mayAdd(t); refused != nil {
		return *refused
	}
	return created(c.begin(b, command, server, f, func() { b.targets = append(b.targets, t) }))
}

// mayAdd refuses a target that cannot be reached.
func (c *Cloud) mayAdd(t Target) *answer {
	var out answer
	switch {
	case t.IP != "":
		if _, owned := c.addresses[t.IP]; owned {
			return nil
		}
		out = refuse(http.StatusUnprocessableEntity, "ip_not_owned", "ip is not owned by the project owner")
	case t.Selector != "":
		if _, err := parseSelector(t.Selector); err == nil {
			return nil
		}
		out = refuse(http.StatusUnprocessableEntity, "invalid_input", "invalid label selector")
	default:
		s := c.servers[t.Server]
		switch {
		case s == nil:
			out = noServer(t.Server)
		case t.UsePrivateIP && !s.Private:
			out = refuse(http.StatusUnprocessableEntity, "resolve_cloud_private_targets_error", "server is not attached to the network of the load balancer")
		case !t.UsePrivateIP && s.NoPublic:
			out = refuse(http.StatusUnprocessableEntity, "resolve_cloud_public_targets_error", "server has no public IPv4 address")
		default:
			return nil
		}
	}
	return &out
}

func noServer(id int64) answer {
	return refuse(http.StatusUnprocessableEntity, "invalid_input", fmt.Sprintf("server with ID %d not found", id))
}
