//go:build linux && !386 && !s390x && !imlb_portable

package loop

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// errAgain is what a socket returns when it would block.
const errAgain = syscall.EAGAIN

// socket is a nonblocking TCP socket.
//
// Its calls do not block, so the raw ones do: telling Go's scheduler of a call that
// takes a microsecond costs a good part of one.
type socket struct {
	fd int32
}

// raw returns the descriptor as system calls take it.
func (s socket) raw() uintptr { return uintptr(s.fd) } //nolint:gosec // G115: not negative

// read receives. It returns 0 and nil at the end.
func (s socket) read(p []byte) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, s.raw(),
			uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), 0, 0, 0) //nolint:gosec // G103: the kernel's interface
		switch errno {
		case 0:
			return int(n), nil //nolint:gosec // G115: at most len(p)
		case syscall.EINTR:
		case syscall.EAGAIN:
			return 0, errAgain
		default:
			return 0, os.NewSyscallError("recv", errno)
		}
	}
}

// write sends what fits.
func (s socket) write(p []byte) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_SENDTO, s.raw(),
			uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), syscall.MSG_NOSIGNAL, 0, 0) //nolint:gosec // G103: the kernel's interface
		switch errno {
		case 0:
			return int(n), nil //nolint:gosec // G115: at most len(p)
		case syscall.EINTR:
		case syscall.EAGAIN:
			return 0, errAgain
		default:
			return 0, os.NewSyscallError("send", errno)
		}
	}
}

// noDelay has everything sent at once.
func (s socket) noDelay() error { return noDelay(int(s.fd)) }

// shutdown ends the sending direction.
func (s socket) shutdown() error {
	_, _, errno := syscall.RawSyscall(syscall.SYS_SHUTDOWN, s.raw(), syscall.SHUT_WR, 0)
	if errno == 0 || errno == syscall.ENOTCONN {
		return nil // a reset that was not seen yet
	}
	return os.NewSyscallError("shutdown", errno)
}

// unacked returns how much of what was sent the peer has not acknowledged.
func (s socket) unacked() int { return unacked(s.raw()) }

