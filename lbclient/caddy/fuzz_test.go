package caddy

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParseMetrics(t *testing.T) {
	m := parseMetrics([]byte(`# HELP go_build_info
go_build_info{checksum="h1:x=",path="github.com/caddyserver/caddy/v2",version="v2.11.9"} 1
caddy_reverse_proxy_upstreams_healthy{upstream="127.0.0.1:32001"} 1
caddy_reverse_proxy_upstreams_healthy{upstream="tcp/127.0.0.1:32002"} 0
caddy_reverse_proxy_upstreams_healthy{upstream="odd\"one"} 0
process_start_time_seconds 1.79522161752e+09
`))
	want := metrics{start: "1.79522161752e+09", version: [3]int{2, 11, 9}, healthy: map[string]bool{"127.0.0.1:32001": true, "127.0.0.1:32002": false}}
	if !reflect.DeepEqual(m, want) {
		t.Errorf("got %+v, want %+v", m, want)
	}
	for version, want := range map[[3]int]bool{{}: false, {2, 6, 2}: false, {2, 11, 1}: false, {2, 11, 2}: true, {2, 12, 0}: true, {3, 0, 0}: true} {
		if got := (metrics{version: version}).countsRemoved(); got != want {
			t.Errorf("version %v counts removed upstreams: %t, want %t", version, got, want)
		}
	}
}

const sampleHandler = `{"@id":"web","handler":"reverse_proxy","health_checks":{"passive":{"fail_duration":30000000000,"max_fails":3}},
	"upstreams":[{"dial":"a:1"},{"dial":"tcp/b:2", "max_requests": 5},{"dial":"a:1"},{"dial":"unix//run/x"},{"dial":"[::1]:80"}]}`

func TestParseHandler(t *testing.T) {
	h, err := parseHandler("web", answer{body: []byte(sampleHandler), etag: "e"})
	if err != nil {
		t.Fatal(err)
	}
	if got := h.addresses(); !slices.Equal(got, []string{"a:1", "b:2", "a:1", "unix//run/x", "[::1]:80"}) || h.failFor.Seconds() != 30 || h.maxFails != 3 {
		t.Errorf("got %v, %+v", got, h)
	}
	for server, want := range map[string]string{"a": "a:1", "b:2": "b:2", "::1": "[::1]:80", "c": ""} {
		if got, err := h.resolve(server); got != want || err != nil {
			t.Errorf("%s means %q, error %v; want %q", server, got, err, want)
		}
	}
	for _, bad := range []string{
		`{"handler":"static_response"}`,
		`{"handler":"reverse_proxy","dynamic_upstreams":{"source":"a"}}`,
		`{"handler":"reverse_proxy","upstreams":[{}]}`,
		`{"handler":"reverse_proxy","upstreams":"a:1"}`,
		`null`,
	} {
		if h, err := parseHandler("web", answer{body: []byte(bad), etag: "e"}); err == nil {
			t.Errorf("%s: accepted as %+v", bad, h)
		}
	}
	if _, err := parseHandler("web", answer{body: []byte(sampleHandler)}); err == nil {
		t.Error("accepted without an ETag")
	}
}

// TestWithIsUndone removes any upstream and puts it back, while others come and go.
func TestWithIsUndone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfN(rapid.SampledFrom([]string{"a:1", "b:1", "c:1", "d:1"}), 1, 7).Draw(t, "upstreams")
		h := &handler{id: "web"}
		for _, n := range names {
			u, err := parseUpstream(json.RawMessage(`{"dial":"` + n + `"}`))
			if err != nil {
				t.Fatal(err)
			}
			h.upstreams = append(h.upstreams, u)
		}
		target := names[rapid.IntRange(0, len(names)-1).Draw(t, "target")]
		was := h.record(target)
		out := &handler{upstreams: h.without(target)}
		back, err := out.with(was)
		if err != nil {
			t.Fatal(err)
		}
		if out.has(target) != 0 || len(back) != len(names) {
			t.Fatalf("%v without %s is %v, and with it %v", names, target, out.addresses(), back)
		}
		if got := (&handler{upstreams: back}).addresses(); unique(names) && !slices.Equal(got, names) {
			t.Fatalf("%v became %v", names, got)
		}
	})
}

func unique(names []string) bool {
	s := slices.Clone(names)
	slices.Sort(s)
	return len(slices.Compact(s)) == len(names)
}

func FuzzParseHandler(f *testing.F) {
	f.Add([]byte(sampleHandler))
	f.Add([]byte(`{"handler":"reverse_proxy","health_checks":{"passive":{"fail_duration":"1m"}},"upstreams":[]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		h, err := parseHandler("web", answer{body: body, etag: "e"})
		if err != nil {
			return
		}
		for _, u := range h.upstreams {
			_, _ = u.host(), u.fixed()
			out := &handler{upstreams: h.without(u.address)}
			text, err := list(out.upstreams)
			if (err == nil) != (len(out.upstreams) > 0) || err == nil && !json.Valid(text) {
				t.Fatalf("without %s the list is %q, error %v", u.address, text, err)
			}
			back, err := out.with(h.record(u.address))
			if err != nil || len(back) != len(h.upstreams) {
				t.Fatalf("with %s again the list is %v, error %v", u.address, back, err)
			}
		}
	})
}

func FuzzParseStatuses(f *testing.F) {
	f.Add([]byte(`[{"address":"127.0.0.1:32001","num_requests":1,"fails":0}]`))
	f.Add([]byte(`[{"address":"a"}]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		rows, err := parseStatuses(body)
		if err != nil && rows != nil {
			t.Error("rows beside an error")
		}
	})
}

func FuzzParseMetrics(f *testing.F) {
	f.Add([]byte("process_start_time_seconds 1\ncaddy_reverse_proxy_upstreams_healthy{upstream=\"a\"} 0\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		if m := parseMetrics(body); m.start != "" && !strings.Contains(string(body), m.start) {
			t.Errorf("made up %q", m.start)
		}
	})
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add([]byte(`{"handlers":[{"id":"web","address":"a:1","entries":[{"index":0,"upstream":{"dial":"a:1"}}],"order":["a:1"]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		rec, err := decodeRecord(data)
		if err != nil {
			return
		}
		for _, h := range rec.Handlers {
			back, err := (&handler{}).with(h)
			if err != nil || len(back) != len(h.Entries) || checkID(h.ID) != nil {
				t.Errorf("accepted %+v, error %v", h, err)
			}
		}
	})
}

func FuzzParseEndpoint(f *testing.F) {
	f.Add("http://127.0.0.1:2019")
	f.Add("unix:///run/caddy/admin.sock")
	f.Fuzz(func(t *testing.T, text string) {
		if e, err := parseEndpoint(text); err == nil && (e.address == "" || e.network == "") {
			t.Errorf("accepted %+v", e)
		}
	})
}
