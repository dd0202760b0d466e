-- Which point it is that is stored of a session: the epoch of whoever has reckoned it, times 2^32, and the number that it
-- has there. Of two the higher counts, in whatever order they are stored.

-- +goose Up
ALTER TABLE resumables ADD COLUMN point INTEGER NOT NULL DEFAULT 0;

-- With the point: the node's own notes of what the client has received out of turn.
ALTER TABLE resumables ADD COLUMN early BLOB;
