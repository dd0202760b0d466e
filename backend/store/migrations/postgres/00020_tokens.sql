-- What clients log in with instead of a password (XEP-0484).

-- +goose Up
CREATE TABLE tokens (
    owner     bigint  NOT NULL,
    client    text    COLLATE "C" NOT NULL, -- the id that it gives itself
    secret    bytea   NOT NULL,
    mechanism text    COLLATE "C" NOT NULL,
    issued    bigint  NOT NULL,
    expires   bigint  NOT NULL,
    count     bigint  NOT NULL, -- the highest of a login, 0 for none
    used      boolean NOT NULL,
    PRIMARY KEY (owner, client, secret)
);

-- Logins that began earlier get no token: the credentials were replaced then.
ALTER TABLE accounts ADD COLUMN tokens_since bigint NOT NULL DEFAULT 0;
