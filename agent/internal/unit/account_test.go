package unit_test

import (
	"slices"
	"testing"

	"github.com/lockstep-deploy/lockstep/agent/internal/fault"
	"github.com/lockstep-deploy/lockstep/agent/internal/unit"
	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

func TestWhomAUnitRunsAs(t *testing.T) {
	w := newWorld(t)
	w.write(t, "named.service", "[Service]\nUser=web\nGroup=www\nSupplementaryGroups=media log\nReadWritePaths=-/srv/a +/srv/b\nExecStart=/bin/true\nEnvironment=A=1\n")
	w.write(t, "made@.service", "[Service]\nDynamicUser=yes\nStateDirectory=%N\nStateDirectoryMode=0700\nExecStart=/bin/true\n")
	w.write(t, "root.service", "[Service]\nExecStart=/bin/true\n")
	if err := w.units.ReloadUnits(within(t)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]unit.Account{
		"named.service":     {User: "web", Group: "www", Groups: []string{"media", "log"}, Writable: []string{"/srv/a", "/srv/b"}, StateMode: 0o755},
		"made@8000.service": {User: "made", Dynamic: true, State: []string{"made@8000"}, StateMode: 0o700},
		"root.service":      {StateMode: 0o755},
	} {
		e, err := w.units.Environment(within(t), name)
		got := e.Account
		if err != nil || got.User != want.User || got.Group != want.Group || got.Dynamic != want.Dynamic || got.StateMode != want.StateMode ||
			!slices.Equal(got.Groups, want.Groups) || !slices.Equal(got.State, want.State) || !slices.Equal(got.Writable, want.Writable) {
			t.Errorf("%s runs as %+v, %v; want %+v", name, got, err, want)
		}
		// What is not written yet is foreseen as it will be.
		if made := unit.Made(name); want.Dynamic && (made.User != got.User || !slices.Equal(made.State, got.State)) {
			t.Errorf("%s is foreseen as %+v, and is %+v", name, made, got)
		}
	}
	// Nobody takes a unit that is missing for one that runs as root.
	if e, err := w.units.Environment(within(t), "gone.service"); fault.ReasonOf(err) != api.ReasonUnitMissing {
		t.Errorf("a unit that is not there: %+v, %v", e, err)
	}
}
