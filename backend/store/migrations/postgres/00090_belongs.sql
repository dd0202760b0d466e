-- Whose users are here: the domain of the nodes that share the database.

-- +goose Up
CREATE TABLE belongs (
	one    integer PRIMARY KEY CHECK (one = 1), -- there is one row at most
	domain text NOT NULL
);
