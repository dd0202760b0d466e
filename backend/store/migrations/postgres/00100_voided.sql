-- Up to which stanza the places on the timeline that were told of a session are none any more: its
-- cursor went back after it.

-- +goose Up
ALTER TABLE resumables ADD COLUMN voided bigint NOT NULL DEFAULT 0;
