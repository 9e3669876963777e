package nginx

import (
	"testing"
	"time"
)

// The kernel tells a birth by the hundredth of a second, a file its change by the
// nanosecond. Whoever looks at whichever moment, and wherever the two clocks stand,
// tells those who were born after an edit of ours from those born before it.
func TestWhoWasBornAfterAnEdit(t *testing.T) {
	wall := time.Date(2026, 3, 4, 5, 6, 7, 123_456_789, time.UTC)
	edited := clock{"0badcafe", 1000*tick + 3_456_789, wall}
	at := edited.instant()
	changed := edited.time(at)
	born := func(ticks uint64, now clock) bool {
		r := &running{now: now, workers: []process{{title: titleWorker, born: ticks}}}
		return r.tookUpFile(changed)
	}
	for later := time.Duration(0); later < 5*tick; later += 100 * time.Microsecond {
		for _, apart := range []time.Duration{-slack / 2, 0, slack / 2} {
			now := clock{edited.boot, edited.up + later, wall.Add(later + apart)}
			if !born(at.ticks, now) || born(at.ticks-1, now) {
				t.Fatalf("%s after the edit, clocks %s apart: born at the instant of the edit counts as after it: %t, born a tick before: %t",
					later, apart, born(at.ticks, now), born(at.ticks-1, now))
			}
		}
	}
	if before := edited.at(wall.Add(-time.Hour)); before.ticks != 0 {
		t.Errorf("an hour before a boot ten seconds ago is %+v", before)
	}
}
