package backend

import (
	"runtime/debug"
	"strconv"
	"time"

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

// lastActivity answers for how long the server is up (XEP-0012 §5), or for how long the
// user, who has just asked, is away (§4).
func (s *session) lastActivity(q request) {
	var up time.Duration
	if q.to.Local() == "" {
		up = time.Since(s.node.started)
	}
	seconds := strconv.FormatInt(int64(up/time.Second), 10)
	q.reply([]byte("<query xmlns='" + xmpp.NSLast + "' seconds='" + seconds + "'/>"))
}
