package strictjson_test

import (
	"strings"
	"testing"

	"github.com/lockstep-deploy/lockstep/internal/strictjson"
)

func TestDecode(t *testing.T) {
	for data, want := range map[string]string{
		`{"file": "a"}`:              "",
		" {}\n":                      "",
		``:                           "EOF",
		`{"file": "a"`:               "unexpected EOF",
		`{"file": "a", "fiel": "b"}`: `unknown field "fiel"`,
		`{"file": "a"} {}`:           "something follows it",
		`{"file": "a"} x`:            "something follows it",
		`{"file": 1}`:                "cannot unmarshal number",
	} {
		var v struct {
			File string `json:"file"`
		}
		err := strictjson.Decode([]byte(data), &v)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", data, err, want)
		}
	}
}
