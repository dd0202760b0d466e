package backend

import (
	"testing"

	"imlb/backend/store"
)

// item returns a roster item in one of the states of RFC 6121 appendix A.1: a
// subscription, "+out" and "+in".
func rosterItemIn(t *testing.T, name string) store.RosterItem {
	t.Helper()
	none, to, from, both := store.SubscriptionNone, store.SubscriptionTo, store.SubscriptionFrom, store.SubscriptionBoth
	it, ok := map[string]store.RosterItem{
		"none":        {InRoster: true, Subscription: none},
		"none+out":    {InRoster: true, Subscription: none, Ask: true},
		"none+in":     {InRoster: true, Subscription: none, PendingIn: []byte("x")},
		"none+out+in": {InRoster: true, Subscription: none, Ask: true, PendingIn: []byte("x")},
		"to":          {InRoster: true, Subscription: to},
		"to+in":       {InRoster: true, Subscription: to, PendingIn: []byte("x")},
		"from":        {InRoster: true, Subscription: from},
		"from+out":    {InRoster: true, Subscription: from, Ask: true},
		"both":        {InRoster: true, Subscription: both},
	}[name]
	if !ok {
		t.Fatalf("no state %q", name)
	}
	return it
}

// TestOutboundSubscription holds the tables of RFC 6121 appendix A.2.
func TestOutboundSubscription(t *testing.T) {
	tests := []struct {
		kind, state string
		route       bool
		after       string
	}{
		{presenceSubscribe, "none", true, "none+out"},
		{presenceSubscribe, "none+out", true, "none+out"},
		{presenceSubscribe, "none+in", true, "none+out+in"},
		{presenceSubscribe, "none+out+in", true, "none+out+in"},
		{presenceSubscribe, "to", true, "to"},
		{presenceSubscribe, "to+in", true, "to+in"},
		{presenceSubscribe, "from", true, "from+out"},
		{presenceSubscribe, "from+out", true, "from+out"},
		{presenceSubscribe, "both", true, "both"},

		{presenceUnsubscribe, "none", true, "none"},
		{presenceUnsubscribe, "none+out", true, "none"},
		{presenceUnsubscribe, "none+in", true, "none+in"},
		{presenceUnsubscribe, "none+out+in", true, "none+in"},
		{presenceUnsubscribe, "to", true, "none"},
		{presenceUnsubscribe, "to+in", true, "none+in"},
		{presenceUnsubscribe, "from", true, "from"},
		{presenceUnsubscribe, "from+out", true, "from"},
		{presenceUnsubscribe, "both", true, "from"},

		{presenceSubscribed, "none", false, "none"}, // and pre-approved, §3.4
		{presenceSubscribed, "none+out", false, "none+out"},
		{presenceSubscribed, "none+in", true, "from"},
		{presenceSubscribed, "none+out+in", true, "from+out"},
		{presenceSubscribed, "to", false, "to"},
		{presenceSubscribed, "to+in", true, "both"},
		{presenceSubscribed, "from", false, "from"},
		{presenceSubscribed, "from+out", false, "from+out"},
		{presenceSubscribed, "both", false, "both"},

		{presenceUnsubscribed, "none", false, "none"},
		{presenceUnsubscribed, "none+out", false, "none+out"},
		{presenceUnsubscribed, "none+in", true, "none"},
		{presenceUnsubscribed, "none+out+in", true, "none+out"},
		{presenceUnsubscribed, "to", false, "to"},
		{presenceUnsubscribed, "to+in", true, "to"},
		{presenceUnsubscribed, "from", true, "none"},
		{presenceUnsubscribed, "from+out", true, "none+out"},
		{presenceUnsubscribed, "both", true, "to"},
	}
	for _, tt := range tests {
		it := rosterItemIn(t, tt.state)
		_, route := outbound(tt.kind, &it)
		it.Approved = false
		if want := rosterItemIn(t, tt.after); route != tt.route || itemState(&it) != itemState(&want) {
			t.Errorf("%s in %s: route %t, then %+v; want route %t, then %s", tt.kind, tt.state, route, it, tt.route, tt.after)
		}
	}
}

// TestInboundSubscription holds the tables of RFC 6121 appendix A.3.
func TestInboundSubscription(t *testing.T) {
	tests := []struct {
		kind, state string
		deliver     bool
		after       string
		answer      string
	}{
		{presenceSubscribe, "none", true, "none+in", ""},
		{presenceSubscribe, "none+out", true, "none+out+in", ""},
		{presenceSubscribe, "none+in", false, "none+in", ""},
		{presenceSubscribe, "none+out+in", false, "none+out+in", ""},
		{presenceSubscribe, "to", true, "to+in", ""},
		{presenceSubscribe, "to+in", false, "to+in", ""},
		{presenceSubscribe, "from", false, "from", presenceSubscribed},
		{presenceSubscribe, "from+out", false, "from+out", presenceSubscribed},
		{presenceSubscribe, "both", false, "both", presenceSubscribed},

		{presenceUnsubscribe, "none", false, "none", ""},
		{presenceUnsubscribe, "none+out", false, "none+out", ""},
		{presenceUnsubscribe, "none+in", true, "none", ""},
		{presenceUnsubscribe, "none+out+in", true, "none+out", ""},
		{presenceUnsubscribe, "to", false, "to", ""},
		{presenceUnsubscribe, "to+in", true, "to", ""},
		{presenceUnsubscribe, "from", true, "none", ""},
		{presenceUnsubscribe, "from+out", true, "none+out", ""},
		{presenceUnsubscribe, "both", true, "to", ""},

		{presenceSubscribed, "none", false, "none", ""},
		{presenceSubscribed, "none+out", true, "to", ""},
		{presenceSubscribed, "none+in", false, "none+in", ""},
		{presenceSubscribed, "none+out+in", true, "to+in", ""},
		{presenceSubscribed, "to", false, "to", ""},
		{presenceSubscribed, "to+in", false, "to+in", ""},
		{presenceSubscribed, "from", false, "from", ""},
		{presenceSubscribed, "from+out", true, "both", ""},
		{presenceSubscribed, "both", false, "both", ""},

		{presenceUnsubscribed, "none", false, "none", ""},
		{presenceUnsubscribed, "none+out", true, "none", ""},
		{presenceUnsubscribed, "none+in", false, "none+in", ""},
		{presenceUnsubscribed, "none+out+in", true, "none+in", ""},
		{presenceUnsubscribed, "to", true, "none", ""},
		{presenceUnsubscribed, "to+in", true, "none+in", ""},
		{presenceUnsubscribed, "from", false, "from", ""},
		{presenceUnsubscribed, "from+out", true, "from", ""},
		{presenceUnsubscribed, "both", true, "from", ""},
	}
	for _, tt := range tests {
		it := rosterItemIn(t, tt.state)
		_, deliver, answer := inboundSubscription(tt.kind, []byte("x"), &it)
		if want := rosterItemIn(t, tt.after); deliver != tt.deliver || answer != tt.answer || itemState(&it) != itemState(&want) {
			t.Errorf("%s in %s: deliver %t, answer %q, then %+v; want deliver %t, answer %q, then %s",
				tt.kind, tt.state, deliver, answer, it, tt.deliver, tt.answer, tt.after)
		}
	}
}
