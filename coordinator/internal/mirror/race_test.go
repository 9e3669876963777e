//go:build race

package mirror

import "flag"

// The race detector makes each check many times slower; all of them are made
// without it, and as many as asked for with -rapid.checks.
func init() {
	if err := flag.Set("rapid.checks", "25"); err != nil {
		panic(err)
	}
}
