package health_test

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"imlb/health"
)

// Checks come from the first source of the node's kind.
func TestFrom(t *testing.T) {
	t.Parallel()
	var seen string
	admin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen, _, _ = net.SplitHostPort(r.RemoteAddr)
	}))
	defer admin.Close()
	at := strings.TrimPrefix(admin.URL, "http://")
	sources := []netip.Addr{netip.IPv6Loopback(), netip.MustParseAddr("127.0.0.7"), netip.MustParseAddr("127.0.0.8")}

	if _, err := (health.From{Addrs: sources, Check: health.HTTPCheck{Path: "/"}}).Probe(t.Context(), health.Endpoint{Name: "a", Admin: at}); err != nil {
		t.Fatal(err)
	}
	if seen != "127.0.0.7" {
		t.Errorf("HTTP came from %s", seen)
	}

	peer := make(chan string, 1)
	e := server(t, func(conn net.Conn) { peer <- conn.RemoteAddr().(*net.TCPAddr).IP.String() })
	if _, err := (health.From{Addrs: sources, Check: health.TCPCheck{}}).Probe(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if got := <-peer; got != "127.0.0.7" {
		t.Errorf("TCP came from %s", got)
	}

	absent := health.From{Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.9")}, Check: health.HTTPCheck{Path: "/"}} // RFC 5737
	if _, err := absent.Probe(t.Context(), health.Endpoint{Name: "a", Admin: at}); !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("from an address that is not here: %v", err)
	}
	unfit := health.From{Addrs: sources[:1], Check: health.TCPCheck{}}
	if _, err := unfit.Probe(t.Context(), health.Endpoint{Name: "a", Addr: at}); err == nil || !strings.Contains(err.Error(), "no source address is of this kind") {
		t.Errorf("from an address of the other kind: %v", err)
	}
}
