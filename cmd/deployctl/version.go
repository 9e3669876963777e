package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func (c *cli) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "The version of deployctl",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := map[string]string{"version": version, "go": runtime.Version(), "commit": builtFrom()}
			if c.json {
				return c.printJSON(v, false)
			}
			fmt.Fprintf(c.out(), "deployctl %s (commit %s, %s)\n", v["version"], v["commit"], v["go"])
			return nil
		},
	}
}

// builtFrom returns the commit that the program was built from, if the build
// recorded it.
func builtFrom() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return unknown
	}
	commit, changed := unknown, ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			commit = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			changed = " with changes"
		}
	}
	return commit + changed
}
