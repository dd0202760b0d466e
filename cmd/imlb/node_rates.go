package main

import (
	"imlb/backend"
	"imlb/configs"
)

// clientRates says how fast clients may send.
func clientRates(l configs.NodeLimits) backend.Rates {
	return backend.Rates{
		Stanzas:     l.StanzasPerSecond,
		Bytes:       int(l.BytesPerSecond),
		UserStanzas: l.UserStanzasPerSecond,
		UserBytes:   int(l.UserBytesPerSecond),
		Burst:       l.Burst,
		Throttled:   l.MaxThrottled,
	}
}
