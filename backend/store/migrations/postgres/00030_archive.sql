-- +goose Up
-- An entry that is hidden is delivered, but is not part of the archive.
ALTER TABLE entries ADD COLUMN hidden boolean NOT NULL DEFAULT false;
CREATE INDEX entries_hidden ON entries (owner, seq) WHERE hidden;

ALTER TABLE heads
    ADD COLUMN floor  bigint  NOT NULL DEFAULT 0,     -- entries up to it have been removed
    ADD COLUMN choosy boolean NOT NULL DEFAULT false; -- the owner has a row in archive_prefs

-- What archives left out before there was a mark for it: messages that must not be
-- kept for good, and one of the two entries of a message to oneself.
UPDATE entries SET hidden = true WHERE position('<no-permanent-store'::bytea IN stanza) > 0;
UPDATE entries SET hidden = true FROM accounts
    WHERE accounts.owner = entries.owner AND entries.sent AND entries.peer = accounts.name;

CREATE TABLE archive_prefs (
    owner    bigint   PRIMARY KEY,
    fallback smallint NOT NULL, -- 0 always, 1 never, 2 those in the roster
    always   text     NOT NULL, -- a JSON array of addresses
    never    text     NOT NULL
);

-- When what one node does for all has to be done next.
CREATE TABLE jobs (
    name text   COLLATE "C" PRIMARY KEY,
    due  bigint NOT NULL
);
