package sim

import (
	"errors"
	"slices"
)

// Shrink returns the smallest plan that it finds in about the given number of
// runs on which the same check fails, and how it fails there.
func Shrink(p Plan, v *Violation, runs int) (Plan, *Violation) {
	fails := func(q Plan) bool {
		runs--
		_, err := Run(q, nil)
		var got *Violation
		if !errors.As(err, &got) || got.Check != v.Check {
			return false
		}
		p, v = q, got
		return true
	}
	for {
		before := len(p.Ops)
		for size := max(1, len(p.Ops)/2); size >= 1; size /= 2 {
			for i := 0; i < len(p.Ops) && runs > 0; {
				q := p
				q.Ops = slices.Delete(slices.Clone(p.Ops), i, min(i+size, len(p.Ops)))
				if !fails(q) {
					i += size
				}
			}
		}
		for _, simpler := range []func(*Plan){
			func(q *Plan) { q.Loss = 0 },
			func(q *Plan) { q.Repeat = 0 },
			func(q *Plan) { q.Late = 0 },
			func(q *Plan) { q.Canary = false },
			func(q *Plan) { q.Apps = 1 },
			func(q *Plan) { q.Instances = 1 },
			func(q *Plan) { q.Nodes-- },
		} {
			q := p
			if simpler(&q); runs > 0 && q.fits() {
				fails(q)
			}
		}
		if len(p.Ops) == before || runs <= 0 {
			return p, v
		}
	}
}

// fits tells whether every operation is of a node, an app, and an instance that exist.
func (p Plan) fits() bool {
	return p.Nodes > 0 && !slices.ContainsFunc(p.Ops, func(o Op) bool { return o.Node >= p.Nodes || o.App >= p.Apps || o.Inst >= p.Instances })
}
