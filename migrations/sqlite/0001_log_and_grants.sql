-- The log of events, and the grants it adds up to. Times are microseconds since 1970, UTC. `revision` is the number of an
-- event: 1, 2, 3 and so on over all tenants, in the order of commits.

-- Marks the file as ours ("SuAc"), so that we never touch a database of something else.
PRAGMA application_id = 1400193379;

-- The end of the log: one row, written by every change.
CREATE TABLE head (
    id       INTEGER NOT NULL PRIMARY KEY CHECK (id = 1), -- there is one row
    revision INTEGER NOT NULL CHECK (revision >= 0),      -- of the last event; 0 if there is none
    time     INTEGER,                                     -- of the last event, so that the log's time never runs backwards
    epoch    TEXT NOT NULL CHECK (length(epoch) = 36)     -- names this log for ever: a UUID made with the database
) STRICT;

INSERT INTO head (id, revision, time, epoch)
SELECT 1, 0, NULL, substr(hex, 1, 8) || '-' || substr(hex, 9, 4) || '-4' || substr(hex, 14, 3) || '-8' || substr(hex, 18, 3)
    || '-' || substr(hex, 21)
FROM (SELECT lower(hex(randomblob(16))) AS hex);

-- The log: what happened. Permanent.
CREATE TABLE events (
    revision  INTEGER NOT NULL PRIMARY KEY CHECK (revision > 0), -- its place in the log
    tenant_id TEXT NOT NULL,                                     -- whose history it belongs to
    time      INTEGER NOT NULL,                                  -- when it was committed
    actor     TEXT NOT NULL,                                     -- who did it
    reason    TEXT NOT NULL,                                     -- why; may be empty
    kind      TEXT NOT NULL,                                     -- what happened, in a word
    grant_id  TEXT,                                              -- the grant it is about, if it is about one
    body      TEXT NOT NULL CHECK (json_valid(body))             -- what happened, whole: the kind, and the grant or policy it left
) STRICT;

-- A tenant's history (the revision is part of every index), and a grant's.
CREATE INDEX events_of_tenant ON events (tenant_id);
CREATE INDEX events_of_grant ON events (tenant_id, grant_id);

-- Every grant, as its last event left it. Kept in the order of lists.
CREATE TABLE grants (
    tenant_id       TEXT NOT NULL,                                         -- who lets in
    create_revision INTEGER NOT NULL REFERENCES events (revision),         -- the event that made it: its place in lists
    revision        INTEGER NOT NULL CHECK (revision >= create_revision),  -- the last event that changed it
    ended_revision  INTEGER,                                               -- the event that ended it; NULL while none has
    grant_id        TEXT NOT NULL UNIQUE CHECK (length(grant_id) = 36),    -- its UUID
    group_id        TEXT NOT NULL,                                         -- the group that is let in
    agent_ids       TEXT NOT NULL CHECK (json_valid(agent_ids)),           -- only these agents, a JSON array; empty: all
    access_level    INTEGER NOT NULL CHECK (access_level BETWEEN 1 AND 3), -- 1 READ_ONLY, 2 READ_WRITE, 3 ADMIN
    start_time      INTEGER NOT NULL,                                      -- the first moment of access
    expire_time     INTEGER,                                               -- the first moment without; NULL: until revoked
    revoke_time     INTEGER,                                               -- when it was revoked, if it was
    reason          TEXT NOT NULL,                                         -- why it was made; may be empty
    ticket          TEXT NOT NULL,                                         -- the ticket it belongs to; may be empty
    create_time     INTEGER NOT NULL,                                      -- when it was made
    creator         TEXT NOT NULL,                                         -- by whom
    revoker         TEXT,                                                  -- by whom it was revoked
    revoke_reason   TEXT,                                                  -- why it was revoked
    PRIMARY KEY (tenant_id, create_revision),
    CHECK (ended_revision IS NULL OR coalesce(revoke_time, expire_time) IS NOT NULL),
    CHECK ((revoker IS NULL) = (revoke_time IS NULL) AND (revoke_reason IS NULL) = (revoke_time IS NULL))
) STRICT, WITHOUT ROWID;

