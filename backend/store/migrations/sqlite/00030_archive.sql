-- +goose Up
-- An entry that is hidden is delivered, but is not part of the archive.
ALTER TABLE entries ADD COLUMN hidden INTEGER NOT NULL DEFAULT 0;
CREATE INDEX entries_hidden ON entries (owner, seq) WHERE hidden;

ALTER TABLE heads ADD COLUMN floor INTEGER NOT NULL DEFAULT 0;  -- entries up to it have been removed
ALTER TABLE heads ADD COLUMN choosy INTEGER NOT NULL DEFAULT 0; -- the owner has a row in archive_prefs

-- What archives left out before there was a mark for it: messages that must not be
-- kept for good, and one of the two entries of a message to oneself.
UPDATE entries SET hidden = 1 WHERE instr(stanza, CAST('<no-permanent-store' AS BLOB)) > 0;
UPDATE entries SET hidden = 1 FROM accounts
    WHERE accounts.owner = entries.owner AND entries.sent AND entries.peer = accounts.name;

-- +goose StatementBegin
CREATE TABLE archive_prefs (
    owner    INTEGER PRIMARY KEY,
    fallback INTEGER NOT NULL, -- 0 always, 1 never, 2 those in the roster
    always   TEXT    NOT NULL, -- a JSON array of addresses
    never    TEXT    NOT NULL
) STRICT;
-- +goose StatementEnd

-- When what one node does for all has to be done next.
-- +goose StatementBegin
CREATE TABLE jobs (
    name TEXT    PRIMARY KEY,
    due  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
-- +goose StatementEnd
