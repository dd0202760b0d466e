package xmpp_test

import (
	"fmt"

	"imlb/backend/xmpp"
)

func ExampleScanner() {
	s := xmpp.NewScanner(xmpp.Limits{})
	for _, chunk := range []string{
		"<stream:stream to='example.com' version='1.0' xmlns='jabber:client' xmlns:stream='http://etherx.jab",
		"ber.org/streams'><message to='bob@example.com' id='1'><body>Hello</body></message><presence/></str",
		"eam:stream>",
	} {
		p := []byte(chunk)
		for {
			tok, rest, err := s.Next(p)
			if err != nil {
				fmt.Println(err)
				return
			}
			if tok.Kind == xmpp.KindNone {
				break
			}
			p = rest
			switch tok.Kind {
			case xmpp.KindOpen:
				h, err := xmpp.ParseStreamHeader(tok.Raw)
				fmt.Println("open", h.To, err)
			case xmpp.KindElement:
				h, err := xmpp.ParseHeader(tok.Raw)
				fmt.Println(h.Kind, h.To, err)
			case xmpp.KindClose:
				fmt.Println("close")
			case xmpp.KindSpace, xmpp.KindNone:
			}
		}
	}
	// Output:
	// open example.com <nil>
	// message bob@example.com <nil>
	// presence  <nil>
	// close
}
