// Package exec drains and rejoins a target by a program of the user's own, for
// balancers that no other package knows.
//
// The program is run once for each question, named by its stage: preflight,
// observe, snapshot, drain, drain-status, force, rejoin, rejoin-status. It
// answers by its exit code and by one line of JSON; README.md has the contract.
// It may leave out what it cannot do. Counting who else serves, refusing what
// another hand holds out, and reading every change back is done here.
package exec
