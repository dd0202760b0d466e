// Package store keeps what a chat cluster must not forget: accounts, rosters,
// timelines and session records, in SQL.
//
// # Timelines
//
// A timeline is the ordered, durable list of one owner's messages. Its entries
// are numbered 1, 2, 3 … without gaps; a number is never used twice and the head
// never goes down. Retention removes entries from the beginning, and hidden ones, which
// are delivered but not archived, from anywhere once they are delivered (Archives). A message between two local users is two entries, one on the
// sender's timeline and one on the recipient's, appended in one transaction
// together with the sending session's handled count. So what was acknowledged to
// a client is durable, and a session that has been taken over by another node is
// fenced at the same place where its message would have become durable.
//
// Sessions append through a Writer, which gathers what waits into few
// transactions.
//
// # Databases
//
// Open opens SQLite or PostgreSQL. What returned without an error is on the disk,
// through the death of the process as well as of the machine, unless the
// administrator of a PostgreSQL server has turned that off. Several
// processes of one machine may share an SQLite file; they then take turns at
// writing, which suits development and small hosts. Processes of any number of
// machines may share a PostgreSQL database.
//
// A database that is away makes calls fail with ErrUnavailable, and is used again
// when it is back. When the connection is lost while messages are being
// committed, AppendBatch waits for the database, and looks what became of them; so do those who create
// sessions, save and reap them, and change rosters and blocklists, as long as their context lets them.
//
// # Ownership
//
// Every method is safe for concurrent use. Byte slices handed in are not kept
// after a call returns; byte slices handed out belong to the caller.
package store

import (
	"context"
	"errors"
	"time"
)

// Errors on which callers decide. They are returned wrapped; use errors.Is.
var (
	// ErrNotFound: the account, roster item, session or node does not exist.
	ErrNotFound = errors.New("not found")
	// ErrExists: an account or session of that name exists already.
	ErrExists = errors.New("already exists")
	// ErrFull: the owner would have more than it may have. Nothing was changed.
	ErrFull = errors.New("more than the owner may have")
	// ErrFenced: the session's epoch was raised by somebody else, who owns the
	// session now. The caller must stop acting for it at once.
	ErrFenced = errors.New("session is owned elsewhere")
	// ErrLeaseLost: the lease was taken by another process of the node's name, or was
	// given back. The caller must stop serving under that name.
	ErrLeaseLost = errors.New("the lease is another process's, or nobody's")
	// ErrOutcomeUnknown: the connection to the database was lost while a
	// transaction was being committed, and it could not be learnt whether it was.
	ErrOutcomeUnknown = errors.New("it is not known whether it was stored")
	// ErrUnavailable: the database is busy, cannot be reached, or has no disk to write to. Nothing
	// was changed, and trying again later may help.
	ErrUnavailable = errors.New("database is not available")
)

// OwnerID identifies the owner of a timeline: an account. It is given by
// the store, is positive, and is never given twice, not even after the account
// was deleted.
type OwnerID int64

// Account is a user's entry in the user directory.
type Account struct {
	Owner   OwnerID
	User    string // canonical bare JID
	Created time.Time

	Role      Role
	State     AccountState
	LastLogin time.Time // when a session was made last; zero: never
}

// Credential holds the keys from which a SCRAM exchange (RFC 5802 §3) and a
// PLAIN login are verified. The password itself is never stored.
type Credential struct {
	Mechanism  string // "SCRAM-SHA-1", "SCRAM-SHA-256" or "SCRAM-SHA-512"
	Salt       []byte
	Iterations int
	StoredKey  []byte
	ServerKey  []byte
}

