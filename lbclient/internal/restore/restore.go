// Package restore puts what a provider must know to bring a target back into a
// [lbclient.Restore], and takes it out again. What is in it is each provider's
// own; whose it is, and in which version, is the same for all.
package restore

import (
	"encoding/json"
	"fmt"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

const version = 1

// Of says whose records are put and taken.
type Of struct {
	Provider string // product and name of the balancer: haproxy/front
	Target   string
}

// Put keeps a record, which is written as JSON. Errors are of class
// [lbclient.ClassInvalid], of operation op.
func (o Of) Put(op string, record any, serving bool) (lbclient.Restore, error) {
	data, err := json.Marshal(record)
	if err != nil {
		return lbclient.Restore{}, &lbclient.Error{Class: lbclient.ClassInvalid, Op: op, Err: err}
	}
	return lbclient.Restore{Provider: o.Provider, Target: o.Target, Version: version, WasServing: serving, Data: data}, nil
}

// Take is the record that was put there, read and checked by decode. One of
// another target, balancer or version is refused, for it has been in a journal
// meanwhile. Errors are of class [lbclient.ClassInvalid], of operation op.
func Take[T any](o Of, op string, r lbclient.Restore, decode func(data []byte) (T, error)) (T, error) {
	record, err := func() (none T, err error) {
		if r.Provider != o.Provider || r.Target != o.Target {
			return none, fmt.Errorf("it is of %s in %s, want %s in %s", r.Target, r.Provider, o.Target, o.Provider)
		}
		if r.Version != version {
			return none, fmt.Errorf("it has version %d, want %d", r.Version, version)
		}
		return decode(r.Data)
	}()
	if err != nil {
		return record, &lbclient.Error{Class: lbclient.ClassInvalid, Op: op, Text: "the recorded state cannot be used", Err: err}
	}
	return record, nil
}
