package lbclient

import (
	"testing"
	"time"
)

func TestTimingBounds(t *testing.T) {
	const s = time.Second
	for _, c := range []struct {
		timing   Timing
		down, up time.Duration
	}{
		{Timing{}, 0, 0},
		{Timing{Interval: 15 * s, Timeout: 10 * s, Fall: 3, Rise: 3}, 55 * s, 55 * s},
		{Timing{Interval: 10 * s, Timeout: 5 * s, Fall: 5, Rise: 3}, 55 * s, 35 * s},
		{Timing{Interval: 3 * s, Timeout: 1 * s, Fall: 1, Rise: 2}, 4 * s, 7 * s},
	} {
		if got := c.timing.DownWithin(); got != c.down {
			t.Errorf("%+v: out within %s, want %s", c.timing, got, c.down)
		}
		if got := c.timing.UpWithin(); got != c.up {
			t.Errorf("%+v: in within %s, want %s", c.timing, got, c.up)
		}
	}
	fast, often := Timing{Interval: 2 * s, Timeout: 5 * s, Fall: 2, Rise: 9}, Timing{Interval: 3 * s, Timeout: s, Fall: 4, Rise: 1}
	if got, want := fast.Slower(often), (Timing{Interval: 3 * s, Timeout: 5 * s, Fall: 4, Rise: 9}); got != want {
		t.Errorf("together %+v, want %+v", got, want)
	}
}