// Accounts is the user directory.
type Accounts interface {
	// CreateAccount adds a user with its credentials; ErrExists if there is one.
	CreateAccount(ctx context.Context, user string, creds []Credential) (Account, error)
	// Account looks a user up; ErrNotFound.
	Account(ctx context.Context, user string) (Account, error)
	// Credential returns the user's keys for one mechanism; ErrNotFound when
	// the user does not exist or has no keys for it.
	Credential(ctx context.Context, user, mechanism string) (Credential, error)
	// LacksKeys tells whether there is an account that has keys, but none for that
	// mechanism.
	LacksKeys(ctx context.Context, mechanism string) (bool, error)
	// SetCredentials replaces all keys of a user, and revokes its tokens; ErrNotFound.
	SetCredentials(ctx context.Context, user string, creds []Credential) error
	// ListAccounts returns up to limit accounts, sorted by the bytes of their
	// user, whose user sorts after after. Those with an UnfinishedName are left out.
	ListAccounts(ctx context.Context, after string, limit int) ([]Account, error)
	// DeleteAccount removes a user and all that it owns: keys, tokens, roster, sessions,
	// timeline, blocklist, private XML and vCard; ErrNotFound.
	DeleteAccount(ctx context.Context, user string) error
}

// Subscription is the state of RFC 6121 §2.1.2.5.
type Subscription uint8

// The values of Subscription; To and From are bits, Both is their union.
const (
	SubscriptionNone Subscription = 0
	SubscriptionTo   Subscription = 1
	SubscriptionFrom Subscription = 2
	SubscriptionBoth Subscription = SubscriptionTo | SubscriptionFrom
)

// RosterItem is what a user remembers of a contact (RFC 6121 §2.1.2).
type RosterItem struct {
	Contact      string // canonical bare JID
	Name         string
	Groups       []string // sorted, without duplicates
	Subscription Subscription
	Ask          bool // an outbound subscription request is pending
	Approved     bool // pre-approved (RFC 6121 §3.4)
	// PendingIn is the inbound <presence type='subscribe'/> that the user has
	// not yet answered, as received; empty when there is none. An item that
	// has only this is not part of the roster that clients see (§3.1.3).
	PendingIn []byte
	// InRoster reports that clients see the item.
	InRoster bool
	Version  uint64 // the roster version of the item's last change
}

// Rosters keeps each owner's contacts.
type Rosters interface {
	// Roster returns all items, pending ones included, sorted by the bytes of
	// their contact, and the roster's version; ErrNotFound when the owner does
	// not exist.
	Roster(ctx context.Context, owner OwnerID) (items []RosterItem, version uint64, err error)
	// RosterSince returns what has become of a roster since a version, in the order of
	// the versions, and the roster's version now: the items that have changed, and for each contact that
	// clients do not see any more an item with nothing but its Contact and the Version of
	// that. What is kept of a contact whom one change took from their sight comes before
	// that removal, with the same Version. The RemovalsKept last removals are known. ErrNotFound.
	RosterSince(ctx context.Context, owner OwnerID, since uint64) (items []RosterItem, version uint64, err error)
	// UpdateRoster reads the item of a contact (an item with nothing but its
	// Contact if there is none), lets change edit it, and stores it, in one
	// transaction. When change returns false nothing is stored. An edited item
	// that is neither InRoster nor has PendingIn or Approved is removed. It
	// returns the item as it is afterwards, the edited one if it was removed, and
	// the roster's new version, which grows by one with each change. Contact
	// and Version are not change's to edit, and Groups are sorted for it.
	// ErrNotFound when the owner does not exist.
	//
	// The transaction is open while change runs, and it may run again: it
	// must be quick, must not call the store, and must set what it reports anew
	// each time.
	UpdateRoster(ctx context.Context, owner OwnerID, contact string, change func(*RosterItem) bool) (item RosterItem, version uint64, err error)
	// Versions returns the versions of what owners have, without those of owners who do
	// not exist.
	Versions(ctx context.Context, owners []OwnerID) (map[OwnerID]Versions, error)
}

// RemovalsKept is of how many contacts of an owner is known that clients do not see them any more.
const RemovalsKept = 1000

// Versions tell whether what an owner has was changed.
type Versions struct {
	Roster    uint64
	Blocklist uint64 // 0: there was none yet
}

// Entry is one message on a timeline.
type Entry struct {
	Seq      uint64    // 1, 2, 3 …, given out without gaps
	Time     time.Time // never goes backwards within an owner; millisecond resolution, UTC
	Peer     string    // bare JID of the other party
	Sent     bool      // the owner is the sender
	Resource string    // the owner's resource that a received message was addressed to, or that sent it
	Stanza   []byte    // the <message/> as it will be delivered
	Hidden   bool      // it is delivered, but not part of the archive, and removed afterwards
}

