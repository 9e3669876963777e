package agent

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// deaf is a coordinator that takes no output until it listens.
type deaf struct {
	listens bool
	took    strings.Builder
}

func (d *deaf) Sync(context.Context, api.SyncRequest) (api.SyncResponse, error) {
	return api.SyncResponse{}, errors.New("not asked here")
}

func (d *deaf) PostLogs(_ context.Context, rq api.LogRequest) error {
	if !d.listens {
		return errors.New("no answer")
	}
	for _, c := range rq.Chunks {
		d.took.WriteString(c.Data)
	}
	return nil
}

// Output that was left out is told of, also when nothing came after it.
func TestLogsTellWhatIsMissing(t *testing.T) {
	for name, after := range map[string]string{"at the end": "", "in the middle": "more\n"} {
		t.Run(name, func(t *testing.T) {
			d := &deaf{}
			l := newLogs("web1", d, slog.New(slog.DiscardHandler))
			s := l.stream("app", "app-1", api.StepBuild, 1)
			full := bytes.Repeat([]byte("x"), logQueue)
			for _, b := range [][]byte{full, []byte("lost\n")} {
				if n, err := s.Write(b); n != len(b) || err != nil {
					t.Fatalf("Write = %d, %v", n, err)
				}
			}
			if _, err := l.upload(t.Context()); err == nil {
				t.Fatal("the coordinator took it")
			}
			d.listens = true
			drain := func() {
				for done := false; !done; {
					var err error
					if done, err = l.upload(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			}
			if after != "" {
				drain()
				_, _ = s.Write([]byte(after))
			}
			s.close()
			s.close()
			drain()
			want := string(full) + "\n[5 bytes of output are missing here: the coordinator did not take them in time]\n" + after
			if got := d.took.String(); got != want {
				t.Errorf("%d bytes arrived, ending in %q; want %q", len(got), got[max(0, len(got)-120):], want[len(full):])
			}
		})
	}
}
