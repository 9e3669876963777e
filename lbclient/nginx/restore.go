package nginx

import (
	"errors"
	"fmt"
	"slices"

	"github.com/lockstep-deploy/lockstep/internal/strictjson"
	"github.com/lockstep-deploy/lockstep/lbclient"
	"github.com/lockstep-deploy/lockstep/lbclient/internal/restore"
)

// record is what [lbclient.Restore] carries: the target's lines as they stood.
type record struct {
	File  string       `json:"file"`
	Lines []lineRecord `json:"lines"`
}

type lineRecord struct {
	Upstream string `json:"upstream,omitempty"`
	Address  string `json:"address"`
	Text     string `json:"text"` // the whole line
}

func (p *provider) records() restore.Of {
	return restore.Of{Provider: "nginx/" + p.cfg.Name, Target: p.cfg.Server}
}

// decode reads a journaled record and checks that it is of this target.
func (p *provider) decode(op string, r lbclient.Restore) (record, error) {
	return restore.Take(p.records(), op, r, func(data []byte) (record, error) {
		rec, err := decodeRecord(data)
		if err != nil {
			return record{}, err
		}
		if !rec.covers(p) {
			return record{}, errors.New("it is of another file or other upstreams than are configured now; record it again")
		}
		return rec, nil
	})
}

func decodeRecord(data []byte) (record, error) {
	var rec record
	if err := strictjson.Decode(data, &rec); err != nil {
		return record{}, err
	}
	if len(rec.Lines) == 0 {
		return record{}, errors.New("it holds no line")
	}
	for _, l := range rec.Lines {
		if _, err := l.server(); err != nil {
			return record{}, err
		}
	}
	return rec, nil
}

// server reads the recorded line, which must be what could stand in a file and
// not down.
func (l lineRecord) server() (*server, error) {
	blocks, err := parse(l.Text, true)
	if err != nil {
		return nil, err
	}
	if s := blocks[0].servers; len(s) == 1 && s[0].ownLine() && s[0].text == l.Text && s[0].address() == l.Address && !s[0].down() {
		return s[0], nil
	}
	return nil, fmt.Errorf("its line %q is no line of server %q that is in use", l.Text, l.Address)
}

// covers tells whether the record speaks of exactly the configured places.
func (rec record) covers(p *provider) bool {
	var have []string
	for _, l := range rec.Lines {
		have = append(have, l.Upstream)
	}
	want := slices.Clone(p.cfg.Upstreams)
	if len(want) == 0 {
		want = []string{""}
	}
	slices.Sort(have)
	slices.Sort(want)
	return rec.File == p.cfg.File && slices.Equal(have, want)
}

// edited names the servers whose lines another hand changed since the record.
func (rec record) edited(servers []*server) []string {
	var out []string
	for _, s := range servers {
		for _, l := range rec.Lines {
			if now := s.back(); l.Upstream == s.upstream && now != l.Text {
				out = append(out, fmt.Sprintf("another hand changed line %d meanwhile, and its change stands: it was %q and is %q", s.line, l.Text, now))
			}
		}
	}
	return out
}
