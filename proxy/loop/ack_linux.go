package loop

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// Acknowledge has what has come on a TCP connection acknowledged now. Linux puts that off, by 40 ms
// at least, where an answer is likely to go out that tells it as well, and goes on to do so: an
// even number says that what is due is sent and nothing else changes.
func Acknowledge(conn syscall.Conn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { // or it is closed
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 2) //nolint:gosec // G115: a descriptor
	})
}
