package loop

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// Unacked returns how many bytes of what was written to a TCP connection the peer has not
// acknowledged; 0 where the system does not tell. An end that is not acknowledged counts as
// one.
func Unacked(conn syscall.Conn) int {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0
	}
	n := 0
	_ = raw.Control(func(fd uintptr) { n = unacked(fd) }) // or it is closed
	return n
}

func unacked(fd uintptr) int {
	n, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) //nolint:gosec // G115: a descriptor
	if err != nil {
		return 0
	}
	return n
}
