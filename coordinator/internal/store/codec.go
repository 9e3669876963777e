package store

import (
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// The names of the concrete types, under which they are saved. They are part of
// what is stored: they never change.
var events = map[reflect.Type]string{
	reflect.TypeFor[rollout.Configured]():        "configured",
	reflect.TypeFor[rollout.Started]():           "started",
	reflect.TypeFor[rollout.Tick]():              "tick",
	reflect.TypeFor[rollout.NodeLost]():          "node_lost",
	reflect.TypeFor[rollout.Reported]():          "reported",
	reflect.TypeFor[rollout.Archived]():          "archived",
	reflect.TypeFor[rollout.DeployRequested]():   "deploy_requested",
	reflect.TypeFor[rollout.RollbackRequested](): "rollback_requested",
	reflect.TypeFor[rollout.PauseRequested]():    "pause_requested",
	reflect.TypeFor[rollout.ResumeRequested]():   "resume_requested",
	reflect.TypeFor[rollout.AbortRequested]():    "abort_requested",
	reflect.TypeFor[rollout.RetryRequested]():    "retry_requested",
	reflect.TypeFor[rollout.HoldRequested]():     "hold_requested",
	reflect.TypeFor[rollout.UnholdRequested]():   "unhold_requested",
	reflect.TypeFor[rollout.BalancerAsked]():     "balancer_asked",
}

var effects = map[reflect.Type]string{
	reflect.TypeFor[rollout.Assign]():  "assign",
	reflect.TypeFor[rollout.Changed](): "changed",
	reflect.TypeFor[rollout.Noted]():   "noted",
}

// EncodeEvent returns the stored form of an event: {"type":"tick","data":{…}}.
// Nothing but people and their tools reads it again.
func EncodeEvent(ev rollout.Event) ([]byte, error) { return encode("event", events, ev) }

// EncodeEffect returns the stored form of an effect, like that of an event.
func EncodeEffect(e rollout.Effect) ([]byte, error) { return encode("effect", effects, e) }

func encode(what string, names map[reflect.Type]string, v any) ([]byte, error) {
	typ := reflect.TypeOf(v)
	name, ok := names[typ]
	if !ok {
		return nil, fmt.Errorf("cannot encode %s: no name is registered for its type %v", what, typ)
	}
	data, err := json.Marshal(struct {
		Type string `json:"type"`
		Data any    `json:"data"`
	}{name, v})
	if err != nil {
		return nil, fmt.Errorf("cannot encode %s %s: %w", what, name, err)
	}
	return data, nil
}
