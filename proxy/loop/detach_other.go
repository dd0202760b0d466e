//go:build !linux || 386 || s390x || imlb_portable

package loop

import (
	"errors"
	"net"
)

// CanDetach tells whether Detach works here.
const CanDetach = false

// netConn cannot take the connection from the goroutines that have read ahead.
func (socket) netConn() (*net.TCPConn, error) { return nil, errors.ErrUnsupported }
