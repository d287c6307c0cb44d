-- The roll of check nodes, and what was proven of the enforcement of changes. Lengths of time are microseconds.

ALTER TABLE head ADD COLUMN max_staleness bigint NOT NULL DEFAULT 0 CHECK (max_staleness >= 0);

COMMENT ON COLUMN head.max_staleness IS
    'The longest that any registered check node may answer from one proof: here, so that a change that locks the row learns it.';

CREATE TABLE check_node (
    node_id        text COLLATE "C" PRIMARY KEY CHECK (length(node_id) = 36),
    seq            bigint NOT NULL CHECK (seq >= 0),
    acked_revision bigint NOT NULL CHECK (acked_revision >= 0),
    nodes          bigint NOT NULL CHECK (nodes >= 0),
    nodes_lapsed   bigint NOT NULL CHECK (nodes_lapsed >= 0),
    max_staleness  bigint NOT NULL CHECK (max_staleness >= 0),
    version        text COLLATE "C" NOT NULL,
    renew_time     bigint NOT NULL,
    report         text COLLATE "C" NOT NULL CHECK (report::json IS NOT NULL)
) WITH (fillfactor = 10); -- updated all the time: leave room on its pages

COMMENT ON TABLE check_node IS
    'The roll: the check nodes that talk to the database. A node that has no row can prove nothing, and so allows nothing.';
COMMENT ON COLUMN check_node.node_id IS 'Its UUID, made when its process started.';
COMMENT ON COLUMN check_node.seq IS 'How often it has renewed. A row is struck off only if this has not moved.';
COMMENT ON COLUMN check_node.acked_revision IS 'It, and all that it feeds, answer from this revision or later.';
COMMENT ON COLUMN check_node.nodes IS 'How many nodes that is; 0 before it has acknowledged anything.';
COMMENT ON COLUMN check_node.nodes_lapsed IS 'How many more were not heard from, and can no longer allow anything.';
COMMENT ON COLUMN check_node.max_staleness IS 'For how long it may answer from one proof.';
COMMENT ON COLUMN check_node.version IS 'The version of its program.';
COMMENT ON COLUMN check_node.renew_time IS 'When it last renewed, or else registered, by the database''s clock.';
COMMENT ON COLUMN check_node.report IS 'The nodes that it feeds, a JSON array. For people.';

CREATE TABLE enforcements (
    last_revision      bigint PRIMARY KEY REFERENCES events (revision),
    first_revision     bigint NOT NULL CHECK (first_revision BETWEEN 1 AND last_revision),
    elapsed            bigint NOT NULL CHECK (elapsed >= 0),
    nodes_acknowledged bigint NOT NULL CHECK (nodes_acknowledged >= 0),
    nodes_lapsed       bigint NOT NULL CHECK (nodes_lapsed >= 0)
);

COMMENT ON TABLE enforcements IS 'The changes that were proven to be in force at every check node. Permanent.';
COMMENT ON COLUMN enforcements.last_revision IS 'The last event of the change.';
COMMENT ON COLUMN enforcements.first_revision IS 'The first event of the change.';
COMMENT ON COLUMN enforcements.elapsed IS 'From the commit until that was known.';
COMMENT ON COLUMN enforcements.nodes_acknowledged IS 'Nodes that confirmed it.';
COMMENT ON COLUMN enforcements.nodes_lapsed IS 'Nodes that were not heard from, and could no longer allow anything.';

CREATE TRIGGER enforcements_are_permanent BEFORE UPDATE OR DELETE OR TRUNCATE ON enforcements
    FOR EACH STATEMENT EXECUTE FUNCTION history_is_permanent();
