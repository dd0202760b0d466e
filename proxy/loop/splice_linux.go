//go:build linux && !386 && !s390x && !imlb_portable

package loop

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	canSplice = true

	pipeSize = 512 << 10 // what a pipe is asked to hold
	maxPipes = 16        // that a loop keeps for later
)

// pipe is how bytes get from one socket to another without a copy.
type pipe struct {
	r, w int
	held int // bytes in it
}

// pipes are those that a loop keeps. Empty ones only.
type pipes struct {
	free []*pipe
}

// get returns an empty pipe, or nil if there is none to be had.
func (ps *pipes) get() *pipe {
	if n := len(ps.free); n > 0 {
		p := ps.free[n-1]
		ps.free = ps.free[:n-1]
		return p
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil
	}
	_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeSize) //nolint:gosec // G115: a descriptor
	return &pipe{r: fds[0], w: fds[1]}
}

// put takes a pipe back.
func (ps *pipes) put(p *pipe) {
	if p.held > 0 || len(ps.free) == maxPipes {
		_ = unix.Close(p.r)
		_ = unix.Close(p.w)
		return
	}
	ps.free = append(ps.free, p)
}

func (ps *pipes) close() {
	for _, p := range ps.free {
		_ = unix.Close(p.r)
		_ = unix.Close(p.w)
	}
	ps.free = nil
}

// spliceIn moves what has arrived into a pipe. It returns 0 and nil at the end, and before
// urgent data, which only a read gets past.
func (c *Conn) spliceIn(p *pipe) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	if !c.readable {
		return 0, c.nothing()
	}
	n, errno := splice(int(c.sock.fd), p.w, pipeSize)
	switch {
	case errno == 0:
		p.held += n
		return n, nil
	case errno == syscall.EAGAIN && c.eager: // as before urgent data, too
		return 0, nil
	case errno == syscall.EAGAIN:
		c.readable = false
		return 0, c.nothing()
	default:
		return 0, opError("read", os.NewSyscallError("splice", errno))
	}
}

// spliceOut sends what is in a pipe as far as the kernel takes it.
func (c *Conn) spliceOut(p *pipe) error {
	c.sendOff()
	if !c.undelayed {
		c.undelay()
	}
	for p.held > 0 && c.writable {
		if err := c.writeError(); err != nil {
			return err
		}
		n, errno := splice(p.r, int(c.sock.fd), p.held)
		switch errno {
		case 0:
			p.held -= n
			if c.blocked != 0 {
				c.progress()
			}
		case syscall.EAGAIN:
			c.refused()
		default:
			return c.broke(opError("write", os.NewSyscallError("splice", errno)))
		}
	}
	if p.held > 0 {
		c.block()
	} else {
		c.blocked = 0
	}
	return nil
}

func splice(from, to, n int) (int, syscall.Errno) {
	for {
		moved, _, errno := syscall.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0,
			uintptr(n), unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		if errno != syscall.EINTR {
			return int(moved), errno //nolint:gosec // G115: at most n
		}
	}
}
