package main

import (
	"fmt"

	"github.com/spf13/cobra"
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
line, what was expected, and what to write. It needs no coordinator.

With --defaults, prints the configuration with every default filled in.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			full, err := checkConfig(args[0])
			if err != nil {
				return err
			}
			switch {
			case c.json:
				answer := map[string]any{"file": args[0], "valid": true}
				if defaults {
					answer["defaults"] = string(full)
				}
				return c.printJSON(answer, false)
			case defaults:
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
