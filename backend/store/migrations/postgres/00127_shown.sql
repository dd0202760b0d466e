-- To whom a session has shown itself that does not see it otherwise, as its node writes it: they are told of its end, whoever announces it.

-- +goose Up
ALTER TABLE sessions ADD COLUMN shown text NOT NULL DEFAULT '';
ALTER TABLE reaped ADD COLUMN shown text NOT NULL DEFAULT '';
