package proxy

import (
	"errors"
	"net"
	"syscall"
)

// growBuffers asks the kernel for large buffers, as quic-go would, and returns what
// there is of each. The kernel counts its own bookkeeping in: it gives twice what
// net.core.rmem_max and wmem_max allow.
func growBuffers(conn *net.UDPConn) (receive, send int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, 0, err
	}
	var errs [2]error
	err = raw.Control(func(fd uintptr) {
		receive, errs[0] = growBuffer(int(fd), syscall.SO_RCVBUF, syscall.SO_RCVBUFFORCE)
		send, errs[1] = growBuffer(int(fd), syscall.SO_SNDBUF, syscall.SO_SNDBUFFORCE)
	})
	return receive, send, errors.Join(err, errs[0], errs[1])
}

// growBuffer sets one buffer, by force only if need be and may be.
func growBuffer(fd, option, force int) (int, error) {
	for _, o := range []int{option, force} {
		if size, err := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, option); err != nil || size >= udpBuffer {
			return size, err
		}
		_ = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, o, udpBuffer) // the answer is in the size
	}
	return syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, option)
}
