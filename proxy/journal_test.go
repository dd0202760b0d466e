package proxy_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"imlb/proxy"
	"imlb/proxy/limit"
)

// said returns a logger at level info, and the lines that it has written, without their times.
func said() (*slog.Logger, *bytes.Buffer) {
	var out bytes.Buffer
	return slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})), &out
}

// Refused clients have no lines of their own, so that they cannot fill the log. It says at once
// that there are some, and then once a minute how many.
func TestRefusalsAreTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log, out := said()
		j := proxy.NewJournal(log)
		refuse := func(listener string, why proxy.Reason, l limit.Reason, from string) {
			j.Add(&proxy.Record{Listener: listener, Reason: why, Limit: l, Source: from})
		}
		for i := range 100 {
			refuse("a", proxy.ReasonRateLimited, limit.ReasonRateSource, fmt.Sprintf("192.0.2.%d:1", i))
			<-time.After(time.Second)
		}
		refuse("b", proxy.ReasonRateLimited, limit.ReasonRateSource, "192.0.2.1:2")
		refuse("b", proxy.ReasonTooMany, limit.ReasonConcurrentSource, "192.0.2.1:3")
		refuse("b", proxy.ReasonDenied, limit.ReasonDenied, "192.0.2.1:4")
		refuse("b", proxy.ReasonProbe, limit.ReasonNone, "192.0.2.1:5")
		j.Close()
		const want = `level=INFO msg="clients are refused" reason=rate-limited listener=a source=192.0.2.0:1 limit=rate-source unsaid=0
level=INFO msg="clients are refused" reason=rate-limited listener=a source=192.0.2.60:1 limit=rate-source unsaid=59
level=INFO msg="clients are refused" reason=rate-limited listener=b source=192.0.2.1:2 limit=rate-source unsaid=0
level=INFO msg="clients are refused" reason=too-many listener=b source=192.0.2.1:3 limit=concurrent-source unsaid=0
level=INFO msg="clients are refused" reason=denied listener=b source=192.0.2.1:4 limit=denied unsaid=0
`
		if out.String() != want {
			t.Errorf("logged\n%s", out)
		}
	})
}

// What has not been refused for long is forgotten.
func TestRefusalsAreForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log, _ := said()
		j := proxy.NewJournal(log)
		defer j.Close()
		for i := range 1000 {
			j.Add(&proxy.Record{Listener: fmt.Sprint("of configuration ", i), Reason: proxy.ReasonDenied})
			<-time.After(time.Second)
		}
		if n := j.Refusals(); n > 122 {
			t.Errorf("something is kept of %d", n)
		}
	})
}

// Whoever refuses a client, it is told.
func TestRefusedClientsAreTold(t *testing.T) {
	t.Parallel()
	log, out := said()
	t.Cleanup(func() { // after the front's end
		if got := strings.Count(out.String(), `msg="clients are refused" reason=too-many listener=x`); got != 1 {
			t.Errorf("%d lines of three refusals:\n%s", got, out)
		}
	})
	n := startNode(t, "one")
	f := startOpaque(t, witnessOf(n), proxy.Listener{Protocol: proxy.TCP}, func(o *proxy.Options) {
		o.Logger = log
		o.Rules.Source.Concurrent = 1
	})
	f.dial()
	leg := n.leg()
	for range 3 {
		f.dial().end()
	}
	leg.Close()
}
