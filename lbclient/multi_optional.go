package lbclient

import (
	"context"
	"strings"
)

// ForceIdle implements [Forcer] through every side that is not idle yet and can.
// ClassUnsupported when none of them can.
func (m *multi) ForceIdle(ctx context.Context, r Restore) error {
	const verb = "force idle"
	rs, err := m.decode(verb, r)
	if err != nil {
		return err
	}
	busy, forced := 0, 0
	var cannot error
	for i, s := range m.sides {
		st, err := s.DrainStatus(ctx, rs[i])
		if err != nil {
			return m.at(i, verb, err)
		}
		if st.Stage == DrainIdle {
			continue
		}
		busy++
		f, ok := s.(Forcer)
		if !ok {
			continue
		}
		switch err := f.ForceIdle(ctx, rs[i]); {
		case err == nil:
			forced++
		case ClassOf(err) == ClassUnsupported:
			cannot = m.at(i, verb, err)
		default:
			return m.at(i, verb, err)
		}
	}
	switch {
	case busy == 0 || forced > 0:
		return nil
	case cannot != nil:
		return cannot
	}
	return &Error{Class: ClassUnsupported, Op: verb, Text: "none of the balancers that are busy can end work by force; wait longer, or go on with on_drain_timeout: proceed"}
}

// Caps implements [Describer]: a claim stands if every side makes it, a cost or
// a gap in what is known if one has it.
func (m *multi) Caps() Caps {
	out := Caps{Health: len(m.sides) > 0, InFlight: len(m.sides) > 0}
	var disturbs, undocumented []string
	for _, s := range m.sides {
		c := CapsOf(s)
		out.Health = out.Health && c.Health
		out.InFlight = out.InFlight && c.InFlight
		if c.Disturbs != "" {
			disturbs = append(disturbs, c.Disturbs)
		}
		if c.Undocumented != "" {
			undocumented = append(undocumented, c.Undocumented)
		}
	}
	out.Disturbs, out.Undocumented = strings.Join(disturbs, "; "), strings.Join(undocumented, "; ")
	return out
}

// Timing implements [Timed] with the slowest of the sides that can say.
// ClassUnsupported when none can.
func (m *multi) Timing(ctx context.Context) (Timing, error) {
	const verb = "read the timing of checks"
	var out Timing
	known := false
	for i, s := range m.sides {
		t, ok := s.(Timed)
		if !ok {
			continue
		}
		of, err := t.Timing(ctx)
		if ClassOf(err) == ClassUnsupported && err != nil {
			continue
		}
		if err != nil {
			return Timing{}, m.at(i, verb, err)
		}
		known = true
		out = out.Slower(of)
	}
	if !known {
		return Timing{}, &Error{Class: ClassUnsupported, Op: verb, Text: "none of the balancers can say"}
	}
	return out, nil
}