// Draft is an entry that has no number yet.
type Draft struct {
	Owner    OwnerID
	Peer     string
	Sent     bool
	Resource string
	Stanza   []byte
	// Address is the other party's address as the message has it, with a resource if
	// it has one; empty: Peer. The owner's archive preferences are held against it.
	Address string
	// Hidden keeps the entry out of the archive whatever the owner's preferences are.
	Hidden bool
	// Room is how many entries may wait to be delivered to the owner for this one to be
	// appended (XEP-0160 §2); 0: any number.
	Room uint64
}

// Append is one message: all that must become durable together.
type Append struct {
	// Session and Epoch name the sending session; the append fails with
	// ErrFenced when the record has another epoch or is gone. An empty Session
	// means that the message comes from the system: it is not fenced, and
	// Handled says nothing.
	Session string
	Epoch   uint64
	// Handled is the session's XEP-0198 inbound count once this message is
	// handled, modulo 2^32.
	Handled uint32
	Drafts  []Draft
}

// Appended answers an Append at the same position.
type Appended struct {
	Seqs []uint64  // one for each draft, in the drafts' order
	Time time.Time // given to all of its entries
	// Err is ErrFenced, ErrNotFound when the owner of a draft does not exist (any
	// more), or ErrFull; then nothing of this Append was stored, its Handled neither.
	Err error
}

// Timelines stores messages.
type Timelines interface {
	// AppendBatch stores many messages in one transaction, in the given order.
	// The error is for the whole batch: nothing of it was stored, or with
	// ErrOutcomeUnknown all or nothing. Then a session's handled count tells
	// which, once the database is back: end the session, and have its client
	// resume from there. Use a Writer rather than calling it directly.
	AppendBatch(ctx context.Context, batch []Append) ([]Appended, error)
	// Read returns up to limit entries after number after, in order, of those that are
	// there.
	Read(ctx context.Context, owner OwnerID, after uint64, limit int) ([]Entry, error)
	// Head returns the number of the last entry, 0 when there is none, and the
	// number up to which received entries were delivered to one of the
	// owner's clients; ErrNotFound when the owner does not exist.
	Head(ctx context.Context, owner OwnerID) (head, delivered uint64, err error)
	// SetDelivered raises the delivered numbers; a lower number than the stored
	// one changes nothing, a number above the head counts as the head, and an
	// owner that does not exist is passed over.
	SetDelivered(ctx context.Context, delivered map[OwnerID]uint64) error
}

// Session is the durable part of a client's logged-in presence on a node.
type Session struct {
	ID       string
	Owner    OwnerID
	User     string // canonical bare JID of the owner; the store fills it in
	Resource string
	Node     string    // the node that serves it
	Epoch    uint64    // raised at each change of node or owner; starts at 1
	Handled  uint32    // XEP-0198 inbound count, modulo 2^32
	Created  time.Time // when the record was made; the store fills it in
	State    string    // of one that can be resumed: the state that was saved last; told of those that are over, and by StatesOf
	Shown    string    // what was noted by NoteShown; told like State
}

// RecentContact is a contact who is connected, or was not long ago.
type RecentContact struct {
	User  string
	Nodes int // on how many nodes there are sessions; 0: it has left
}

