package exec

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/lockstep-deploy/lockstep/lbclient"
)

func TestLine(t *testing.T) {
	for text, ok := range map[string]bool{
		"":           true,
		" \n":        true,
		"{}":         true,
		"\n {} \r\n": true,
		`{"epoch":"1","members":[{"name":"a","phase":"serving"},{"name":"b","phase":"pending","in_flight":-1}]}`: true,
		`{"members":[{"name":"a","phase":"serving"},{"name":"a","phase":"serving"}]}`:                            false,
		`{"members":[{"name":"a","phase":"fine"}]}`:                                                              false,
		`{"members":[{"name":"","phase":"serving"}]}`:                                                            false,
		`{"members":[{"name":"a","phase":"serving","in_flight":-2}]}`:                                            false,
		`{"in_flight":1.5}`:      false,
		`{"in_flight":-7}`:       false,
		`{"in-flight":1}`:        false,
		`{"class":"nonsense"}`:   false,
		`{"stage":"idle"} {}`:    false,
		"{\n\"stage\":\"idle\"}": false,
		`["idle"]`:               false,
		`idle`:                   false,
		`{"stage":"idle"`:        false,
		`{"data":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`: false,
		`{"error":"` + strings.Repeat("x", maxLine) + `"}`:                         false,
	} {
		if _, err := parseLine([]byte(text)); (err == nil) != ok {
			t.Errorf("%.80q: got error %v, want good %t", text, err, ok)
		}
	}
}

func TestTailKeepsTheEnd(t *testing.T) {
	w := &tail{max: 8}
	for _, s := range []string{"one\n", "two\n", "three\nfour\n"} {
		if n, err := w.Write([]byte(s)); n != len(s) || err != nil {
			t.Fatal(n, err)
		}
	}
	if got := w.lines(); got != "ee / four" {
		t.Errorf("got %q", got)
	}
}

func FuzzLine(f *testing.F) {
	for _, s := range []string{
		"", "{}", `{"stage":"busy","in_flight":3,"epoch":"7","evidence":"x"}`, `{"class":"unsafe","error":"frozen"}`,
		`{"was_serving":true,"data":{"weight":3}}`, `{"epoch":"1","members":[{"name":"a","phase":"serving","detail":"UP"}]}`, "nonsense\n{}",
	} {
		f.Add([]byte(s), false)
	}
	f.Fuzz(func(t *testing.T, data []byte, notYet bool) {
		l, err := parseLine(data)
		if err != nil {
			return
		}
		a := answer{line: l, notYet: notYet}
		if st, err := drainStatusOf(a); err == nil {
			if st.Stage == lbclient.DrainIdle && (notYet || st.InFlight != 0) {
				t.Errorf("%q is idle: %+v", data, st)
			}
			if st.InFlight < -1 || st.Epoch == "" || st.Evidence == "" && l.Evidence == "" {
				t.Errorf("%q gives %+v", data, st)
			}
		}
		if st, err := rejoinStatusOf(a); err == nil && st.Stage == lbclient.RejoinServing && notYet {
			t.Errorf("%q serves: %+v", data, st)
		}
		rec, err := json.Marshal(record{Data: l.Data})
		if err != nil {
			t.Fatalf("what %q records cannot be kept: %v", data, err)
		}
		if _, err := decodeRecord(rec); err != nil {
			t.Errorf("what %q records is not read again: %v", data, err)
		}
	})
}
