-- What a client that resumes its session has missed of its roster and its blocklist.

-- +goose Up
-- The versions up to which the client has acknowledged that it was told. Sessions that are there are taken as
-- told all so far.
ALTER TABLE resumables ADD COLUMN roster bigint NOT NULL DEFAULT 0;
ALTER TABLE resumables ADD COLUMN blocklist bigint NOT NULL DEFAULT 0;
UPDATE resumables SET
    roster = COALESCE((SELECT a.roster_version FROM accounts a WHERE a.owner = resumables.owner), 0),
    blocklist = COALESCE((SELECT b.version FROM blocklists b WHERE b.owner = resumables.owner), 0);

-- Contacts that clients saw and do not any more, with the version since which.
CREATE TABLE roster_removals (
    owner   bigint NOT NULL,
    contact text   COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    PRIMARY KEY (owner, contact)
);
