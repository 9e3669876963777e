package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"

	"github.com/lockstep-deploy/lockstep/coordinator/rollout"
)

// kind is one concrete type behind an interface, with the name under which it
// is saved. Names are part of what is stored: they never change.
type kind[I any] struct {
	name   string
	typ    reflect.Type
	decode func(json.RawMessage) (I, error)
}

func kindOf[T, I any](name string) kind[I] {
	return kind[I]{name, reflect.TypeFor[T](), func(data json.RawMessage) (I, error) {
		var v T
		err := json.Unmarshal(data, &v)
		i, _ := any(v).(I)
		return i, err
	}}
}

var events = []kind[rollout.Event]{
	kindOf[rollout.Configured, rollout.Event]("configured"),
	kindOf[rollout.Started, rollout.Event]("started"),
	kindOf[rollout.Tick, rollout.Event]("tick"),
	kindOf[rollout.NodeLost, rollout.Event]("node_lost"),
	kindOf[rollout.Reported, rollout.Event]("reported"),
	kindOf[rollout.Archived, rollout.Event]("archived"),
	kindOf[rollout.DeployRequested, rollout.Event]("deploy_requested"),
	kindOf[rollout.RollbackRequested, rollout.Event]("rollback_requested"),
	kindOf[rollout.PauseRequested, rollout.Event]("pause_requested"),
	kindOf[rollout.ResumeRequested, rollout.Event]("resume_requested"),
	kindOf[rollout.AbortRequested, rollout.Event]("abort_requested"),
	kindOf[rollout.RetryRequested, rollout.Event]("retry_requested"),
	kindOf[rollout.HoldRequested, rollout.Event]("hold_requested"),
	kindOf[rollout.UnholdRequested, rollout.Event]("unhold_requested"),
	kindOf[rollout.BalancerAsked, rollout.Event]("balancer_asked"),
}

var effects = []kind[rollout.Effect]{
	kindOf[rollout.Assign, rollout.Effect]("assign"),
	kindOf[rollout.Changed, rollout.Effect]("changed"),
	kindOf[rollout.Noted, rollout.Effect]("noted"),
}

// typed is the stored form of an event or an effect.
type typed struct {
	Type string          `json:"type"`
	Data json.RawMessage `json:"data"`
}

// EncodeEvent returns the stored form of an event: {"type":"tick","data":{…}}.
func EncodeEvent(ev rollout.Event) ([]byte, error) { return encode("event", events, ev) }

// DecodeEvent returns the event that [EncodeEvent] wrote. Fields that this
// version does not know are dropped; a type that it does not know is an error.
func DecodeEvent(data []byte) (rollout.Event, error) { return decode("event", events, data) }

// EncodeEffect returns the stored form of an effect.
func EncodeEffect(e rollout.Effect) ([]byte, error) { return encode("effect", effects, e) }

// DecodeEffect returns the effect that [EncodeEffect] wrote.
func DecodeEffect(data []byte) (rollout.Effect, error) { return decode("effect", effects, data) }

func encode[I any](what string, kinds []kind[I], v I) ([]byte, error) {
	typ := reflect.TypeOf(v)
	for _, k := range kinds {
		if k.typ != typ {
			continue
		}
		data, err := json.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("cannot encode %s %s: %w", what, k.name, err)
		}
		return json.Marshal(typed{k.name, data})
	}
	return nil, fmt.Errorf("cannot encode %s: no name is registered for its type %v", what, typ)
}

func decode[I any](what string, kinds []kind[I], data []byte) (I, error) {
	var none I
	var t typed
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(&t); err != nil {
		return none, fmt.Errorf("cannot decode %s: %w", what, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return none, fmt.Errorf("cannot decode %s: something follows its end", what)
	}
	for _, k := range kinds {
		if k.name != t.Type {
			continue
		}
		if len(t.Data) == 0 || t.Data[0] != '{' {
			return none, fmt.Errorf("cannot decode %s %s: expected an object as its data", what, k.name)
		}
		v, err := k.decode(t.Data)
		if err != nil {
			return none, fmt.Errorf("cannot decode %s %s: %w", what, k.name, err)
		}
		return v, nil
	}
	return none, fmt.Errorf("cannot decode %s: unknown type %q; a newer version may have written it", what, t.Type)
}
