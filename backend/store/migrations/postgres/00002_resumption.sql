-- What it takes to go on with a session elsewhere (XEP-0198 §5).

-- +goose Up
-- When the lease was over, if until does not say so.
ALTER TABLE leases ADD COLUMN ended bigint NOT NULL DEFAULT 0;

-- One row for each session that may be resumed.
CREATE TABLE resumables (
    session text   COLLATE "C" PRIMARY KEY,
    owner   bigint NOT NULL,
    hold    bigint NOT NULL, -- milliseconds that it waits for its client
    parked  bigint NOT NULL, -- since when it waits; 0: it does not
    count   bigint NOT NULL, -- stanzas that the client has acknowledged …
    pos     bigint NOT NULL, -- … and the entry up to which it has all
    state   bytea  NOT NULL,
    note    bytea
) WITH (fillfactor = 50);
CREATE INDEX resumables_parked ON resumables (parked) WHERE parked > 0;

-- What a client may still be told of a resumable session that is over.
CREATE TABLE ended_sessions (
    id      text   COLLATE "C" PRIMARY KEY,
    owner   bigint NOT NULL,
    handled bigint NOT NULL,
    ended   bigint NOT NULL
);
CREATE INDEX ended_sessions_by_time ON ended_sessions (ended);
