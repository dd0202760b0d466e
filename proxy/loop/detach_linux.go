//go:build linux && !386 && !s390x && !imlb_portable

package loop

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// CanDetach tells whether Detach works here.
const CanDetach = true

// netConn returns a connection of the net package for the same socket, which stays
// open.
func (s socket) netConn() (*net.TCPConn, error) {
	fd, err := unix.FcntlInt(s.raw(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("dup", err)
	}
	f := os.NewFile(uintptr(fd), "")
	defer f.Close() // FileConn makes a descriptor of its own
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		_ = conn.Close()
		return nil, fmt.Errorf("detach: %s is no TCP connection", conn.LocalAddr().Network())
	}
	return tcp, nil
}
