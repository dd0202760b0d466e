//go:build !linux

package loop

import "syscall"

// Unacked returns how many bytes of what was written to a TCP connection the peer has not
// acknowledged; 0 where the system does not tell.
func Unacked(syscall.Conn) int { return 0 }
