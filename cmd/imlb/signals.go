package main

import (
	"context"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"slices"
	"syscall"
)

// untilHangup returns a context that ends at SIGHUP, too, as when a terminal is closed, unless
// the program was started to outlive that (nohup).
func untilHangup(ctx context.Context) (context.Context, context.CancelFunc) {
	if signal.Ignored(syscall.SIGHUP) {
		return context.WithCancel(ctx)
	}
	return signal.NotifyContext(ctx, syscall.SIGHUP)
}

// onHangup calls f at each SIGHUP until stop is called.
func onHangup(f func()) (stop func()) {
	return onSignals([]os.Signal{syscall.SIGHUP}, func(os.Signal) { f() })
}

// spareUserSignals has SIGUSR1 and SIGUSR2 do nothing but leave a line in the log, until stop is called. They would
// end the process on the spot, and what rotates logs sends them to daemons of all kinds.
func spareUserSignals(ctx context.Context, log *slog.Logger) (stop func()) {
	names := userSignals()
	return onSignals(slices.Collect(maps.Keys(names)), func(s os.Signal) {
		log.WarnContext(ctx, "a signal changes nothing: the log goes to standard error, and SIGTERM stops", slog.String("signal", names[s]))
	})
}

// onSignals calls f at each of some signals until stop is called.
func onSignals(signals []os.Signal, f func(os.Signal)) (stop func()) {
	if len(signals) == 0 { // which would be all
		return func() {}
	}
	arrived := make(chan os.Signal, len(signals))
	done := make(chan struct{})
	signal.Notify(arrived, signals...)
	go func() {
		defer close(done)
		for s := range arrived {
			f(s)
		}
	}()
	return func() {
		signal.Stop(arrived)
		close(arrived)
		<-done
	}
}
