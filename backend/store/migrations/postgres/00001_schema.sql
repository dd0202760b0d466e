-- Times are milliseconds since 1970-01-01 UTC. Names are compared by their bytes.
-- Rows that change with each message leave room beside them for their next
-- version, so that no index has to be touched.

-- +goose Up
CREATE TABLE accounts (
    owner          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- never given twice
    name           text   COLLATE "C" NOT NULL UNIQUE,              -- canonical bare JID
    created        bigint NOT NULL,
    roster_version bigint NOT NULL DEFAULT 0
);

CREATE TABLE credentials (
    owner      bigint NOT NULL,
    mechanism  text   COLLATE "C" NOT NULL,
    salt       bytea  NOT NULL,
    iterations bigint NOT NULL,
    stored_key bytea  NOT NULL,
    server_key bytea  NOT NULL,
    PRIMARY KEY (owner, mechanism)
);

CREATE TABLE roster_items (
    owner        bigint   NOT NULL,
    contact      text     COLLATE "C" NOT NULL,
    name         text     NOT NULL,
    group_names  text     NOT NULL, -- a JSON array
    subscription smallint NOT NULL, -- bits: 1 to, 2 from
    ask          boolean  NOT NULL,
    approved     boolean  NOT NULL,
    pending_in   bytea,
    in_roster    boolean  NOT NULL,
    version      bigint   NOT NULL,
    PRIMARY KEY (owner, contact)
);

-- One row for each timeline. It exists as long as its owner does: an append to a
-- timeline without a head is refused.
CREATE TABLE heads (
    owner     bigint PRIMARY KEY,
    head      bigint NOT NULL DEFAULT 0, -- number of the last entry
    time      bigint NOT NULL DEFAULT 0, -- of the last entry
    delivered bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- There is no index on time: it does not go backwards within an owner, so a
-- time is found by binary search on seq.
CREATE TABLE entries (
    owner    bigint  NOT NULL,
    seq      bigint  NOT NULL,
    time     bigint  NOT NULL,
    peer     text    COLLATE "C" NOT NULL,
    sent     boolean NOT NULL,
    resource text    COLLATE "C" NOT NULL,
    stanza   bytea   NOT NULL,
    PRIMARY KEY (owner, seq)
) PARTITION BY HASH (owner);
CREATE INDEX entries_by_peer ON entries (owner, peer, seq);

-- +goose StatementBegin
DO $$
BEGIN
    FOR i IN 0..31 LOOP
        EXECUTE format('CREATE TABLE entries_%s PARTITION OF entries FOR VALUES WITH (MODULUS 32, REMAINDER %s)', i, i);
    END LOOP;
END
$$;
-- +goose StatementEnd

-- Timelines of deleted accounts that are still to be cleared.
CREATE TABLE purges (owner bigint PRIMARY KEY);

-- One row for each run of a node that is alive or has left sessions behind. The
-- lease is here and not on each session, so that renewing it is one small write.
CREATE TABLE leases (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    node        text   COLLATE "C" NOT NULL,
    incarnation text   COLLATE "C" NOT NULL,
    until       bigint NOT NULL, -- 0: over
    UNIQUE (node, incarnation)
) WITH (fillfactor = 50);

-- Narrow: the handled count changes with each message.
CREATE TABLE sessions (
    id       text   COLLATE "C" PRIMARY KEY,
    owner    bigint NOT NULL,
    resource text   COLLATE "C" NOT NULL,
    lease    bigint NOT NULL,
    epoch    bigint NOT NULL,
    handled  bigint NOT NULL,
    created  bigint NOT NULL,
    UNIQUE (owner, resource)
) WITH (fillfactor = 50);
CREATE INDEX sessions_by_lease ON sessions (lease);
