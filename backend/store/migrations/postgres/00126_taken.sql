-- When a session was resumed for the last time, by the clock of the database; 0: never.

-- +goose Up
ALTER TABLE resumables ADD COLUMN taken bigint NOT NULL DEFAULT 0;
