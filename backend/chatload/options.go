package chatload

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Workload is a kind of load.
type Workload string

// The workloads.
const (
	Messages Workload = "messages" // users write to each other
	Logins   Workload = "logins"   // users log in and out again
	Idle     Workload = "idle"     // users are there, and quiet
	Archive  Workload = "archive"  // a user reads the last page of the archive (XEP-0313)
)

// TLSMode is how a connection gets its TLS.
type TLSMode string

// The ways to TLS.
const (
	StartTLS  TLSMode = "starttls" // RFC 6120 §5
	DirectTLS TLSMode = "direct"   // XEP-0368
	NoTLS     TLSMode = "none"
)

// Peers says who writes to whom.
type Peers string

// The ways to choose peers.
const (
	Pairs  Peers = "pairs"  // 1 and 2 write to each other, 3 and 4, and so on
	Random Peers = "random" // everybody writes to some, in turns
)

// randomPeers is how many peers one has when they are chosen at random.
const randomPeers = 8

// Account is a user that the server knows.
type Account struct{ Name, Password string }

// Options say what load is put on which server. Default gives what is usual.
type Options struct {
	Servers   []string // host:port; sessions take turns
	Domain    string
	TLS       TLSMode
	TLSConfig *tls.Config // nil: the system's authorities, and the domain's name
	Resume    bool        // TLS sessions, where logins are measured
	Mechanism string      // of SASL; "": the strongest that is offered
	Accounts  []Account
	Sessions  int // of the accounts in turns; 0: one each

	Workload   Workload
	Connecting int           // logins at a time
	Rate       int           // messages, or logins, per second; 0: as fast as it goes
	Window     int           // messages on their way for each session, without a rate
	Size       int           // of a message's body, in bytes
	Peers      Peers         // of messages
	Warmup     time.Duration // before it counts
	Duration   time.Duration // of what counts
	Settle     time.Duration // before memory is read
	Timeout    time.Duration // of each step of a login, of an answer, and of the last messages

	Preload int // messages to fill the archive with
	Page    int // messages on a page of the archive
	Queries int // of the archive

	PIDs []int // the server's processes; those that they start belong to them
}

// Default returns options that lack a server, a domain and accounts.
func Default() Options {
	return Options{
		TLS: StartTLS, Workload: Messages, Connecting: 16, Window: 8, Size: 256, Peers: Pairs,
		Warmup: 2 * time.Second, Duration: 10 * time.Second, Settle: 3 * time.Second, Timeout: 30 * time.Second,
		Page: 50, Queries: 200,
	}
}

const (
	mostSessions = 200_000
	mostRate     = 1_000_000
	mostSize     = 64 << 10
	mostPreload  = 100_000_000
	mostQueries  = 1_000_000
	longest      = 24 * time.Hour
)

// Check tells what cannot be.
func (o Options) Check() error {
	switch {
	case len(o.Servers) == 0 || o.Domain == "":
		return errors.New("a server and a domain are needed")
	case len(o.Accounts) == 0:
		return errors.New("an account is needed")
	case o.Mechanism != "" && !supported(o.Mechanism):
		return fmt.Errorf("mechanism %s: there are %s", o.Mechanism, strings.Join(mechanisms, ", "))
	case o.Connecting < 1 || o.Window < 1 || o.Timeout <= 0 || o.Warmup < 0 || o.Duration <= 0 || o.Settle < 0:
		return errors.New("logins at a time, window, duration and timeout have to be more than nothing")
	case max(o.Warmup, o.Duration, o.Settle, o.Timeout) > longest:
		return fmt.Errorf("nothing may take longer than %v", longest)
	case o.Connecting > mostSessions || o.sessions() > mostSessions || o.Window > mostSessions:
		return fmt.Errorf("there may be %d sessions, logins at a time and messages in a window", mostSessions)
	case o.Rate < 0 || o.Rate > mostRate:
		return fmt.Errorf("a rate is from 0 to %d", mostRate)
	}
	return o.checkWorkload()
}

func (o Options) checkWorkload() error {
	switch {
	case o.Workload == Messages && (o.sessions() < 2 || o.Peers == Pairs && o.sessions()%2 != 0):
		return errors.New("messages need at least two sessions; pairs need an even number")
	case o.Workload == Archive && (o.Page < 1 || o.Page > 1000 || o.Queries < 1 || o.Queries > mostQueries):
		return fmt.Errorf("a page has from 1 to 1000 messages, and there are from 1 to %d queries", mostQueries)
	case o.Workload == Archive && (o.Preload < 0 || o.Preload > mostPreload):
		return fmt.Errorf("an archive can be filled with up to %d messages", mostPreload)
	case o.Workload == Archive && o.Preload > 0 && len(o.Accounts) < 2:
		return errors.New("to fill an archive takes another account that writes")
	case o.Size < minSize || o.Size > mostSize:
		return fmt.Errorf("a body has from %d to %d bytes", minSize, mostSize)
	}
	switch o.Workload {
	case Messages, Logins, Idle, Archive:
		return nil
	default:
		return fmt.Errorf("no workload %q", o.Workload)
	}
}

func (o Options) sessions() int {
	if o.Sessions > 0 {
		return o.Sessions
	}
	return len(o.Accounts)
}

// tlsConfig returns what TLS is made with; for each login the same.
func (o Options) tlsConfig() *tls.Config {
	c := o.TLSConfig
	if c == nil {
		c = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	c = c.Clone()
	if c.ServerName == "" {
		c.ServerName = o.Domain
	}
	if o.TLS == DirectTLS {
		c.NextProtos = []string{"xmpp-client"} // XEP-0368 §4
	}
	return c
}
