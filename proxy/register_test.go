package proxy_test

import (
	"strings"
	"testing"

	"imlb/proxy"
)

const (
	registerOffer = "<register xmlns='http://jabber.org/features/iq-register'/>"
	registerGet   = "<iq type='get' id='r1'><query xmlns='jabber:iq:register'/></iq>"
	registerSet   = "<iq type='set' id='r2'><query xmlns='jabber:iq:register'><username>Dave</username><password>x</password></query></iq>"
)

// registers answers a registration that came on a leg of its own.
func (n *node) registers(request, answer string) {
	n.t.Helper()
	leg := n.accept()
	leg.open()
	leg.send(nodeHeader + strings.Replace(plainOffer, "</stream:features>", registerOffer+"</stream:features>", 1))
	leg.expect(request)
	leg.send(answer)
	leg.expect(streamEnd)
	leg.send(streamEnd)
	leg.close()
}

// A client registers through the front and logs in on the same stream.
func TestRegister(t *testing.T) {
	t.Parallel()
	n, home := startNode(t, "one"), startNode(t, "two")
	f := startFresh(t, &picker{nodes: map[string][]proxy.Node{"": {n.at()}, "dave@" + fresh: {home.at()}}}, nil)
	client := f.asks(fresh)
	n.asked(fresh, strings.Replace(plainOffer, "</stream:features>", registerOffer+"</stream:features>", 1))
	client.expect(of(fresh, frontHeader) + strings.Replace(plainOffer, "</stream:features>", registerOffer+"</stream:features>", 1))
	for _, step := range []struct {
		to              *node // the name decides
		request, answer string
	}{
		{n, registerGet, "<iq type='result' id='r1'><query xmlns='jabber:iq:register'><username/><password/></query></iq>"},
		{home, registerSet, "<iq type='error' id='r2'><error type='cancel'><conflict xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>"},
		{home, registerSet, "<iq type='result' id='r2'/>"},
	} {
		client.send(step.request)
		step.to.registers(step.request, step.answer)
		client.expect(step.answer)
	}
	client.send(registerGet)
	leg := n.accept().offer()
	leg.expect(registerGet)
	leg.close()
	if e := client.element(); !strings.Contains(e, " id='r1'") || !strings.Contains(e, "<internal-server-error ") {
		t.Errorf("got %s", e)
	}
	for range 6 {
		client.send(registerGet)
		n.registers(registerGet, "<iq type='result' id='r1'/>")
		client.expect("<iq type='result' id='r1'/>")
	}
	client.send(registerGet)
	if e := client.element(); !strings.Contains(e, "<policy-violation ") {
		t.Errorf("got %s", e)
	}
	client.expect(streamEnd)
	client.close()
}

// A client does not register where no node offers it.
func TestRegisterRefused(t *testing.T) {
	t.Parallel()
	f := startFront(t, &picker{}, nil)
	client := f.dialTLS()
	client.send(streamOpen)
	client.expect(frontHeader + frontOffer)
	client.send(registerGet)
	client.expect(streamError("not-authorized") + streamEnd)
	client.close()
	f.ended("protocol-error")
}
