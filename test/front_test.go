package test

import "testing"

// TestFront runs every scenario that leaves the cluster as it found it on one
// cluster, each with accounts of its own.
func TestFront(t *testing.T) {
	d := startDev(t, devOptions{users: 125})
	scenarios := []struct {
		name string
		run  func(*testing.T, *dev)
	}{
		{"EchoBot", testEchoBot},
		{"GoSendxmpp", testGoSendxmpp},
		{"XMPPJSDirectTLS", testXMPPJSDirectTLS},
		{"XMPPJSWebSocket", testXMPPJSWebSocket},
		{"XMPPJSFastDirectTLS", testXMPPJSFastDirectTLS},
		{"XMPPJSFastWebSocket", testXMPPJSFastWebSocket},
		{"WebSocketFraming", testWebSocketFraming},
		{"StropheBOSH", testStrophe},
		{"WebSocketErrors", testWebSocketErrors},
		{"HostMeta", testHostMeta},
		{"Mechanisms", testMechanisms},
		{"SASLFailures", testSASLFailures},
		{"SASLRetry", testSASLRetry},
		{"SASLAbort", testSASLAbort},
		{"Flights", testFlights},
		{"StreamErrors", testStreamErrors},
		{"TLSFirst", testTLSFirst},
		{"STARTTLSInjection", testSTARTTLSInjection},
		{"QUIC", testQUIC},
		{"QUICManySessions", testQUICManySessions},
		{"QUICOther", testQUICOther},
		{"Apart", testApart},
		{"Together", testTogether},
		{"Bounds", testBounds},
		{"LongRoster", testLongRoster},
		{"Offline", testOffline},
		{"Relogin", testRelogin},
		{"Conflict", testConflict},
		{"TooLarge", testTooLarge},
		{"Acknowledgements", testAcknowledgements},
		{"Subscription", testSubscription},
		{"PortScan", testPortScan},
		{"Garbage", testGarbage},
		{"Probes", testProbes},
		{"Metrics", testMetrics},
	}
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			s.run(t, d)
		})
	}
}
