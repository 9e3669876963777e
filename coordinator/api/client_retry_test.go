package api

import (
	"net/http"
	"testing"
	"time"
)

func TestBackoffIsCappedAndJittered(t *testing.T) {
	shortest, longest := 100*time.Millisecond, 2*time.Second
	for attempt, want := range []time.Duration{100, 200, 400, 800, 1600, 2000, 2000} {
		want *= time.Millisecond
		seen := map[time.Duration]bool{}
		for range 50 {
			got := backoff(shortest, longest, attempt, nil)
			if got < want/2 || got > want {
				t.Fatalf("attempt %d: waits %s, want %s to %s", attempt, got, want/2, want)
			}
			seen[got] = true
		}
		if len(seen) < 10 {
			t.Errorf("attempt %d: only %d different waits in 50", attempt, len(seen))
		}
	}
	if got := backoff(shortest, longest, 5000, nil); got > longest {
		t.Errorf("attempt 5000 waits %s", got)
	}
}

func TestRetryAfter(t *testing.T) {
	date := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(http.TimeFormat) }
	for _, tc := range []struct {
		header   string
		min, max time.Duration
	}{
		{"7", 7 * time.Second, 8 * time.Second},
		{"0", 0, time.Second},
		{"86400", 60 * time.Second, 61 * time.Second},
		{"9223372036854775807", 60 * time.Second, 61 * time.Second},
		{"-5", 0, time.Second}, // as if it were absent
		{"soon", 0, time.Second},
		{date(30 * time.Second), 28 * time.Second, 31 * time.Second},
		{date(time.Hour), 60 * time.Second, 61 * time.Second},
		{date(-time.Hour), 0, time.Second},
	} {
		resp := &http.Response{Header: http.Header{"Retry-After": {tc.header}}}
		if got := backoff(time.Second, time.Second, 0, resp); got < tc.min || got > tc.max {
			t.Errorf("Retry-After %q waits %s, want %s to %s", tc.header, got, tc.min, tc.max)
		}
	}
}
