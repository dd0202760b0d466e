package loop

import (
	"errors"
	"io"
	"syscall"

	"golang.org/x/sys/unix"
)

// AwaitEnd waits until a TCP connection has broken, and returns how; or, if half is true, until
// its peer has ended its side, which is io.EOF whatever comes before. It reads nothing. It returns
// nil if it has waited in vain: the read deadline has passed, the connection was closed here,
// or the system does not tell.
func AwaitEnd(conn syscall.Conn, half bool) (end error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil
	}
	_ = raw.Read(func(fd uintptr) bool {
		end = endOf(int(fd), half) //nolint:gosec // G115: a descriptor
		return end != nil
	})
	return end
}

// endOf says how a connection has ended so far; nil if it has not.
func endOf(fd int, half bool) error {
	seen := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}} //nolint:gosec // G115: a descriptor
	_, err := unix.Poll(seen, 0)
	for errors.Is(err, unix.EINTR) {
		_, err = unix.Poll(seen, 0)
	}
	switch what := seen[0].Revents; {
	case what&(unix.POLLERR|unix.POLLHUP) != 0:
		errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err != nil || errno == 0 { // somebody else was told
			return opError("poll", syscall.ECONNRESET)
		}
		return opError("poll", syscall.Errno(errno))
	case half && what&unix.POLLRDHUP != 0:
		return io.EOF
	}
	return nil
}