-- A tenant's list by group and by state: each holds exactly the rows of an answer, in its order.
CREATE INDEX grants_of_group ON grants (tenant_id, group_id, create_revision);
CREATE INDEX grants_live ON grants (tenant_id, create_revision) WHERE ended_revision IS NULL;
CREATE INDEX grants_revoked ON grants (tenant_id, create_revision) WHERE revoke_time IS NOT NULL;
CREATE INDEX grants_unrevoked ON grants (tenant_id, create_revision) WHERE revoke_time IS NULL;
-- What the sweep asks for: the grants that end next.
CREATE INDEX grants_due ON grants (expire_time, create_revision) WHERE ended_revision IS NULL AND expire_time IS NOT NULL;

-- The agents that grants name, to list grants by agent.
CREATE TABLE grant_agents (
    tenant_id       TEXT NOT NULL,    -- who lets in
    agent_id        TEXT NOT NULL,    -- the agent named
    create_revision INTEGER NOT NULL, -- the grant that names it
    PRIMARY KEY (tenant_id, agent_id, create_revision),
    FOREIGN KEY (tenant_id, create_revision) REFERENCES grants (tenant_id, create_revision)
) STRICT, WITHOUT ROWID;

-- Of the grants that an event has ended, the latest of each tenant and group by (end_time, access_level, grant_id):
-- what a check node needs to explain a denial, found without reading the history.
CREATE TABLE latest_ended (
    tenant_id       TEXT NOT NULL,    -- who let in
    group_id        TEXT NOT NULL,    -- the group that was let in
    end_time        INTEGER NOT NULL, -- when the grant was revoked or expired
    access_level    INTEGER NOT NULL, -- its level, as in grants
    grant_id        TEXT NOT NULL,    -- its UUID
    create_revision INTEGER NOT NULL, -- where it is in grants
    PRIMARY KEY (tenant_id, group_id),
    FOREIGN KEY (tenant_id, create_revision) REFERENCES grants (tenant_id, create_revision)
) STRICT, WITHOUT ROWID;

-- What request ids were used for, remembered as long as the grant.
CREATE TABLE requests (
    tenant_id   TEXT NOT NULL,                                    -- whose id it is
    request_id  TEXT NOT NULL,                                    -- as the caller chose it
    fingerprint BLOB NOT NULL CHECK (length(fingerprint) = 32),   -- SHA-256 of the request's content
    revision    INTEGER NOT NULL REFERENCES events (revision),    -- the event it made
    PRIMARY KEY (tenant_id, request_id)
) STRICT, WITHOUT ROWID;

-- Each tenant's own policy settings, as its last policy event left them.
CREATE TABLE policy_overrides (
    tenant_id TEXT NOT NULL PRIMARY KEY,                     -- whose policy it is
    revision  INTEGER NOT NULL REFERENCES events (revision), -- the event that made it so
    body      TEXT NOT NULL CHECK (json_valid(body))         -- the settings
) STRICT, WITHOUT ROWID;

-- History is permanent, whoever asks. (The trigger on INSERT also refuses INSERT OR REPLACE, and a gap.)
CREATE TRIGGER events_follow_each_other BEFORE INSERT ON events
WHEN NEW.revision <> (SELECT coalesce(max(revision), 0) + 1 FROM events)
BEGIN SELECT RAISE(ABORT, 'history is permanent: an event must take the next revision'); END;

CREATE TRIGGER events_are_never_updated BEFORE UPDATE ON events
BEGIN SELECT RAISE(ABORT, 'history is permanent: events are never updated'); END;

CREATE TRIGGER events_are_never_deleted BEFORE DELETE ON events
BEGIN SELECT RAISE(ABORT, 'history is permanent: events are never deleted'); END;

CREATE TRIGGER grants_are_never_deleted BEFORE DELETE ON grants
BEGIN SELECT RAISE(ABORT, 'history is permanent: grants are never deleted'); END;

CREATE TRIGGER requests_are_never_updated BEFORE UPDATE ON requests
BEGIN SELECT RAISE(ABORT, 'history is permanent: requests are never updated'); END;

CREATE TRIGGER requests_are_never_deleted BEFORE DELETE ON requests
BEGIN SELECT RAISE(ABORT, 'history is permanent: requests are never deleted'); END;

CREATE TRIGGER head_is_never_deleted BEFORE DELETE ON head
BEGIN SELECT RAISE(ABORT, 'history is permanent: the head is never deleted'); END;

CREATE TRIGGER head_never_goes_back BEFORE UPDATE ON head
WHEN NEW.revision < OLD.revision OR NEW.time < OLD.time OR NEW.epoch <> OLD.epoch
BEGIN SELECT RAISE(ABORT, 'history is permanent: the head never goes back'); END;
