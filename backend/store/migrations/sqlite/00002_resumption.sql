-- What it takes to go on with a session elsewhere (XEP-0198 §5).

-- +goose Up
-- When the lease was over, if until does not say so.
ALTER TABLE leases ADD COLUMN ended INTEGER NOT NULL DEFAULT 0;

-- One row for each session that may be resumed.
-- +goose StatementBegin
CREATE TABLE resumables (
    session TEXT    PRIMARY KEY,
    owner   INTEGER NOT NULL,
    hold    INTEGER NOT NULL, -- milliseconds that it waits for its client
    parked  INTEGER NOT NULL, -- since when it waits; 0: it does not
    count   INTEGER NOT NULL, -- stanzas that the client has acknowledged …
    pos     INTEGER NOT NULL, -- … and the entry up to which it has all
    state   BLOB    NOT NULL,
    note    BLOB
) STRICT;
-- +goose StatementEnd
CREATE INDEX resumables_parked ON resumables (parked) WHERE parked > 0;

-- What a client may still be told of a resumable session that is over.
-- +goose StatementBegin
CREATE TABLE ended_sessions (
    id      TEXT    PRIMARY KEY,
    owner   INTEGER NOT NULL,
    handled INTEGER NOT NULL,
    ended   INTEGER NOT NULL
) STRICT;
-- +goose StatementEnd
CREATE INDEX ended_sessions_by_time ON ended_sessions (ended);