// close closes, with a RST if reset.
func (s socket) close(reset bool) error {
	if reset {
		_ = unix.SetsockoptLinger(int(s.fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	_, _, errno := syscall.RawSyscall(syscall.SYS_CLOSE, s.raw(), 0, 0)
	if errno == 0 || errno == syscall.EINTR {
		return nil
	}
	return os.NewSyscallError("close", errno)
}

// error returns the error that is pending, and takes it away.
func (s socket) error() error {
	errno, err := unix.GetsockoptInt(int(s.fd), unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && errno != 0 {
		err = syscall.Errno(errno)
	}
	return os.NewSyscallError("connection", err)
}

// LocalAddr returns the address of this side, or nil after Close.
func (c *Conn) LocalAddr() net.Addr { return c.addr(unix.Getsockname) }

// RemoteAddr returns the address of the peer, or nil after Close or if it is gone.
func (c *Conn) RemoteAddr() net.Addr { return c.addr(unix.Getpeername) }

func (c *Conn) addr(get func(int) (unix.Sockaddr, error)) net.Addr {
	if c.closed {
		return nil
	}
	sa, err := get(int(c.sock.fd))
	if err != nil {
		return nil
	}
	return net.TCPAddrFromAddrPort(addrPort(sa))
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)) //nolint:gosec // G115: a port
	case *unix.SockaddrInet6:
		addr := netip.AddrFrom16(sa.Addr).Unmap()
		if sa.ZoneId != 0 {
			addr = addr.WithZone(strconv.FormatUint(uint64(sa.ZoneId), 10))
		}
		return netip.AddrPortFrom(addr, uint16(sa.Port)) //nolint:gosec // G115: a port
	}
	return netip.AddrPort{}
}

// connect makes a socket and begins to connect it. Without a valid source the system
// chooses where it comes from. One that speaks at once saves a packet: the acknowledgement of
// the peer's SYN is put off for what is sent next (tcp(7), TCP_QUICKACK).
func connect(source netip.Addr, addr netip.AddrPort, speaks bool) (socket, error) {
	sa, size, err := sockaddr(addr)
	if err != nil {
		return socket{-1}, err
	}
	fd, _, errno := syscall.RawSyscall(syscall.SYS_SOCKET, uintptr(sa.Family), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if errno != 0 {
		return socket{-1}, os.NewSyscallError("socket", errno)
	}
	s := socket{int32(fd)} //nolint:gosec // G115: a descriptor
	if source.IsValid() {
		if err := s.bind(source); err != nil {
			return socket{-1}, errors.Join(err, s.close(false))
		}
	}
	if off := int32(0); speaks { // a system that cannot sends the packet
		_, _, _ = syscall.RawSyscall6(syscall.SYS_SETSOCKOPT, fd, unix.IPPROTO_TCP, unix.TCP_QUICKACK,
			uintptr(unsafe.Pointer(&off)), unsafe.Sizeof(off), 0) //nolint:gosec // G103: the kernel's interface
	}
	_, _, errno = syscall.RawSyscall(syscall.SYS_CONNECT, fd, uintptr(unsafe.Pointer(&sa)), size) //nolint:gosec // G103: the kernel's interface
	if errno != 0 && errno != syscall.EINPROGRESS {
		return socket{-1}, errors.Join(os.NewSyscallError("connect", errno), s.close(false))
	}
	return s, nil
}

// spoken tells whether there is something to read, of a socket that is open both ways. An error is told once.
func (s socket) spoken() (bool, error) {
	var b [1]byte
	n, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, s.raw(), uintptr(unsafe.Pointer(&b)), unsafe.Sizeof(b), unix.MSG_PEEK, 0, 0) //nolint:gosec // G103: the kernel's interface
	if errno != 0 && errno != syscall.EAGAIN && errno != syscall.EINTR {
		return false, os.NewSyscallError("recv", errno)
	}
	return errno == 0 && n > 0, nil
}

// bind has connections come from an address. Which port they come from is left until
// the other end is known: one that is in use may be had again to connect to somebody else.
func (s socket) bind(source netip.Addr) error {
	sa, size, err := sockaddr(netip.AddrPortFrom(source, 0))
	if err != nil {
		return err
	}
	if err := unix.SetsockoptInt(int(s.fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	_, _, errno := syscall.RawSyscall(syscall.SYS_BIND, uintptr(s.fd), uintptr(unsafe.Pointer(&sa)), size) //nolint:gosec // G103 and G115: the kernel's interface
	if errno != 0 {
		return os.NewSyscallError("bind", errno)
	}
	return nil
}

// sockaddr returns an address as the kernel wants it: the beginning of what it returns, of
// that size, for both kinds begin with family and port.
func sockaddr(addr netip.AddrPort) (sa unix.RawSockaddrInet6, size uintptr, err error) {
	ip := addr.Addr().Unmap()
	switch {
	case !ip.IsValid():
		return sa, 0, errors.New("no address")
	case ip.Is4():
		size, sa.Family = unix.SizeofSockaddrInet4, unix.AF_INET
		(*unix.RawSockaddrInet4)(unsafe.Pointer(&sa)).Addr = ip.As4() //nolint:gosec // G103: the kernel's interface
	default:
		size, sa.Family, sa.Addr = unix.SizeofSockaddrInet6, unix.AF_INET6, ip.As16()
		sa.Scope_id, err = scope(ip.Zone())
	}
	sa.Port = swapped(addr.Port())
	return sa, size, err
}

// scope returns the number of an interface that a zone names.
func scope(zone string) (uint32, error) {
	if zone == "" {
		return 0, nil
	}
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n), nil
	}
	ifi, err := net.InterfaceByName(zone)
	if err != nil {
		return 0, err
	}
	return uint32(ifi.Index), nil //nolint:gosec // G115: small
}

// tune sets what every connection has: no delay, and keepalives if wanted. Sockets
// inherit it from the listener that accepted them.
func tune(fd int, ka net.KeepAliveConfig) error {
	return errors.Join(noDelay(fd), keepAlive(fd, ka))
}

func noDelay(fd int) error {
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
}

func keepAlive(fd int, ka net.KeepAliveConfig) error {
	if !ka.Enable {
		return nil
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	for _, opt := range []struct{ name, value int }{
		{unix.TCP_KEEPIDLE, int(ka.Idle / time.Second)},
		{unix.TCP_KEEPINTVL, int(ka.Interval / time.Second)},
		{unix.TCP_KEEPCNT, ka.Count},
	} {
		if opt.value <= 0 {
			continue // the system's
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, opt.name, opt.value); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	return nil
}

// dup returns a descriptor of our own for the socket behind conn.
func dup(conn syscall.Conn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd := -1
	var dupErr error
	if err := raw.Control(func(old uintptr) {
		fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil {
		return -1, err
	}
	return fd, os.NewSyscallError("dup", dupErr)
}
