package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

func (c *cli) logsCommand() *cobra.Command {
	var q api.LogQuery
	var step string
	var follow bool
	cmd := &cobra.Command{
		Use:   "logs ROLLOUT|APP",
		Short: "The output of a rollout's steps on its nodes",
		Long: `Prints the output of a rollout's steps, or of the newest rollout of an app. Each
line begins with its node, with the instance if it is of one of several, and
step, unless --node and --step leave no choice.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.completeAppsAndLive,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			cl, err := c.connect()
			if err != nil {
				return err
			}
			r, err := findRollout(ctx, cl, args[0])
			if err != nil {
				return err
			}
			q.Step = api.Step(step)
			w := &logWriter{out: c.stdout, prefix: q.Node == "" || q.Step == ""}
			if c.term != nil {
				w.out = c.out() // a build's output must not steer the terminal
			}
			err = c.copyLogs(ctx, cl, r.ID, q, follow, w)
			w.flush()
			if err == nil {
				err = w.failed
			}
			if err == nil && !w.any && !c.json {
				fmt.Fprintf(c.errOut(), "%s has no such output\n", r.ID)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&q.Node, "node", "", "only of this `NODE`")
	cmd.Flags().StringVar(&step, "step", "", "only of this `STEP`, such as build")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the rollout is over")
	return cmd
}

// copyLogs writes what there is, and with follow what comes until the rollout
// is over.
func (c *cli) copyLogs(ctx context.Context, cl *api.Client, id string, q api.LogQuery, follow bool, w *logWriter) error {
	ask := func() (page api.LogPage, err error) {
		if !follow {
			return cl.Logs(ctx, id, q)
		}
		err = c.persist(ctx, quietView{c}.lost, func() error {
			page, err = cl.Logs(ctx, id, q)
			return err
		})
		return page, err
	}
	for {
		asked := c.now()
		page, err := ask()
		if follow && ctx.Err() != nil {
			return detached(ctx, id, 0, "deployctl logs --follow "+id)
		}
		if err != nil {
			return err
		}
		before := q.After
		for _, l := range page.Lines {
			q.After = max(q.After, l.Position)
			w.any = true
			if c.json {
				if err := c.printJSON(l, true); err != nil {
					return err
				}
				continue
			}
			w.add(l)
		}
		if w.failed != nil {
			return w.failed
		}
		if q.After > before { // there may be more at once
			continue
		}
		if !follow || page.Done {
			return nil
		}
		// One that does not hold calls must not be asked without a pause.
		if q.Wait > 0 && c.now().Sub(asked) < q.Wait/2 && !sleep(ctx, c.retryPause) {
			continue // to the end of ctx, above
		}
		q.Wait = api.LongPoll
	}
}

// logWriter puts chunks of several streams together to lines.
type logWriter struct {
	out     io.Writer
	prefix  bool
	streams []*logStream // in order of appearance
	any     bool
	failed  error
}

type logStream struct {
	node, instance string
	step           api.Step
	partial        string
}

// maxPartial bounds how much of a line is kept until its end comes.
const maxPartial = 1 << 20

func (w *logWriter) add(l api.LogLine) {
	s := w.stream(l)
	s.partial += l.Data
	for {
		line, rest, ended := strings.Cut(s.partial, "\n")
		if !ended {
			break
		}
		w.line(s, line)
		s.partial = rest
	}
	if len(s.partial) > maxPartial {
		w.line(s, s.partial)
		s.partial = ""
	}
}

func (w *logWriter) stream(l api.LogLine) *logStream {
	for _, s := range w.streams {
		if s.node == l.Node && s.instance == l.Instance && s.step == l.Step {
			return s
		}
	}
	s := &logStream{node: l.Node, instance: l.Instance, step: l.Step}
	w.streams = append(w.streams, s)
	return s
}

// flush writes the lines that never ended.
func (w *logWriter) flush() {
	for _, s := range w.streams {
		if s.partial != "" {
			w.line(s, s.partial)
			s.partial = ""
		}
	}
}

func (w *logWriter) line(s *logStream, line string) {
	// A progress bar writes over itself: what it said last counts.
	line = strings.TrimRight(line, "\r")
	line = line[strings.LastIndexByte(line, '\r')+1:]
	if w.prefix || s.instance != "" {
		place := orUnknown(s.node)
		if s.instance != "" {
			place += ":" + oneLine(s.instance)
		}
		line = strings.TrimRight(fmt.Sprintf("%s %s | %s", place, orUnknown(s.step), line), " ")
	}
	if _, err := io.WriteString(w.out, line+"\n"); err != nil && w.failed == nil {
		w.failed = fmt.Errorf("cannot write the output: %w", err)
	}
}
