package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/lockstep-deploy/lockstep/coordinator/configcheck"
)

func (c *cli) configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check the coordinator's configuration",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return usageErrorf("config needs a command: deployctl config check FILE")
		},
	}
	cmd.AddCommand(c.configCheckCommand())
	return cmd
}

func (c *cli) configCheckCommand() *cobra.Command {
	var defaults bool
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Tell whether a fleet.yaml is valid, without a coordinator",
		Long: `Reads a fleet.yaml as the coordinator would, and tells every mistake with its
line, what was expected, and what to write; what is allowed but hardly meant is
a warning. It needs no coordinator, and none of the secrets that the file names.

With --defaults, prints the configuration with every default filled in.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			full, warnings, err := configcheck.Check(args[0])
			if err != nil {
				return notValid(args[0], err)
			}
			if c.json {
				answer := map[string]any{"file": args[0], "valid": true, "warnings": append([]string{}, warnings...)}
				if defaults {
					answer["defaults"] = string(full)
				}
				return c.printJSON(answer, false)
			}
			for _, w := range warnings {
				fmt.Fprintln(c.errOut(), "warning: "+w)
			}
			if defaults {
				_, err = c.out().Write(full)
				return err
			}
			fmt.Fprintf(c.out(), "%s is valid\n", args[0])
			return nil
		},
	}
	cmd.Flags().BoolVar(&defaults, "defaults", false, "print the configuration with every default filled in")
	return cmd
}

// notValid puts a heading above a list of mistakes, so that each of them begins
// its line with the file.
func notValid(path string, err error) error {
	var unread *fs.PathError
	if errors.As(err, &unread) {
		return err
	}
	return fmt.Errorf("%s is not valid:\n%w", path, err)
}
