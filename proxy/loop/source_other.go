//go:build !linux

package loop

import "syscall"

// PortLater does nothing: only Linux can choose a port when it knows where a connection goes.
func PortLater(string, string, syscall.RawConn) error { return nil }
