package backend

import (
	"context"
	"fmt"
	"runtime/debug"
	"strconv"
	"time"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// version answers which software this is (XEP-0092), but not on what it runs.
func (s *session) version(q request) {
	version := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		version = info.Main.Version
	}
	result := []byte("<query xmlns='" + xmpp.NSVersion + "'><name>imlb</name><version>")
	result = xmpp.AppendEscaped(result, version)
	q.reply(append(result, "</version></query>"...))
}

// time answers what time it is (XEP-0202).
func (s *session) time(q request) {
	now := time.Now().UTC().Format(stampTemplate)
	q.reply([]byte("<time xmlns='" + xmpp.NSTime + "'><tzo>+00:00</tzo><utc>" + now + "</utc></time>"))
}

// lastActivity answers for how long the server is up (XEP-0012 §5).
func (s *session) lastActivity(q request) {
	q.replyLast(time.Since(s.node.started))
}

// replyLast answers with a time that has passed, in whole seconds.
func (q request) replyLast(passed time.Duration) {
	seconds := strconv.FormatInt(int64(max(passed, 0)/time.Second), 10)
	q.reply([]byte("<query xmlns='" + xmpp.NSLast + "' seconds='" + seconds + "'/>"))
}

// lastSeen answers for how long a user is away (XEP-0012 §4), if who asks may know: the
// user itself, and who is subscribed to the user's presence. That there is no such user
// looks as if it was not for the one who asks, and so does that the user has blocked it: who
// could tell would know the one or the other (XEP-0191 §3.3 leaves the error open).
func (s *session) lastSeen(ctx context.Context, q request) error {
	condition, account, err := s.findUser(ctx, q.to)
	if err != nil {
		return err
	}
	shown := condition == "" && q.to == s.hub.user
	if condition == "" && !shown {
		if shown, err = s.node.shownTo(ctx, account, s.hub.user); err != nil {
			return err
		}
	}
	if !shown {
		return xmpp.NewStanzaError(xmpp.Forbidden, "it is for those who may see the user's presence")
	}
	away, err := s.node.awayFor(ctx, account)
	if err == nil {
		q.replyLast(away)
	}
	return err
}

// awayFor returns for how long a user has no session, 0 if there is one, be it unavailable: of those on other nodes that is not
// known. Who has never been there is away since the account was made.
func (n *Node) awayFor(ctx context.Context, account store.Account) (time.Duration, error) {
	if n.hub(account.User) != nil {
		return 0, nil
	}
	query, cancel := n.storeContext(ctx)
	defer cancel()
	elsewhere, err := n.othersWith(query, account)
	if err != nil || len(elsewhere) > 0 {
		return 0, err
	}
	ended, err := n.store.LastEnd(query, account.Owner)
	if err != nil {
		return 0, fmt.Errorf("look up when %s was last seen: %w", account.User, err)
	}
	if ended.IsZero() {
		ended = account.Created
	}
	return time.Since(ended), nil
}
