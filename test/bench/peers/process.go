//go:build linux

package peers

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"imlb/test/bench/proc"
)

const (
	startTime = 20 * time.Second // until a proxy serves
	stopTime  = 3 * time.Second  // until one that was asked to end is killed
)

// Running is a proxy that serves.
type Running struct {
	Addr netip.AddrPort
	PIDs []int // its processes

	process *Process
}

// Stop ends it. The error tells that it had ended before, and what it said.
func (r *Running) Stop() error { return r.process.Stop() }

// Process is a program that was started, with all that it starts itself.
type Process struct {
	name   string
	cmd    *exec.Cmd
	said   *tail
	done   chan struct{}
	result error // after done
}

// Launch starts a program, with env added to this process's environment. The end of what it says is kept for errors; its standard
// output goes to out if that is not nil, which is closed when the program has ended.
func Launch(ctx context.Context, name string, out io.WriteCloser, env []string, path string, args ...string) (*Process, error) {
	p := &Process{name: name, said: &tail{}, done: make(chan struct{})}
	p.cmd = exec.CommandContext(context.WithoutCancel(ctx), path, args...) //nolint:gosec // programs that are to be compared
	p.cmd.Stderr, p.cmd.Stdout = p.said, p.said
	if out != nil {
		p.cmd.Stdout = out
	}
	p.cmd.Env = append(os.Environ(), env...)
	// A group of its own, so that all of it can be ended; and when this process is
	// killed, it ends by itself.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	p.cmd.WaitDelay = time.Second
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		defer close(p.done)
		p.result = p.cmd.Wait()
		if out != nil {
			_ = out.Close()
		}
	}()
	return p, nil
}

// PID returns its process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Said returns the end of what it said.
func (p *Process) Said() string { return p.said.String() }

// Done is closed when it has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err tells how it ended, with what it said, if that was not in order; after Done.
func (p *Process) Err() error {
	if p.result == nil {
		return nil
	}
	return fmt.Errorf("%s: %w\n%s", p.name, p.result, p.said)
}

var errEnded = errors.New("it ended by itself")

// ended tells that it has ended before its time.
func (p *Process) ended() error {
	return errors.Join(fmt.Errorf("%s: %w", p.name, errEnded), p.Err())
}

// Stop asks it to end, and kills what has not ended soon. The error tells that it
// had ended before.
func (p *Process) Stop() error {
	select {
	case <-p.done:
		return p.ended()
	default:
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.NewTimer(stopTime)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
	}
	_ = syscall.Kill(-p.PID(), syscall.SIGKILL)
	<-p.done
	return nil
}

// Await asks again and again until the answer is nil, the process has ended or it
// takes too long.
func (p *Process) Await(ctx context.Context, most time.Duration, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ticker.C:
		case <-p.done:
			return p.ended()
		case <-ctx.Done():
			return fmt.Errorf("%s does not serve: %w\n%s", p.name, err, p.said)
		}
	}
}

// Accepts asks whether somebody accepts connections.
func Accepts(addr string) func(context.Context) error {
	return func(ctx context.Context) error {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp4", addr)
		if err != nil {
			return err
		}
		return conn.Close()
	}
}

// workers asks whether a process has so many children.
func (p *Process) workers(n int) func(context.Context) error {
	return func(context.Context) error {
		children, err := proc.Children(p.PID())
		if err == nil && len(children) != n {
			err = fmt.Errorf("%d of %d workers", len(children), n)
		}
		return err
	}
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailSize = 8 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	t.text = t.text[max(0, len(t.text)-tailSize):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.text))
}

// readyLine is a writer that waits for a line.
type readyLine struct {
	line string
	once sync.Once
	seen chan struct{}
	pipe *io.PipeWriter
}

func awaitLine(line string) *readyLine {
	r, w := io.Pipe()
	l := &readyLine{line: line, seen: make(chan struct{}), pipe: w}
	go func() {
		lines := bufio.NewScanner(r)
		for lines.Scan() {
			if lines.Text() == line {
				l.once.Do(func() { close(l.seen) })
			}
		}
		_, _ = io.Copy(io.Discard, r)
	}()
	return l
}

func (l *readyLine) Write(p []byte) (int, error) { return l.pipe.Write(p) }
func (l *readyLine) Close() error                { return l.pipe.Close() }

// came tells whether the line came.
func (l *readyLine) came(context.Context) error {
	select {
	case <-l.seen:
		return nil
	default:
		return fmt.Errorf("no line %q yet", l.line)
	}
}
