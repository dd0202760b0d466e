-- What an administrator says of an account, and when its user logged in last.

-- +goose Up
ALTER TABLE accounts
    ADD COLUMN role            smallint NOT NULL DEFAULT 0, -- 0 user, 1 moderator, 2 admin
    ADD COLUMN suspended       boolean  NOT NULL DEFAULT false,
    ADD COLUMN suspend_reason  text     NOT NULL DEFAULT '',
    ADD COLUMN suspended_until bigint   NOT NULL DEFAULT 0, -- 0: until somebody says otherwise
    ADD COLUMN last_login      bigint   NOT NULL DEFAULT 0; -- 0: never
-- Each login changes a row.
ALTER TABLE accounts SET (fillfactor = 90);
CREATE INDEX accounts_suspended ON accounts (name) WHERE suspended;

-- Accounts that were changed or deleted, for nodes that have sessions of them. The
-- numbers have no gaps, and come into being in their order: whoever takes
-- one holds the row of the counter until it commits.
CREATE TABLE account_changes (
    number bigint PRIMARY KEY,
    name   text   COLLATE "C" NOT NULL
);
CREATE TABLE account_change_counter (number bigint NOT NULL);
INSERT INTO account_change_counter (number) VALUES (0);
