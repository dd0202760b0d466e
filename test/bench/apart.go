//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"imlb/test/bench/rounds"
)

// insideVar tells this program that it is in the namespace, and which program of ours
// it is to measure.
const insideVar = "IMLB_BENCH_INSIDE"

// inside tells whether this process was started by apart.
func inside() bool { return os.Getenv(insideVar) != "" }

// apart runs this program once more, in a network namespace of its own: its settings
// can be what the comparison wants and not what the machine has, and nothing else
// uses its ports. Not only root may have one: elsewhere it comes with a user namespace.
func apart(ctx context.Context, args []string, o rounds.Options) error {
	dir, err := os.MkdirTemp("", "imlb-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	own := o.IMLB
	if own == "" { // there, modules could not be fetched
		own = filepath.Join(dir, "imlb")
		if err := rounds.Build(ctx, own); err != nil {
			return err
		}
	}
	cmd := exec.CommandContext(ctx, o.Self, args...) //nolint:gosec // this program
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideVar+"="+own)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if uid, gid := os.Geteuid(), os.Getegid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
		cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_NET_ADMIN}
	}
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return fmt.Errorf("no network namespace: %w; --congestion '' measures with what the machine has", err)
	}
	return err
}

// localPorts are what connections from the namespace may have. With the usual 28,000 a
// proxy that makes more than 14,000 connections a second to one address spends up to half of its
// time in the kernel's search for a port whose last connection is old enough.
const localPorts = "1024 65535"

// settle makes the namespace one in which can be measured. A kernel may keep a congestion
// control to its host; then that of the machine stays, which the report names, and it is
// said on warn what to do about it.
func settle(congestion string, warn io.Writer) error {
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("set loopback up: %w", err)
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte(localPorts), 0); err != nil {
		return fmt.Errorf("local ports: %w", err)
	}
	const name = "/proc/sys/net/ipv4/tcp_congestion_control"
	err := os.WriteFile(name, []byte(congestion), 0)
	switch {
	case errors.Is(err, os.ErrPermission):
		fmt.Fprintf(warn, "bench: this machine lets no namespace have TCP %s, so its own is measured with; to allow it:\n"+
			"\tsysctl -w net.ipv4.tcp_allowed_congestion_control=\"$(sysctl -n net.ipv4.tcp_available_congestion_control)\"\n", congestion)
		return nil
	case err != nil:
		return fmt.Errorf("congestion control %s: %w; there are those of "+
			"/proc/sys/net/ipv4/tcp_available_congestion_control", congestion, err)
	}
	return nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), unix.SIOCSIFFLAGS,
		uintptr(unsafe.Pointer(request))) //nolint:gosec // G103: the kernel's interface
	if errno != 0 {
		return errno
	}
	return nil
}
