-- What an administrator says of an account, and when its user logged in last.

-- +goose Up
ALTER TABLE accounts ADD COLUMN role            INTEGER NOT NULL DEFAULT 0; -- 0 user, 1 moderator, 2 admin
ALTER TABLE accounts ADD COLUMN suspended       INTEGER NOT NULL DEFAULT 0;
ALTER TABLE accounts ADD COLUMN suspend_reason  TEXT    NOT NULL DEFAULT '';
ALTER TABLE accounts ADD COLUMN suspended_until INTEGER NOT NULL DEFAULT 0; -- 0: until somebody says otherwise
ALTER TABLE accounts ADD COLUMN last_login      INTEGER NOT NULL DEFAULT 0; -- 0: never
CREATE INDEX accounts_suspended ON accounts (name) WHERE suspended;

-- Accounts that were changed or deleted, for nodes that have sessions of them. The
-- numbers have no gaps, and come into being in their order: one transaction
-- writes at a time.
CREATE TABLE account_changes (
    number INTEGER PRIMARY KEY,
    name   TEXT    NOT NULL
) STRICT;
CREATE TABLE account_change_counter (number INTEGER NOT NULL) STRICT;
INSERT INTO account_change_counter (number) VALUES (0);
