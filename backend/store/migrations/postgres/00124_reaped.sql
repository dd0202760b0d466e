-- Sessions of dead nodes that have been ended, until their users' contacts have been told.

-- +goose Up
CREATE TABLE reaped (
    session  text   COLLATE "C" PRIMARY KEY,
    owner    bigint NOT NULL,
    resource text   COLLATE "C" NOT NULL,
    lease    bigint NOT NULL, -- of the node that is about to tell them
    state    bytea  NOT NULL
);
