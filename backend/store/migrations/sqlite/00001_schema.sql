-- Times are milliseconds since 1970-01-01 UTC.

-- +goose Up
-- +goose StatementBegin
CREATE TABLE accounts (
    owner          INTEGER PRIMARY KEY AUTOINCREMENT, -- never given twice
    name           TEXT    NOT NULL UNIQUE,           -- canonical bare JID
    created        INTEGER NOT NULL,
    roster_version INTEGER NOT NULL DEFAULT 0
) STRICT;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TABLE credentials (
    owner      INTEGER NOT NULL,
    mechanism  TEXT    NOT NULL,
    salt       BLOB    NOT NULL,
    iterations INTEGER NOT NULL,
    stored_key BLOB    NOT NULL,
    server_key BLOB    NOT NULL,
    PRIMARY KEY (owner, mechanism)
) STRICT, WITHOUT ROWID;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TABLE roster_items (
    owner        INTEGER NOT NULL,
    contact      TEXT    NOT NULL,
    name         TEXT    NOT NULL,
    group_names  TEXT    NOT NULL, -- a JSON array
    subscription INTEGER NOT NULL, -- bits: 1 to, 2 from
    ask          INTEGER NOT NULL,
    approved     INTEGER NOT NULL,
    pending_in   BLOB,
    in_roster    INTEGER NOT NULL,
    version      INTEGER NOT NULL,
    PRIMARY KEY (owner, contact)
) STRICT, WITHOUT ROWID;
-- +goose StatementEnd

-- One row for each timeline. It exists as long as its owner does: an append to a
-- timeline without a head is refused.
-- +goose StatementBegin
CREATE TABLE heads (
    owner     INTEGER PRIMARY KEY,
    head      INTEGER NOT NULL DEFAULT 0, -- number of the last entry
    time      INTEGER NOT NULL DEFAULT 0, -- of the last entry
    delivered INTEGER NOT NULL DEFAULT 0
) STRICT;
-- +goose StatementEnd

-- There is no index on time: it does not go backwards within an owner, so a
-- time is found by binary search on seq.
-- +goose StatementBegin
CREATE TABLE entries (
    owner    INTEGER NOT NULL,
    seq      INTEGER NOT NULL,
    time     INTEGER NOT NULL,
    peer     TEXT    NOT NULL,
    sent     INTEGER NOT NULL,
    resource TEXT    NOT NULL,
    stanza   BLOB    NOT NULL,
    PRIMARY KEY (owner, seq)
) STRICT;
-- +goose StatementEnd
CREATE INDEX entries_by_peer ON entries (owner, peer, seq);

-- Timelines of deleted accounts that are still to be cleared.
CREATE TABLE purges (owner INTEGER PRIMARY KEY) STRICT;

-- One row for each run of a node that is alive or has left sessions behind. The
-- lease is here and not on each session, so that renewing it is one small write.
-- +goose StatementBegin
CREATE TABLE leases (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    node        TEXT    NOT NULL,
    incarnation TEXT    NOT NULL,
    until       INTEGER NOT NULL, -- 0: over
    UNIQUE (node, incarnation)
) STRICT;
-- +goose StatementEnd

-- Narrow: the handled count changes with each message.
-- +goose StatementBegin
CREATE TABLE sessions (
    id       TEXT    PRIMARY KEY,
    owner    INTEGER NOT NULL,
    resource TEXT    NOT NULL,
    lease    INTEGER NOT NULL,
    epoch    INTEGER NOT NULL,
    handled  INTEGER NOT NULL,
    created  INTEGER NOT NULL,
    UNIQUE (owner, resource)
) STRICT, WITHOUT ROWID;
-- +goose StatementEnd
CREATE INDEX sessions_by_lease ON sessions (lease);
