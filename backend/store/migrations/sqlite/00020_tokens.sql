-- What clients log in with instead of a password (XEP-0484).

-- +goose Up
-- +goose StatementBegin
CREATE TABLE tokens (
    owner     INTEGER NOT NULL,
    client    TEXT    NOT NULL, -- the id that it gives itself
    secret    BLOB    NOT NULL,
    mechanism TEXT    NOT NULL,
    issued    INTEGER NOT NULL,
    expires   INTEGER NOT NULL,
    count     INTEGER NOT NULL, -- the highest of a login, 0 for none
    used      INTEGER NOT NULL,
    PRIMARY KEY (owner, client, secret)
) STRICT, WITHOUT ROWID;
-- +goose StatementEnd

-- Logins that began earlier get no token: the credentials were replaced then.
ALTER TABLE accounts ADD COLUMN tokens_since INTEGER NOT NULL DEFAULT 0;
