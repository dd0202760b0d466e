//go:build !linux

package loop

import "syscall"

// AwaitEnd waits until a TCP connection has broken, or its peer has ended its side, where the
// system tells that without a read. Here it does not.
func AwaitEnd(syscall.Conn, bool) (end error) { return nil }
