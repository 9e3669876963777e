package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lockstep-deploy/lockstep/coordinator/api"
)

// Exit codes; exitCodesHelp explains them to the user.
const (
	exitOK       = 0
	exitError    = 1
	exitUsage    = 2
	exitNotThere = 3
	exitDetached = 130
)

const exitCodesHelp = `Exit codes:

    0   It is as it should be: every app converged (status), the rollout
        succeeded on all of its targets, the request was accepted (--no-wait,
        pause, hold, unhold), the plan has nothing against it, the file is valid.
        For abort: the rollout was stopped, and is rolled back if it had
        changed anything that can be.
    1   Error: the coordinator cannot be reached or refused the request, a file
        cannot be read or is not valid, the answer makes no sense.
    2   Usage: unknown command or flag, missing or superfluous argument.
    3   It is not as it should be, or not known to be. status: skew, a target
        out of rotation, or anything unknown. Rollouts: it ended without success
        (rolled_back, failed, aborted, superseded), or succeeded with targets
        left out, or --timeout passed. plan: a deploy would be refused, or
        something would stop it today. balancers: a target does not serve that
        should. doctor: something was found.
    130 Detached by Ctrl-C (or a termination signal). The rollout goes on.

'show' and 'logs' answer 0 however the rollout ended, for they only tell;
'show --follow' answers like deploy.`

func exitCodesTopic() *cobra.Command {
	return &cobra.Command{Use: "exit-codes", Short: "What the exit codes mean", Long: exitCodesHelp}
}

// codeError ends the program with code, and text on standard error if there is
// anything left to say.
type codeError struct {
	code int
	text string
}

func (e *codeError) Error() string { return e.text }

func usageErrorf(format string, args ...any) error {
	return &codeError{exitUsage, fmt.Sprintf(format, args...)}
}

// report writes err for the user and returns the exit code. began tells whether
// the command line made sense, so that a command could begin.
func (c *cli) report(err error, began bool) int {
	code, kind := exitError, api.ErrorKind("error")
	text := c.explain(err)
	var ce *codeError
	var ae *api.Error
	switch {
	case errors.As(err, &ce):
		code = ce.code
		switch code {
		case exitUsage:
			kind = "usage"
		case exitNotThere:
			kind = "not_converged"
		case exitDetached:
			kind = "detached"
		}
	case !began:
		code, kind = exitUsage, "usage"
	case errors.Is(err, context.Canceled):
		code, kind, text = exitDetached, "interrupted", "interrupted: "+text
	case errors.As(err, &ae):
		kind = ae.Kind
	}
	if kind == "usage" {
		text += "\nSee deployctl --help, or deployctl help COMMAND."
	}
	if text == "" {
		return code
	}
	if c.json {
		e := api.Error{Kind: kind, Text: text}
		if ae != nil {
			e.Reason = ae.Reason
		}
		_ = json.NewEncoder(c.stderr).Encode(map[string]api.Error{"error": e})
		return code
	}
	fmt.Fprintln(c.errOut(), "deployctl: "+text)
	return code
}

// explain renders err with what to do about it.
func (c *cli) explain(err error) string {
	var ue *api.UnreachableError
	var ae *api.Error
	switch {
	case errors.As(err, &ue):
		return err.Error() + "\nIs deploy-coordinator running there? Name another one with --coordinator URL or " + envCoordinator + "."
	case errors.As(err, &ae) && (ae.Kind == api.ErrorUnauthorized || ae.Kind == api.ErrorForbidden):
		return fmt.Sprintf("the coordinator at %s did not accept the token in %s: %v\nName another token file with --token-file FILE or %s.",
			c.coordinator, c.tokenFile, err, envTokenFile)
	}
	return err.Error()
}