// Sessions keeps session records and the nodes' leases on them.
//
// A session belongs to the run of the node that held the node's lease when the
// session was created. So what a crashed process left behind can be reaped
// at once when the node's next run has taken the lease over, and a node
// takes its lease before it creates sessions.
//
// How long a lease lasts, and how long a session has waited for its client, is measured by
// the database's clock alone, since what one node has written others judge.
type Sessions interface {
	// CreateSession records a session at epoch 1; Epoch, User and Created of s
	// are not looked at. When the owner has a session with that resource it is
	// ended in the same transaction and returned in replaced (RFC 6120
	// §7.7.2.2), so that its node can be told. If something was noted of it by NoteShown it
	// is also among those whose end the node is to announce, as ReapSessions tells. ErrExists when another session
	// has that ID, ErrNotFound when the owner does not exist.
	CreateSession(ctx context.Context, s Session) (replaced *Session, err error)
	// Session looks a session up; ErrNotFound.
	Session(ctx context.Context, id string) (Session, error)
	// SessionsOf returns the sessions of an owner on any node, sorted by the
	// bytes of their resource; none when the owner does not exist.
	SessionsOf(ctx context.Context, owner OwnerID) ([]Session, error)
	// NoteShown notes to whom a session has shown itself, in the node's own words; ErrFenced when the
	// record has another epoch or is gone.
	NoteShown(ctx context.Context, id string, epoch uint64, shown string) error
	// StatesOf is SessionsOf with the State and Shown of each, and no Node where its lease is over.
	StatesOf(ctx context.Context, owner OwnerID) ([]Session, error)
	// NodeOf returns the node that has an owner's session with a resource now; empty: there is
	// none, it waits for whoever resumes it, or its node's lease is over.
	NodeOf(ctx context.Context, owner OwnerID, resource string) (node string, err error)
	// NodesOf returns all nodes that have sessions of an owner now, sorted.
	NodesOf(ctx context.Context, owner OwnerID) ([]string, error)
	// ConnectedContacts returns those in an owner's roster who have a session, sorted by
	// their bytes; none when the owner does not exist.
	ConnectedContacts(ctx context.Context, owner OwnerID) ([]string, error)
	// LastEnd returns when a session of an owner ended last; zero: none has. ErrNotFound.
	LastEnd(ctx context.Context, owner OwnerID) (time.Time, error)
	// RecentContacts returns those in an owner's roster who have a session, or had one that
	// ended at a time or later, sorted by the bytes of their names; none when the owner does
	// not exist.
	RecentContacts(ctx context.Context, owner OwnerID, since time.Time) ([]RecentContact, error)
	// SetHandled stores an inbound count on its own; ErrFenced when the record
	// has another epoch or is gone.
	SetHandled(ctx context.Context, id string, epoch uint64, handled uint32) error
	// EndSession removes the record if it has that epoch; ErrFenced otherwise.
	EndSession(ctx context.Context, id string, epoch uint64) error
	// TakeLease says that a node's process begins, and lives for a while from now on
	// (millisecond resolution). An incarnation is one run of the process; it takes the
	// lease over from the last one, whose sessions are left without.
	TakeLease(ctx context.Context, node, incarnation string, lasts time.Duration) error
	// RenewLease says that the process lives for a while from now on, be it less than
	// what was said before. ErrLeaseLost when another has taken the lease over since,
	// which stays that one's.
	RenewLease(ctx context.Context, node, incarnation string, lasts time.Duration) error
	// EndLease ends a node's lease if that incarnation holds it.
	EndLease(ctx context.Context, node, incarnation string) error
	// LiveNodes returns the names of the nodes whose lease is not over, sorted.
	LiveNodes(ctx context.Context) ([]string, error)
	// ReapSessions ends up to limit sessions whose lease is over, and
	// has been for as long as they may be resumed, or that have been parked for as
	// long. It returns up to limit of those that have ended so, and whose end the node is to
	// announce: with no more than ID, Owner, User, Resource, State and Shown, and until they are forgotten. As
	// long as the node holds a lease no other gets them.
	ReapSessions(ctx context.Context, node string, limit int) ([]Session, error)
	// ForgetReaped forgets sessions that have been reaped, now that their ends have been announced.
	ForgetReaped(ctx context.Context, ids []string) error
}

// Resumable is what it takes to go on with a session (XEP-0198 §5), on any node.
type Resumable struct {
	Hold    time.Duration // how long it waits for its client, after that is lost or after its node's lease; millisecond resolution
	Parked  time.Time     // since when it waits, by this process's clock; zero: it does not. Millisecond resolution
	Handled uint32        // as Session.Handled …
	Unsure  bool          // … or it is not known whether a message is stored (ErrOutcomeUnknown), and what the store has stays
	Count   uint32        // stanzas that the client has acknowledged, modulo 2^32 …
	Pos     uint64        // … and the entry up to which it then had all that were for it,
	Claimed uint64        // and the one up to which it had all that were for its user, but those for other clients
	Voided  uint32        // the places on the timeline that stanzas up to this one told are none any more
	Told    Versions      // … and the changes up to which it had been told of
	Early   []byte        // as ResumePoint.Early
	Number  uint32        // as ResumePoint.Number; what Resume returns has none
	Lease   time.Time     // when the lease of whoever had it is over, or was, by this process's clock; only Resume tells
	State   []byte        // the node's own
	Note    []byte        // what was noted by somebody else; nil for nothing
}

