package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// process is a child of `imlb dev`: the same program in another role. It is
// stopped by SIGTERM, and stops by itself when its standard input closes, which
// happens at the latest when the parent dies.
type process struct {
	name    string
	logFile string

	cmd   *exec.Cmd
	stdin io.Closer
	done  chan struct{} // closed when the child has been waited for
	err   error         // how it ended; valid once done is closed
}

// startProcess runs this program with args. What it prints goes to logFile.
// The child outlives ctx only until stop is called.
func startProcess(ctx context.Context, name, logFile string, args ...string) (*process, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own executable: %w", err)
	}
	out, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600) //nolint:gosec // Inside the data directory.
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }() // the child has its own descriptor

	// Ending a child is stop's work, in an order; so ctx must not kill it.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), exe, append(args, "--stop-with-stdin")...) //nolint:gosec // Our own executable.
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = ownProcessGroup()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &process{name: name, logFile: logFile, cmd: cmd, stdin: stdin, done: make(chan struct{})}
	go p.wait()
	return p, nil
}

func (p *process) wait() {
	p.err = p.cmd.Wait()
	close(p.done)
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// stop asks the child to end, waits up to grace and then kills it.
func (p *process) stop(grace time.Duration) error {
	select {
	case <-p.done:
		return nil // It ended before; whoever watched it has said so.
	default:
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", p.name, err)
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
		_ = p.stdin.Close()
		if p.err != nil {
			return fmt.Errorf("%s: %w; its log is %s", p.name, p.err, p.logFile)
		}
		return nil
	case <-timer.C:
		_ = p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("%s did not stop within %v and was killed; its log is %s", p.name, grace, p.logFile)
	}
}

// logTail returns the end of what the child printed, for an error message.
func (p *process) logTail() string {
	const most = 2000
	data, err := os.ReadFile(p.logFile)
	if err != nil {
		return err.Error()
	}
	if len(data) > most {
		data = data[len(data)-most:]
	}
	return string(data)
}

// withStdin returns a context that also ends when standard input does.
func withStdin(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		// Nothing is ever written to the pipe; reading ends when the parent's
		// end of it closes. The goroutine lives as long as the process.
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	return ctx, cancel
}

// state says in words how an ended child ended.
func (p *process) state() string {
	<-p.done
	return p.cmd.ProcessState.String()
}
