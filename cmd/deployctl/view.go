package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// newView chooses how progress is shown: drawn anew on a terminal, else a line
// for each event; with --json each page if pages, else nothing.
func (c *cli) newView(pages bool) view {
	switch {
	case c.json:
		return &jsonView{quietView: quietView{c}, pages: pages}
	case c.term != nil:
		return &screenView{term: c.term, now: c.now}
	}
	return &lineView{quietView: quietView{c}, out: c.out()}
}

// quietView tells only of trouble, on standard error.
type quietView struct{ c *cli }

func (quietView) refresh() time.Duration { return api.LongPoll }
func (quietView) tick()                  {}
func (q quietView) lost(err error)       { fmt.Fprintln(q.c.errOut(), lostText(err)) }

func lostText(err error) string {
	if err == nil {
		return "the coordinator answers again"
	}
	return fmt.Sprintf("waiting for the coordinator to answer again (the rollout is not touched by this): %v", err)
}

type jsonView struct {
	quietView
	pages bool
}

func (v *jsonView) news(p api.EventPage) error {
	if !v.pages || len(p.Events) == 0 && !p.Rollout.Done {
		return nil
	}
	if p.Events == nil {
		p.Events = []api.Event{}
	}
	return v.c.printJSON(p, true)
}

type lineView struct {
	quietView
	out io.Writer
}

func (v *lineView) news(p api.EventPage) error {
	for _, e := range p.Events {
		fmt.Fprintln(v.out, eventLine(e))
	}
	return nil
}

// eventLine is one event of the timeline.
func eventLine(e api.Event) string {
	s := stamp(e.At) + "  "
	text := oneLine(e.Text)
	_, node, named := strings.Cut(e.Target, "@")
	if !named {
		node = e.Target
	}
	if !strings.Contains(text, node) { // it mostly names its node itself
		s += oneLine(node) + ": "
	}
	if text == "" {
		text = because(e.Kind, e.Reason)
	}
	return s + text
}
