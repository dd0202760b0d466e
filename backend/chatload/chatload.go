package chatload

import (
	"context"
	"fmt"
)

// Run puts the load on the server and ends by itself. The error says why there is no
// result; what went wrong while there was load is in the result.
func Run(ctx context.Context, o Options) (*Result, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	switch o.Workload {
	case Messages:
		return runMessages(ctx, o)
	case Logins:
		return runLogins(ctx, o)
	case Idle:
		return runIdle(ctx, o)
	case Archive:
		return runArchive(ctx, o)
	default:
		return nil, fmt.Errorf("no workload %q", o.Workload)
	}
}
