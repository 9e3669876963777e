package lbclient

// badness orders the phases from the worst to the best of what is known.
var badness = map[Phase]int{
	PhaseUnknown:    7,
	PhaseAbsent:     6,
	PhaseForeignOut: 5,
	PhaseUnhealthy:  4,
	PhasePending:    3,
	PhaseDraining:   2,
	PhaseServing:    1,
}

// Worst returns the worse of two phases, which is how a target with two places
// stands. A word that is no phase is [PhaseUnknown].
func Worst(a, b Phase) Phase {
	switch {
	case badness[a] == 0 || badness[b] == 0:
		return PhaseUnknown
	case badness[b] > badness[a]:
		return b
	}
	return a
}
