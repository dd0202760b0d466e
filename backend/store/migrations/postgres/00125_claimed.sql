-- Up to which entry the client of a session had all that was for its user, but for what was for the user's other clients: what
-- it does not get again when it becomes available once more.

-- +goose Up
ALTER TABLE resumables ADD COLUMN claimed bigint NOT NULL DEFAULT 0;
