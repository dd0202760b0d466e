-- Whose timeline is still to be cleared, so that a deletion that was interrupted can be
-- done again under the name that it had.

-- +goose Up
ALTER TABLE purges ADD COLUMN name text NOT NULL DEFAULT '';
