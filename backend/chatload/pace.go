package chatload

import (
	"context"
	"errors"
	"os"
)

// ticks calls do at every tick until ctx ends. A tick that is missed is made up for by the
// next one alone.
func ticks(ctx context.Context, do func()) error {
	t, err := newTicker(tickLength)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, t.stop)
	defer func() {
		if stop() {
			t.stop()
		}
	}()
	for {
		if err := t.wait(); err != nil {
			if ctx.Err() != nil && errors.Is(err, os.ErrClosed) {
				err = context.Cause(ctx)
			}
			return err
		}
		do()
	}
}
