package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"
)

// completeApps offers the names of apps to the shell.
func (c *cli) completeApps(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return c.complete(cmd, args, false)
}

// completeAppsAndLive offers the names of apps and of their live rollouts.
func (c *cli) completeAppsAndLive(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return c.complete(cmd, args, true)
}

func (c *cli) complete(cmd *cobra.Command, args []string, live bool) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	cl, err := c.connect()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp // the shell is no place to tell it
	}
	ctx := cmd.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	st, err := cl.Status(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, a := range st.Apps {
		names = append(names, oneLine(a.App)+"\t"+oneLine(a.Skew))
		if live && a.Live != nil {
			names = append(names, oneLine(a.Live.ID)+"\t"+orUnknown(a.Live.Status))
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
