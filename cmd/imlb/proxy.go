package main

import (
	"context"
	"errors"
	"log/slog"
	"os"

	"imlb/configs"
)

// proxyCmd is `imlb proxy`.
type proxyCmd struct {
	sourceFlags
	quickFlags
	StopWithStdin bool `hidden:"" help:"Stop when standard input closes."`
}

// Help is the long text of `imlb proxy --help`.
func (proxyCmd) Help() string {
	return `Runs a front until SIGINT or SIGTERM: it accepts clients, reads who the user is, and carries the session to the user's node. Its document
is a file, or the one that the cluster's fronts share in Consul; a change of it is validated as a whole and applied as a difference, without a restart
and without touching sessions that it does not concern. SIGHUP makes it look at the document, and at the files that this names, at once. On a
stop it tells each client so and waits for it to leave, up to timeouts.shutdown. A second signal ends it at once.

Quick mode needs no document, for trying it and for scripts. It prints what listens where, and then "ready":

    imlb proxy --listen tcp://127.0.0.1:7000 --to 127.0.0.1:7001,127.0.0.1:7002

It looks after the nodes by a connection to each, every second, which sends nothing; --check none does without. With --key pattern a client that sends
nothing waits for --key-wait (30s) until its address decides. A quic listener takes XMPP (xmpp-client) unless --alpn names something else.`
}

// Validate checks the flags, so that a mistake is one of the command line.
func (c *proxyCmd) Validate() error {
	if len(c.Listen) > 0 && c.ofConsul() {
		return errors.New("--cluster, --token-file, --cache, --name, --zone and --advertise go with --consul, and not with --listen; leave them out")
	}
	return c.quickFlags.Validate()
}

// Run serves until ctx ends.
func (c *proxyCmd) Run(ctx context.Context) error {
	if c.StopWithStdin {
		var cancel context.CancelFunc
		ctx, cancel = withStdin(ctx)
		defer cancel()
	}
	if len(c.Listen) > 0 {
		return c.quickFlags.run(ctx)
	}
	// Until there is a document, what it would say by default.
	log := newLogSwitch(os.Stderr, configs.Defaults[configs.Proxy]().Log)
	defer spareUserSignals(ctx, slog.New(log))()
	watcher, err := c.watcher(slog.New(log))
	if err != nil {
		return err
	}
	stop := onHangup(watcher.Reload)
	defer stop()
	return newFront(watcher, log).run(ctx)
}
