//go:build !linux

package backend

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// dormitory is where sessions could sleep without a goroutine. Here there is no epoll, and
// nobody does.
type dormitory struct{}

func newDormitory(prometheus.Gauge) (*dormitory, error) { return &dormitory{}, nil }

func (*dormitory) close() {}

func (*dormitory) lay(*session, time.Time) bool { return false }

func (*dormitory) rouse(*session) {}
