package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// Environment variables that stand in for flags.
const (
	envCoordinator = "LOCKSTEP_COORDINATOR"
	envTokenFile   = "LOCKSTEP_TOKEN_FILE"
	envCAFile      = "LOCKSTEP_CA_FILE"
)

// cli is one run of the program with everything it takes from outside.
type cli struct {
	stdout io.Writer
	stderr io.Writer
	term   terminal // nil when standard output is none
	getenv func(string) string
	now    func() time.Time

	tick       time.Duration // between redraws of a terminal
	retryPause time.Duration // before asking a lost coordinator again; doubles

	coordinator string
	tokenFile   string
	caFile      string
	json        bool

	failed error // of writing the output
}

// run carries out one command line and returns the exit code.
func (c *cli) run(ctx context.Context, args []string) int {
	began := false
	root := c.root(&began)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil && c.failed != nil {
		err = fmt.Errorf("cannot write the output: %w", c.failed)
	}
	if err != nil {
		return c.report(err, began)
	}
	return exitOK
}

func (c *cli) root(began *bool) *cobra.Command {
	root := &cobra.Command{
		Use:   "deployctl",
		Short: "See and steer what Lockstep deploys",
		Long: `deployctl shows what runs where and steers rollouts, through a Lockstep
coordinator. Commands that take a while show their progress until the rollout
is over; Ctrl-C only detaches from it.

With --json, standard output is JSON: one document, or for 'logs' and
'show --follow' one document a line. Commands that wait print the rollout once
it is over. Errors are JSON on standard error.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRun: func(*cobra.Command, []string) {
			*began = true
		},
	}
	root.SetOut(c.out())
	root.SetErr(c.errOut())
	f := root.PersistentFlags()
	f.StringVar(&c.coordinator, "coordinator", c.env(envCoordinator, "http://127.0.0.1:7400"), "`URL` of the coordinator ("+envCoordinator+")")
	f.StringVar(&c.tokenFile, "token-file", c.env(envTokenFile, "/etc/lockstep/admin-token"), "`FILE` that holds the admin token ("+envTokenFile+")")
	f.StringVar(&c.caFile, "ca-file", c.env(envCAFile, ""), "PEM `FILE` of a private authority that signed the coordinator's certificate ("+envCAFile+")")
	f.BoolVar(&c.json, "json", false, "print JSON")

	root.AddCommand(
		c.statusCommand(), c.planCommand(), c.balancersCommand(), c.doctorCommand(),
		c.deployCommand(), c.rollbackCommand(), c.retryCommand(),
		c.rolloutsCommand(), c.showCommand(), c.logsCommand(),
		c.pauseCommand(), c.resumeCommand(), c.abortCommand(),
		c.holdCommand(), c.unholdCommand(),
		c.configCommand(), c.versionCommand(),
		exitCodesTopic(),
	)
	return root
}

func (c *cli) env(name, otherwise string) string {
	if v := c.getenv(name); v != "" {
		return v
	}
	return otherwise
}

// out takes text for a person; what could steer a terminal is taken out of it.
func (c *cli) out() io.Writer { return &textWriter{w: c.stdout, failed: &c.failed} }

func (c *cli) errOut() io.Writer { return &textWriter{w: c.stderr} }

// printJSON writes v as one document, over several lines for a single one.
func (c *cli) printJSON(v any, lines bool) error {
	enc := json.NewEncoder(c.stdout)
	enc.SetEscapeHTML(false)
	if !lines {
		enc.SetIndent("", "  ")
	}
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("cannot write the output: %w", err)
	}
	return nil
}

// connect returns a client for the coordinator that the flags name.
func (c *cli) connect() (*api.Client, error) {
	token, err := readCapped(c.tokenFile)
	if err != nil {
		hint := "Name another token file with --token-file FILE or " + envTokenFile + "."
		if errors.Is(err, os.ErrPermission) {
			hint = "Run as a user who may read it, or n" + hint[1:]
		}
		return nil, fmt.Errorf("cannot read the admin token: %w\n%s", err, hint)
	}
	opts := []api.ClientOption{
		api.WithUserAgent("deployctl/" + version),
		// Little: a person waits, and following has its own way to wait.
		api.WithRetries(2),
	}
	if c.caFile != "" {
		pem, err := readCapped(c.caFile)
		if err != nil {
			return nil, fmt.Errorf("cannot read the authority's certificate: %w", err)
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("cannot use %s: expected a PEM certificate of the authority that signed the coordinator's", c.caFile)
		}
		opts = append(opts, api.WithTLS(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}))
	}
	cl, err := api.NewClient(c.coordinator, string(token), opts...)
	if err != nil {
		return nil, fmt.Errorf("%w (address: --coordinator or %s; token: %s)", err, envCoordinator, c.tokenFile)
	}
	return cl, nil
}

// readCapped reads a small file.
func readCapped(path string) ([]byte, error) {
	const limit = 1 << 20
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if len(b) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return b, nil
}

// byFlag adds --by to a command that changes something.
func (c *cli) byFlag(cmd *cobra.Command, by *string) {
	name := c.getenv("USER")
	if name == "" {
		if u, err := user.Current(); err == nil {
			name = u.Username
		}
	}
	cmd.Flags().StringVar(by, "by", name, "`NAME` to record as who asked for it")
}
