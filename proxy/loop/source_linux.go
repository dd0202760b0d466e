package loop

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// PortLater is the Control of a [net.Dialer] with a LocalAddr: the kernel chooses the port
// when it knows where the connection goes, and can have one that others use for elsewhere.
func PortLater(_, _ string, c syscall.RawConn) error {
	var set error
	err := c.Control(func(fd uintptr) {
		set = os.NewSyscallError("setsockopt", unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)) //nolint:gosec // G115: a descriptor
	})
	if err != nil {
		return err
	}
	return set
}
