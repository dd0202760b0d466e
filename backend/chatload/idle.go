package chatload

import "context"

// quiet is users who are there and say nothing.
type quiet struct{}

func (quiet) message(*session, []byte) {}
func (quiet) result(*session, []byte)  {}

func (quiet) compose(_ *session, batch []byte, _ int64) []byte { return batch }

// runIdle is the workload. Some sessions come and go before, so that what the server needs
// once, whatever the number of sessions, is not taken for theirs.
func runIdle(ctx context.Context, o Options) (*Result, error) {
	g, n := newGate(o), o.sessions()
	f, err := launch(ctx, g, min(n, max(10, n/20)), quiet{})
	if err != nil {
		f.abandon()
		return nil, err
	}
	f.close()
	if err := pause(ctx, o.Settle); err != nil {
		return nil, err
	}
	before, err := readMemory(o.PIDs)
	if err != nil {
		return nil, err
	}
	if f, err = launch(ctx, g, n, quiet{}); err != nil {
		f.abandon()
		return nil, err
	}
	defer f.close()
	return f.watch(ctx, before)
}

// watch looks at the server while nothing happens.
func (f *fleet) watch(ctx context.Context, before memory) (*Result, error) {
	o := f.gate.o
	if err := pause(ctx, o.Settle); err != nil {
		return nil, err
	}
	began, err := readUsage(o.PIDs)
	if err != nil {
		return nil, err
	}
	if err := pause(ctx, o.Duration); err != nil {
		return nil, err
	}
	ended, err := readUsage(o.PIDs)
	if err != nil {
		return nil, err
	}
	after, err := readMemory(o.PIDs)
	if err != nil {
		return nil, err
	}
	n := float64(len(f.sessions))
	r := &Result{
		Workload: Idle, Sessions: len(f.sessions), Seconds: o.Duration.Seconds(), Managed: f.managed(),
		Mechanism: f.sessions[0].mechanism, Errors: f.errors.result(), CPU: ended.since(began).counts(0),
	}
	if len(o.PIDs) > 0 {
		r.Memory = &MemoryCounts{
			Before: before.anonymous, After: after.anonymous,
			Anonymous: float64(after.anonymous-before.anonymous) / n, Resident: float64(after.resident-before.resident) / n,
		}
	}
	return r, nil
}
