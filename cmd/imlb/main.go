// Command imlb is a load balancer and session proxy for chat clusters, and the
// chat node behind it, in one program.
//
//	imlb dev                  a whole cluster on this machine, to try it out
//	imlb proxy --config FILE  a front
//	imlb node --config FILE   a chat node
//
// It ends with status 0 when all went well, 1 when it did not, and 2 when the
// command line makes no sense. Errors in a configuration document are printed as
// file:line:column: path: message, one on a line.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"imlb/configs"
)

// commands is the command line: one field for each command, each with a file of
// its own.
type commands struct {
	Dev      devCmd      `cmd:"" help:"Run a whole cluster on this machine: a front, chat nodes, accounts and a certificate to try it with."`
	Proxy    proxyCmd    `cmd:"" help:"Run a front: it accepts clients, finds each user's node and carries the session."`
	Node     nodeCmd     `cmd:"" help:"Run a chat node: it logs users in, delivers and keeps their messages."`
	User     userCmd     `cmd:"" help:"Manage the accounts in a cluster's database."`
	Check    checkCmd    `cmd:"" help:"Check a configuration document and list everything that is wrong with it."`
	Config   configCmd   `cmd:"" help:"Check, compare and publish the document that the fronts of a cluster share in Consul."`
	Drain    drainCmd    `cmd:"" help:"Give a node no new users."`
	Undrain  undrainCmd  `cmd:"" help:"Give a node new users again."`
	Weight   weightCmd   `cmd:"" help:"Give a node another share of the users."`
	Disable  disableCmd  `cmd:"" help:"Take a node out of service."`
	Enable   enableCmd   `cmd:"" help:"Take a node back into service."`
	Sessions sessionsCmd `cmd:"" help:"List the sessions of a front, and end them."`
	Place    placeCmd    `cmd:"" help:"Print which node each user lives on, given a list of nodes."`
	Bench    benchCmd    `cmd:"" help:"Put load on a chat server and tell what it does and costs."`
	Health   healthCmd   `cmd:"" help:"Ask a running front or node whether it is ready; for container health checks."`
	Version  versionCmd  `cmd:"" help:"Print the version of this program."`
}

const description = `Load balancer and session proxy for chat clusters, with the chat server behind it.

Start with "imlb dev". "imlb COMMAND --help" explains a command.`

// The statuses with which the program ends.
const (
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	os.Exit(run(os.Args[1:]))
}

// run carries out one command line and returns the exit status. The first
// SIGINT or SIGTERM ends the command's context; a second one ends the program
// at once, as these signals do when nobody listens.
func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	var c commands
	parser, err := kong.New(&c,
		kong.Name("imlb"),
		kong.Description(description),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.BindTo(ctx, (*context.Context)(nil)),
	)
	if err != nil {
		return fail(err)
	}
	switch {
	case len(args) == 0:
		args = []string{"--help"}
	case len(args) == 1 && args[0] == "--version": // as most programs have it
		args = []string{"version"}
	}
	command, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintf(os.Stderr, "imlb: %v\nTry \"imlb --help\", or \"imlb COMMAND --help\" for one command.\n", err)
		return exitUsage
	}
	if err := command.Run(); err != nil {
		return fail(err)
	}
	return 0
}

// fail tells why a command failed. Errors in a document already say where they
// are, in a form that editors understand, so nothing is put in front of them.
func fail(err error) int {
	if list, ok := errors.AsType[configs.Errors](err); ok {
		fmt.Fprintln(os.Stderr, list)
		return exitFailed
	}
	fmt.Fprintln(os.Stderr, "imlb:", err)
	return exitFailed
}
