-- What a user keeps on the server beside its roster. Everything goes with the account.

-- +goose Up
-- The addresses that a user has blocked. One row for a list: it is read as a whole.
CREATE TABLE blocklists (
    owner     bigint PRIMARY KEY,
    version   bigint NOT NULL,
    addresses text   NOT NULL -- a JSON array, sorted
);

-- What clients keep under a namespace of theirs (XEP-0049).
CREATE TABLE private_xml (
    owner bigint NOT NULL,
    space text   COLLATE "C" NOT NULL,
    xml   bytea  NOT NULL,
    PRIMARY KEY (owner, space)
);

CREATE TABLE vcards (
    owner bigint PRIMARY KEY,
    vcard bytea  NOT NULL
);