// ResumePoint is where a resumable session stands.
type ResumePoint struct {
	ID    string
	Epoch uint64

	// As in Resumable.
	Count   uint32
	Pos     uint64
	Claimed uint64
	Voided  uint32
	Told    Versions

	Early []byte // the node's own, of what the client has besides; nil for nothing

	// Number is the point's among those of whoever has the session at that epoch. An earlier one
	// changes nothing that was stored with a later one, be it stored after that.
	Number uint32
}

// Holding says who has a resumable session.
type Holding struct {
	Epoch  uint64
	Parked bool      // it waits for its client, or its node has ended: nobody has a hand in it
	Lapsed string    // else: its node, if its lease is over; it may live, and not have reached the database for a while
	Taken  time.Time // when it was resumed for the last time, by this process's clock; zero: it was not
}

// Resumption keeps what it takes to go on with sessions whose node or connection
// was lost.
type Resumption interface {
	// SaveResumable makes a session resumable, or stores anew how. A Note takes the place of
	// what was noted, and an empty one removes it; with nil it stays. Of where the session stands the
	// latest stays. ErrFenced when the record has another epoch or is gone.
	SaveResumable(ctx context.Context, id string, epoch uint64, r Resumable) error
	// SetResumePoints stores where sessions stand. Those that are owned elsewhere by
	// now, or not resumable, are passed over.
	SetResumePoints(ctx context.Context, points []ResumePoint) error
	// NoteResumable stores somebody else's note for the next Resume, if the owner has such
	// a session.
	NoteResumable(ctx context.Context, id string, owner OwnerID, note []byte) error
	// Holding tells who has an owner's resumable session. ErrNotFound.
	Holding(ctx context.Context, id string, owner OwnerID) (Holding, error)
	// Resume gives an owner's resumable session to a node: its epoch is raised, so
	// that whoever had it is fenced, it belongs to the node's lease, and does not wait
	// any more. The rest stays until it is saved anew. ErrNotFound when there is none;
	// ErrFenced, with nothing changed, when there is none at the epoch that was seen, if that is not 0.
	Resume(ctx context.Context, id string, owner OwnerID, node string, seen uint64) (Session, Resumable, error)
	// Park leaves a resumable session that nobody has to whoever resumes it, as it was saved last, from
	// now on if it does not wait already; ErrFenced when the record has another epoch or is gone.
	Park(ctx context.Context, id string, epoch uint64) error
	// EndedSession returns the handled count of an owner's session that was resumable
	// when it ended; ErrNotFound.
	EndedSession(ctx context.Context, id string, owner OwnerID) (handled uint32, err error)
	// ForgetEnded forgets up to limit sessions that ended before a time.
	ForgetEnded(ctx context.Context, before time.Time, limit int) error
}

// Owner is whose a database is.
type Owner struct {
	Domain  string
	Cluster string // empty: no node has said so
}

// Belonging says whose users a database holds, and whose nodes. Sessions, leases and jobs are
// those of one cluster, so it can be those of one domain only, and of one cluster at a time.
type Belonging interface {
	// Claim gives a database that belongs to no domain to this one, and one of this domain that
	// no living node uses to this cluster, unless that is empty. It returns whose it is then.
	Claim(ctx context.Context, domain, cluster string) (Owner, error)
	// Domain returns whose the database is, or nothing.
	Domain(ctx context.Context) (string, error)
}

// Store is everything that the database remembers. Open returns the SQL
// implementation; storetest holds the suite that an implementation must pass.
type Store interface {
	Accounts
	Rosters
	Timelines
	Archives
	Sessions
	Resumption
	Blocklists
	Personal
	Tokens
	Transfers
	Administration
	Belonging
	// Ping reports whether the database answers.
	Ping(ctx context.Context) error
	Close() error
}
