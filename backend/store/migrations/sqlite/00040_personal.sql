-- What a user keeps on the server beside its roster. Everything goes with the account.

-- +goose Up
-- The addresses that a user has blocked. One row for a list: it is read as a whole.
-- +goose StatementBegin
CREATE TABLE blocklists (
    owner     INTEGER PRIMARY KEY,
    version   INTEGER NOT NULL,
    addresses TEXT    NOT NULL -- a JSON array, sorted
) STRICT;
-- +goose StatementEnd

-- What clients keep under a namespace of theirs (XEP-0049).
-- +goose StatementBegin
CREATE TABLE private_xml (
    owner INTEGER NOT NULL,
    space TEXT    NOT NULL,
    xml   BLOB    NOT NULL,
    PRIMARY KEY (owner, space)
) STRICT;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TABLE vcards (
    owner INTEGER PRIMARY KEY,
    vcard BLOB    NOT NULL
) STRICT;
-- +goose StatementEnd
