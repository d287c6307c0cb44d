-- The roll of check nodes, and what was proven of the enforcement of changes. Lengths of time are microseconds.

-- The longest that any registered check node may answer from one proof: here, so that a change that locks the row learns it.
ALTER TABLE head ADD COLUMN max_staleness INTEGER NOT NULL DEFAULT 0 CHECK (max_staleness >= 0);

-- The roll: the check nodes that talk to the database. A node that has no row can prove nothing, and so allows nothing.
CREATE TABLE check_node (
    node_id        TEXT NOT NULL PRIMARY KEY CHECK (length(node_id) = 36), -- its UUID, made when its process started
    seq            INTEGER NOT NULL CHECK (seq >= 0),                      -- how often it has renewed
    acked_revision INTEGER NOT NULL CHECK (acked_revision >= 0),           -- it, and all that it feeds, answer from this or later
    nodes          INTEGER NOT NULL CHECK (nodes >= 0),                    -- how many nodes that is; 0 before the first word
    nodes_lapsed   INTEGER NOT NULL CHECK (nodes_lapsed >= 0),             -- how many more can no longer allow anything
    max_staleness  INTEGER NOT NULL CHECK (max_staleness >= 0),            -- for how long it may answer from one proof
    version        TEXT NOT NULL,                                          -- of its program
    renew_time     INTEGER NOT NULL,                                       -- when it last renewed, or else registered
    report         TEXT NOT NULL CHECK (json_valid(report))                -- the nodes that it feeds, a JSON array; for people
) STRICT, WITHOUT ROWID;

-- The changes that were proven to be in force at every check node. Permanent.
CREATE TABLE enforcements (
    last_revision      INTEGER NOT NULL PRIMARY KEY REFERENCES events (revision),           -- the last event of the change
    first_revision     INTEGER NOT NULL CHECK (first_revision BETWEEN 1 AND last_revision), -- the first event of the change
    elapsed            INTEGER NOT NULL CHECK (elapsed >= 0),                               -- from the commit until that was known
    nodes_acknowledged INTEGER NOT NULL CHECK (nodes_acknowledged >= 0),                    -- nodes that confirmed it
    nodes_lapsed       INTEGER NOT NULL CHECK (nodes_lapsed >= 0)                           -- nodes that could no longer allow anything
) STRICT;

-- The first word on a change is kept. (This is for INSERT OR REPLACE, which no other trigger sees.)
CREATE TRIGGER enforcements_are_never_replaced BEFORE INSERT ON enforcements
WHEN EXISTS (SELECT 1 FROM enforcements WHERE last_revision = NEW.last_revision)
BEGIN SELECT RAISE(IGNORE); END;

CREATE TRIGGER enforcements_are_never_updated BEFORE UPDATE ON enforcements
BEGIN SELECT RAISE(ABORT, 'history is permanent: enforcements are never updated'); END;

CREATE TRIGGER enforcements_are_never_deleted BEFORE DELETE ON enforcements
BEGIN SELECT RAISE(ABORT, 'history is permanent: enforcements are never deleted'); END;
