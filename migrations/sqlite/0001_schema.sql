-- The schema of support-access.
--
-- Times are microseconds since 1970 UTC, and durations are microseconds. A tenant_id of '' stands
-- for the vendor's own history.
--
-- Two numbers order events. The revision counts all events of the log; it is internal. The sequence
-- counts the events of one history, of a tenant or of the vendor.
--
-- Names: tables are plural, except head and trusted_time, which have one row. Constraints and
-- indexes are named <table>_<columns or rule>_<check|key|pkey|fkey|idx>, triggers <table>_<rule>.

-- Marks the file as a database of support-access ("SuAc").
PRAGMA application_id = 1400193379;

-- The end of the log: one row, which every change updates.
CREATE TABLE head (
    id            INTEGER NOT NULL, -- always 1
    log_name      TEXT NOT NULL,    -- the permanent name of the log: a UUID that is part of every record
    epoch         TEXT NOT NULL,    -- the current incarnation of the log: a UUID; replaced after a restore or an accepted clock
    token_key     BLOB NOT NULL,    -- the secret key of consistency tokens; replaced together with the epoch
    event_key_id  BLOB,             -- identifies the event key, which is not in the database; NULL: none was used yet
    state_nonce   BLOB,             -- the nonce of the mask of state_sum; replaced by every change
    state_sum     BLOB,             -- the masked sum over all live grants, latest ended grants, live locks and overrides
    revision      INTEGER NOT NULL, -- the revision of the last event; 0: the log is empty
    time          INTEGER,          -- the time of the last event; only an event that accepts the clock may be earlier
    max_staleness INTEGER NOT NULL, -- the longest lifetime of a lease among the registered nodes
    CONSTRAINT head_pkey PRIMARY KEY (id),
    CONSTRAINT head_id_check CHECK (id = 1),
    CONSTRAINT head_log_name_check CHECK (length(log_name) = 36),
    CONSTRAINT head_epoch_check CHECK (length(epoch) = 36),
    CONSTRAINT head_token_key_check CHECK (length(token_key) = 16),
    CONSTRAINT head_revision_check CHECK (revision >= 0),
    CONSTRAINT head_time_check CHECK ((time IS NULL) = (revision = 0)),
    CONSTRAINT head_max_staleness_check CHECK (max_staleness >= 0),
    CONSTRAINT head_state_check CHECK ((event_key_id IS NULL) = (state_nonce IS NULL)
        AND (event_key_id IS NULL) = (state_sum IS NULL))
) STRICT;

INSERT INTO head (id, log_name, epoch, token_key, revision, time, max_staleness)
SELECT 1,
    -- Two random UUIDs of version 4.
    substr(a, 1, 8) || '-' || substr(a, 9, 4) || '-4' || substr(a, 14, 3) || '-8' || substr(a, 18, 3) || '-' || substr(a, 21),
    substr(b, 1, 8) || '-' || substr(b, 9, 4) || '-4' || substr(b, 14, 3) || '-8' || substr(b, 18, 3) || '-' || substr(b, 21),
    randomblob(16), 0, NULL, 0
FROM (SELECT lower(hex(randomblob(16))) AS a, lower(hex(randomblob(16))) AS b);

-- The log: one row for each event. Permanent.
CREATE TABLE events (
    revision       INTEGER NOT NULL, -- the position in the log: 1, 2, 3 and so on, without gaps; internal
    tenant_id      TEXT NOT NULL,    -- the tenant whose history contains the event; '': the vendor's own history
    sequence       INTEGER NOT NULL, -- the position in that history: 1, 2, 3 and so on, without gaps
    hash           BLOB NOT NULL,    -- the SHA-256 of the event and of the previous hash of the history (docs/history.md)
    time           INTEGER NOT NULL, -- when the event was committed
    actor          TEXT NOT NULL,    -- the caller that made the change
    via            TEXT,             -- the service through which the actor called: the name in the certificate of the service
    actor_asserted INTEGER NOT NULL, -- 1: that service only named the actor, without proof
    reason         TEXT NOT NULL,    -- the caller's reason; may be empty
    kind           TEXT NOT NULL,    -- the kind of change, in one word
    grant_id       TEXT,             -- the grant that the event is about
    lock_id        TEXT,             -- the lock that the event is about
    body           TEXT NOT NULL,    -- the change, as JSON: the kind, and the grant, lock or policy after the event
    mac            BLOB NOT NULL,    -- the HMAC of the row by the event key
    owner_mac      BLOB NOT NULL,    -- the HMAC of revision and tenant_id by the event key
    CONSTRAINT events_pkey PRIMARY KEY (revision),
    CONSTRAINT events_tenant_id_sequence_key UNIQUE (tenant_id, sequence),
    CONSTRAINT events_revision_check CHECK (revision > 0),
    CONSTRAINT events_sequence_check CHECK (sequence > 0),
    CONSTRAINT events_hash_check CHECK (length(hash) = 32),
    CONSTRAINT events_actor_asserted_check CHECK (actor_asserted IN (0, 1) AND (via IS NOT NULL OR actor_asserted = 0)),
    CONSTRAINT events_kind_check CHECK (kind IN ('granted', 'extended', 'revoked', 'expired', 'policy_updated',
        'locked', 'unlocked', 'lock_expired', 'clock_accepted')),
    CONSTRAINT events_clock_accepted_check CHECK (kind <> 'clock_accepted' OR tenant_id = ''),
    CONSTRAINT events_grant_id_check CHECK ((grant_id IS NOT NULL) = (kind IN ('granted', 'extended', 'revoked', 'expired'))),
    CONSTRAINT events_lock_id_check CHECK ((lock_id IS NOT NULL) = (kind IN ('locked', 'unlocked', 'lock_expired'))),
    CONSTRAINT events_body_check CHECK (json_valid(body)),
    CONSTRAINT events_mac_check CHECK (length(mac) = 32),
    CONSTRAINT events_owner_mac_check CHECK (length(owner_mac) = 32)
) STRICT;

-- The events of a grant and of a lock, and the policy events of a tenant.
CREATE INDEX events_tenant_id_grant_id_sequence_idx ON events (tenant_id, grant_id, sequence) WHERE grant_id IS NOT NULL;
CREATE INDEX events_lock_id_sequence_idx ON events (lock_id, sequence) WHERE lock_id IS NOT NULL;
CREATE INDEX events_policy_tenant_id_sequence_idx ON events (tenant_id, sequence) WHERE kind = 'policy_updated';
-- The accepted clocks.
CREATE INDEX events_clock_accepted_revision_idx ON events (revision) WHERE kind = 'clock_accepted';

-- Every grant after its last event.
CREATE TABLE grants (
    tenant_id       TEXT NOT NULL,    -- the tenant
    create_sequence INTEGER NOT NULL, -- the event that created the grant, in the tenant's history
    sequence        INTEGER NOT NULL, -- the last event that changed the grant, in the tenant's history
    ended_sequence  INTEGER,          -- the event that ended the grant; NULL: no event has
    create_revision INTEGER NOT NULL, -- the event that created the grant, in the log; orders lists over all tenants
    grant_id        TEXT NOT NULL,    -- the grant's UUID
    group_id        TEXT NOT NULL,    -- the support group that may enter
    agent_ids       TEXT NOT NULL,    -- the only agents that may enter, as a JSON array; []: every agent of the group
    access_level    INTEGER NOT NULL, -- the highest level: 1 READ_ONLY, 2 READ_WRITE, 3 ADMIN
    agent_kinds     TEXT NOT NULL,    -- the admitted agent kinds, as a JSON array of entries; never empty
    start_time      INTEGER NOT NULL, -- when access starts (inclusive)
    expire_time     INTEGER,          -- when access ends (exclusive); NULL: until revoked
    revoke_time     INTEGER,          -- when the grant was revoked
    reason          TEXT NOT NULL,    -- the creator's reason; may be empty
    ticket          TEXT NOT NULL,    -- the support ticket; may be empty
    create_time     INTEGER NOT NULL, -- when the grant was created
    creator         TEXT NOT NULL,    -- the caller that created the grant
    revoker         TEXT,             -- the caller that revoked the grant
    revoke_reason   TEXT,             -- the revoker's reason
    CONSTRAINT grants_pkey PRIMARY KEY (tenant_id, create_sequence),
    CONSTRAINT grants_create_revision_key UNIQUE (create_revision),
    CONSTRAINT grants_grant_id_key UNIQUE (grant_id),
    CONSTRAINT grants_create_revision_fkey FOREIGN KEY (create_revision) REFERENCES events (revision),
    CONSTRAINT grants_tenant_id_create_sequence_fkey FOREIGN KEY (tenant_id, create_sequence)
        REFERENCES events (tenant_id, sequence),
    CONSTRAINT grants_tenant_id_sequence_fkey FOREIGN KEY (tenant_id, sequence) REFERENCES events (tenant_id, sequence),
    CONSTRAINT grants_tenant_id_check CHECK (tenant_id <> ''),
    CONSTRAINT grants_sequence_check CHECK (sequence >= create_sequence),
    CONSTRAINT grants_ended_sequence_check CHECK (ended_sequence = sequence AND ended_sequence > create_sequence),
    CONSTRAINT grants_grant_id_check CHECK (length(grant_id) = 36),
    CONSTRAINT grants_agent_ids_check CHECK (json_valid(agent_ids)),
    CONSTRAINT grants_access_level_check CHECK (access_level IN (1, 2, 3)),
    CONSTRAINT grants_agent_kinds_check CHECK (json_valid(agent_kinds) AND agent_kinds <> '[]'),
    CONSTRAINT grants_end_check CHECK (ended_sequence IS NULL OR coalesce(revoke_time, expire_time) IS NOT NULL),
    CONSTRAINT grants_revocation_check CHECK ((revoke_time IS NULL OR ended_sequence IS NOT NULL)
        AND (revoker IS NULL) = (revoke_time IS NULL) AND (revoke_reason IS NULL) = (revoke_time IS NULL))
) STRICT; -- with rowids: otherwise SQLite prefers the primary key to the index of live rows

-- Lists of live grants and of the grants to a group.
CREATE INDEX grants_live_tenant_id_create_sequence_idx ON grants (tenant_id, create_sequence) WHERE ended_sequence IS NULL;
CREATE INDEX grants_live_create_revision_idx ON grants (create_revision) WHERE ended_sequence IS NULL;
CREATE INDEX grants_tenant_id_group_id_create_sequence_idx ON grants (tenant_id, group_id, create_sequence);
-- The limits on live grants to a group, and of a tenant. In the latter, each named agent counts.
CREATE INDEX grants_live_tenant_id_group_id_idx ON grants (tenant_id, group_id) WHERE ended_sequence IS NULL;
CREATE INDEX grants_live_named_tenant_id_idx ON grants (tenant_id) WHERE ended_sequence IS NULL AND agent_ids <> '[]';
-- The grants that end next.
CREATE INDEX grants_live_expire_time_create_revision_idx ON grants (expire_time, create_revision)
    WHERE ended_sequence IS NULL AND expire_time IS NOT NULL;

-- The agents that grants name, for lists by agent.
CREATE TABLE grant_agents (
    tenant_id       TEXT NOT NULL,    -- the tenant of the grant
    agent_id        TEXT NOT NULL,    -- the agent
    create_sequence INTEGER NOT NULL, -- the grant
    CONSTRAINT grant_agents_pkey PRIMARY KEY (tenant_id, agent_id, create_sequence),
    CONSTRAINT grant_agents_tenant_id_create_sequence_fkey FOREIGN KEY (tenant_id, create_sequence)
        REFERENCES grants (tenant_id, create_sequence)
) STRICT, WITHOUT ROWID;

-- The latest ended grant of each tenant and group, by (end_time, access_level, grant_id). Check
-- nodes load these grants to explain denials.
CREATE TABLE latest_ended_grants (
    tenant_id       TEXT NOT NULL,    -- the tenant
    group_id        TEXT NOT NULL,    -- the support group
    end_time        INTEGER NOT NULL, -- when the grant was revoked or expired
    access_level    INTEGER NOT NULL, -- the level of the grant, as in grants
    grant_id        TEXT NOT NULL,    -- the grant's UUID
    create_sequence INTEGER NOT NULL, -- the grant's key in grants
    CONSTRAINT latest_ended_grants_pkey PRIMARY KEY (tenant_id, group_id),
    CONSTRAINT latest_ended_grants_tenant_id_create_sequence_fkey FOREIGN KEY (tenant_id, create_sequence)
        REFERENCES grants (tenant_id, create_sequence),
    CONSTRAINT latest_ended_grants_access_level_check CHECK (access_level IN (1, 2, 3))
) STRICT, WITHOUT ROWID;

-- Every lock after its last event.
CREATE TABLE locks (
    tenant_id       TEXT NOT NULL,    -- the tenant in which the lock applies; '': all tenants
    create_sequence INTEGER NOT NULL, -- the event that created the lock, in its history
    sequence        INTEGER NOT NULL, -- the last event that changed the lock, in its history
    ended_sequence  INTEGER,          -- the event that ended the lock; NULL: no event has
    create_revision INTEGER NOT NULL, -- the event that created the lock, in the log; orders lists over all histories
    lock_id         TEXT NOT NULL,    -- the lock's UUID
    target          TEXT NOT NULL,    -- the kind of target: agent_id, group_id, agent_kind or everything
    target_id       TEXT NOT NULL,    -- the agent, the group, or HUMAN, AI or SERVICE; '' for everything
    party           TEXT NOT NULL,    -- the party that created the lock and may lift it: tenant or vendor
    expire_time     INTEGER,          -- when the lock ends by itself (exclusive); NULL: when a caller lifts the lock
    reason          TEXT NOT NULL,    -- the creator's reason
    create_time     INTEGER NOT NULL, -- when the lock was created
    creator         TEXT NOT NULL,    -- the caller that created the lock
    unlock_time     INTEGER,          -- when the lock was lifted
    unlocker        TEXT,             -- the caller that lifted the lock
    unlock_reason   TEXT,             -- the unlocker's reason
    CONSTRAINT locks_pkey PRIMARY KEY (tenant_id, create_sequence),
    CONSTRAINT locks_create_revision_key UNIQUE (create_revision),
    CONSTRAINT locks_lock_id_key UNIQUE (lock_id),
    CONSTRAINT locks_create_revision_fkey FOREIGN KEY (create_revision) REFERENCES events (revision),
    CONSTRAINT locks_tenant_id_create_sequence_fkey FOREIGN KEY (tenant_id, create_sequence)
        REFERENCES events (tenant_id, sequence),
    CONSTRAINT locks_tenant_id_sequence_fkey FOREIGN KEY (tenant_id, sequence) REFERENCES events (tenant_id, sequence),
    CONSTRAINT locks_sequence_check CHECK (sequence >= create_sequence),
    CONSTRAINT locks_ended_sequence_check CHECK (ended_sequence = sequence AND ended_sequence > create_sequence),
    CONSTRAINT locks_lock_id_check CHECK (length(lock_id) = 36),
    CONSTRAINT locks_target_check CHECK (target IN ('agent_id', 'group_id', 'agent_kind', 'everything')),
    CONSTRAINT locks_target_id_check CHECK ((target_id = '') = (target = 'everything')
        AND (target <> 'agent_kind' OR target_id IN ('HUMAN', 'AI', 'SERVICE'))),
    CONSTRAINT locks_party_check CHECK (party IN ('tenant', 'vendor') AND (party = 'vendor' OR tenant_id <> '')),
    CONSTRAINT locks_end_check CHECK (ended_sequence IS NULL OR coalesce(unlock_time, expire_time) IS NOT NULL),
    CONSTRAINT locks_unlock_check CHECK ((unlock_time IS NULL OR ended_sequence IS NOT NULL)
        AND (unlocker IS NULL) = (unlock_time IS NULL) AND (unlock_reason IS NULL) = (unlock_time IS NULL))
) STRICT; -- with rowids: otherwise SQLite prefers the primary key to the index of live rows

-- Lists of live locks, and the number of live locks of a party.
CREATE INDEX locks_live_tenant_id_create_sequence_idx ON locks (tenant_id, create_sequence) WHERE ended_sequence IS NULL;
CREATE INDEX locks_live_create_revision_idx ON locks (create_revision) WHERE ended_sequence IS NULL;
CREATE INDEX locks_live_party_tenant_id_idx ON locks (party, tenant_id) WHERE ended_sequence IS NULL;
-- The locks that end next.
CREATE INDEX locks_live_expire_time_create_revision_idx ON locks (expire_time, create_revision)
    WHERE ended_sequence IS NULL AND expire_time IS NOT NULL;

-- The request ids that made a change, so that a retry does not repeat the change. Permanent.
CREATE TABLE requests (
    tenant_id      TEXT NOT NULL,    -- the tenant to which the id is scoped; '': the vendor
    request_id     TEXT NOT NULL,    -- the id that the caller chose, or a random one
    part           INTEGER NOT NULL, -- the number of the transaction: 0, except for requests that commit in parts
    fingerprint    BLOB NOT NULL,    -- the SHA-256 of the request's content
    first_revision INTEGER NOT NULL, -- the first event of the transaction
    last_revision  INTEGER NOT NULL, -- the last event of the transaction
    CONSTRAINT requests_pkey PRIMARY KEY (tenant_id, request_id, part),
    CONSTRAINT requests_first_revision_fkey FOREIGN KEY (first_revision) REFERENCES events (revision),
    CONSTRAINT requests_last_revision_fkey FOREIGN KEY (last_revision) REFERENCES events (revision),
    CONSTRAINT requests_part_check CHECK (part >= 0),
    CONSTRAINT requests_fingerprint_check CHECK (length(fingerprint) = 32),
    CONSTRAINT requests_last_revision_check CHECK (last_revision >= first_revision)
) STRICT, WITHOUT ROWID;

-- The changes whose enforcement at every check node is known. Permanent.
CREATE TABLE enforcements (
    last_revision      INTEGER NOT NULL, -- the last event of the change
    first_revision     INTEGER NOT NULL, -- the first event of the change
    elapsed            INTEGER NOT NULL, -- the time from the commit until the enforcement was known
    nodes_acknowledged INTEGER NOT NULL, -- the number of nodes that acknowledged the change
    nodes_lapsed       INTEGER NOT NULL, -- the number of further nodes, whose leases had expired
    CONSTRAINT enforcements_pkey PRIMARY KEY (last_revision),
    CONSTRAINT enforcements_last_revision_fkey FOREIGN KEY (last_revision) REFERENCES events (revision),
    CONSTRAINT enforcements_first_revision_check CHECK (first_revision BETWEEN 1 AND last_revision),
    CONSTRAINT enforcements_elapsed_check CHECK (elapsed >= 0),
    CONSTRAINT enforcements_nodes_check CHECK (nodes_acknowledged >= 0 AND nodes_lapsed >= 0)
) STRICT;

-- The check nodes with access to the database. A node without a row holds no lease, and allows
-- nothing.
CREATE TABLE members (
    node_id               TEXT NOT NULL,    -- the node's UUID, chosen at the start of its process
    heartbeat_seq         INTEGER NOT NULL, -- advances with every heartbeat; a row is evicted only if this value has not moved
    acknowledged_revision INTEGER NOT NULL, -- the node and all its followers answer checks from this revision or a later one
    nodes                 INTEGER NOT NULL, -- the number of those nodes; 0 before the first acknowledgement
    nodes_lapsed          INTEGER NOT NULL, -- the number of further nodes, whose leases have expired
    max_staleness         INTEGER NOT NULL, -- the lifetime of the node's leases
    version               TEXT NOT NULL,    -- the version of the node's program
    heartbeat_time        INTEGER NOT NULL, -- the time of the last heartbeat, or of the registration
    followers             TEXT NOT NULL,    -- the node's followers, as a JSON array, for display
    CONSTRAINT members_pkey PRIMARY KEY (node_id),
    CONSTRAINT members_node_id_check CHECK (length(node_id) = 36),
    CONSTRAINT members_heartbeat_seq_check CHECK (heartbeat_seq >= 0),
    CONSTRAINT members_acknowledged_revision_check CHECK (acknowledged_revision >= 0),
    CONSTRAINT members_nodes_check CHECK (nodes >= 0 AND nodes_lapsed >= 0),
    CONSTRAINT members_max_staleness_check CHECK (max_staleness >= 0),
    CONSTRAINT members_followers_check CHECK (json_valid(followers))
) STRICT, WITHOUT ROWID;

-- The trusted time, which outlives the rows of members: the latest time that a check node has
-- trusted. The clock of the process may be wrong.

CREATE TABLE trusted_time (
    id             INTEGER NOT NULL, -- always 1
    time           INTEGER,          -- only an accepted clock decreases it; NULL before the first
    accepted_clock INTEGER NOT NULL, -- the revision of the event with which an operator last accepted the clock; 0 before the first
    CONSTRAINT trusted_time_pkey PRIMARY KEY (id),
    CONSTRAINT trusted_time_id_check CHECK (id = 1),
    CONSTRAINT trusted_time_accepted_clock_check CHECK (accepted_clock >= 0)
) STRICT;

INSERT INTO trusted_time (id, accepted_clock) VALUES (1, 0);

-- History is permanent. The triggers on INSERT reject INSERT OR REPLACE, which fires no DELETE
-- trigger.

CREATE TRIGGER head_is_permanent BEFORE DELETE ON head
BEGIN SELECT RAISE(ABORT, 'history is permanent: DELETE on head is rejected'); END;

CREATE TRIGGER head_has_one_row BEFORE INSERT ON head
BEGIN SELECT RAISE(ABORT, 'history is permanent: INSERT on head is rejected'); END;

CREATE TRIGGER head_moves_forward BEFORE UPDATE ON head
WHEN NEW.revision < OLD.revision OR (NEW.time IS NULL AND OLD.time IS NOT NULL)
    OR NEW.log_name <> OLD.log_name OR (NEW.epoch <> OLD.epoch) <> (NEW.token_key <> OLD.token_key)
BEGIN SELECT RAISE(ABORT, 'history is permanent: UPDATE on head is rejected'); END;

CREATE TRIGGER head_time_moves_forward BEFORE UPDATE ON head
WHEN NEW.time < OLD.time AND (NEW.revision <= OLD.revision OR NEW.epoch = OLD.epoch
    OR NOT EXISTS (SELECT 1 FROM events
        WHERE revision = NEW.revision AND kind = 'clock_accepted' AND time = NEW.time))
BEGIN SELECT RAISE(ABORT, 'history is permanent: only an event that accepts the clock may be earlier'); END;

CREATE TRIGGER trusted_time_is_permanent BEFORE DELETE ON trusted_time
BEGIN SELECT RAISE(ABORT, 'history is permanent: DELETE on trusted_time is rejected'); END;

CREATE TRIGGER trusted_time_has_one_row BEFORE INSERT ON trusted_time
BEGIN SELECT RAISE(ABORT, 'history is permanent: INSERT on trusted_time is rejected'); END;

CREATE TRIGGER trusted_time_moves_forward BEFORE UPDATE ON trusted_time
WHEN NEW.time IS NULL AND OLD.time IS NOT NULL
BEGIN SELECT RAISE(ABORT, 'history is permanent: UPDATE on trusted_time is rejected'); END;

CREATE TRIGGER trusted_time_follows_clock BEFORE UPDATE ON trusted_time
WHEN (NEW.time < OLD.time OR NEW.accepted_clock <> OLD.accepted_clock) AND (NEW.accepted_clock = OLD.accepted_clock
    OR NOT EXISTS (SELECT 1 FROM head JOIN events ON events.revision = head.revision
        WHERE head.revision = NEW.accepted_clock AND events.kind = 'clock_accepted' AND events.time = NEW.time))
BEGIN SELECT RAISE(ABORT, 'history is permanent: only the last event can be the accepted clock'); END;

CREATE TRIGGER events_have_no_gaps BEFORE INSERT ON events
WHEN NEW.revision <> (SELECT coalesce(max(revision), 0) + 1 FROM events)
    OR NEW.sequence <> (SELECT coalesce(max(sequence), 0) + 1 FROM events WHERE tenant_id = NEW.tenant_id)
BEGIN SELECT RAISE(ABORT, 'history is permanent: an event must have the next revision and the next sequence'); END;

-- A new event key replaces the HMAC, and nothing else.
CREATE TRIGGER events_are_never_updated BEFORE UPDATE ON events
WHEN NEW.mac = OLD.mac OR
    (NEW.revision, NEW.tenant_id, NEW.sequence, NEW.hash, NEW.time, NEW.actor, NEW.via, NEW.actor_asserted,
        NEW.reason, NEW.kind, NEW.grant_id, NEW.lock_id, NEW.body)
    IS NOT (OLD.revision, OLD.tenant_id, OLD.sequence, OLD.hash, OLD.time, OLD.actor, OLD.via, OLD.actor_asserted,
        OLD.reason, OLD.kind, OLD.grant_id, OLD.lock_id, OLD.body)
BEGIN SELECT RAISE(ABORT, 'history is permanent: UPDATE on events is rejected'); END;

CREATE TRIGGER events_are_permanent BEFORE DELETE ON events
BEGIN SELECT RAISE(ABORT, 'history is permanent: DELETE on events is rejected'); END;

CREATE TRIGGER grants_are_never_replaced BEFORE INSERT ON grants
WHEN EXISTS (SELECT 1 FROM grants WHERE grant_id = NEW.grant_id OR create_revision = NEW.create_revision
    OR (tenant_id = NEW.tenant_id AND create_sequence = NEW.create_sequence))
BEGIN SELECT RAISE(ABORT, 'history is permanent: REPLACE on grants is rejected'); END;

CREATE TRIGGER grants_are_permanent BEFORE DELETE ON grants
BEGIN SELECT RAISE(ABORT, 'history is permanent: DELETE on grants is rejected'); END;

CREATE TRIGGER grants_move_forward BEFORE UPDATE ON grants
WHEN OLD.ended_sequence IS NOT NULL OR NEW.sequence <= OLD.sequence
    OR (NEW.tenant_id, NEW.create_sequence, NEW.create_revision, NEW.grant_id, NEW.group_id, NEW.agent_ids,
        NEW.access_level, NEW.agent_kinds, NEW.start_time, NEW.reason, NEW.ticket, NEW.create_time, NEW.creator)
    <> (OLD.tenant_id, OLD.create_sequence, OLD.create_revision, OLD.grant_id, OLD.group_id, OLD.agent_ids,
        OLD.access_level, OLD.agent_kinds, OLD.start_time, OLD.reason, OLD.ticket, OLD.create_time, OLD.creator)
BEGIN SELECT RAISE(ABORT, 'history is permanent: UPDATE on grants is rejected'); END;

CREATE TRIGGER grant_agents_are_never_updated BEFORE UPDATE ON grant_agents
BEGIN SELECT RAISE(ABORT, 'history is permanent: UPDATE on grant_agents is rejected'); END;

CREATE TRIGGER grant_agents_are_permanent BEFORE DELETE ON grant_agents
BEGIN SELECT RAISE(ABORT, 'history is permanent: DELETE on grant_agents is rejected'); END;

CREATE TRIGGER latest_ended_grants_are_permanent BEFORE DELETE ON latest_ended_grants
BEGIN SELECT RAISE(ABORT, 'history is permanent: DELETE on latest_ended_grants is rejected'); END;

-- An upsert fires this trigger, too. The trigger therefore accepts all rows that the trigger for
-- updates accepts.
CREATE TRIGGER latest_ended_grants_are_never_replaced BEFORE INSERT ON latest_ended_grants
WHEN EXISTS (SELECT 1 FROM latest_ended_grants WHERE tenant_id = NEW.tenant_id AND group_id = NEW.group_id
    AND (NEW.end_time, NEW.access_level, NEW.grant_id) <= (end_time, access_level, grant_id))
BEGIN SELECT RAISE(IGNORE); END;

CREATE TRIGGER latest_ended_grants_move_forward BEFORE UPDATE ON latest_ended_grants
WHEN (NEW.tenant_id, NEW.group_id) <> (OLD.tenant_id, OLD.group_id)
    OR (NEW.end_time, NEW.access_level, NEW.grant_id) <= (OLD.end_time, OLD.access_level, OLD.grant_id)
BEGIN SELECT RAISE(ABORT, 'history is permanent: UPDATE on latest_ended_grants is rejected'); END;

CREATE TRIGGER locks_are_never_replaced BEFORE INSERT ON locks
WHEN EXISTS (SELECT 1 FROM locks WHERE lock_id = NEW.lock_id OR create_revision = NEW.create_revision
    OR (tenant_id = NEW.tenant_id AND create_sequence = NEW.create_sequence))
BEGIN SELECT RAISE(ABORT, 'history is permanent: REPLACE on locks is rejected'); END;

CREATE TRIGGER locks_are_permanent BEFORE DELETE ON locks
BEGIN SELECT RAISE(ABORT, 'history is permanent: DELETE on locks is rejected'); END;

CREATE TRIGGER locks_move_forward BEFORE UPDATE ON locks
WHEN OLD.ended_sequence IS NOT NULL OR NEW.ended_sequence IS NULL OR NEW.sequence <= OLD.sequence
    OR NEW.expire_time IS NOT OLD.expire_time
    OR (NEW.tenant_id, NEW.create_sequence, NEW.create_revision, NEW.lock_id, NEW.target, NEW.target_id,
        NEW.party, NEW.reason, NEW.create_time, NEW.creator)
    <> (OLD.tenant_id, OLD.create_sequence, OLD.create_revision, OLD.lock_id, OLD.target, OLD.target_id,
        OLD.party, OLD.reason, OLD.create_time, OLD.creator)
BEGIN SELECT RAISE(ABORT, 'history is permanent: UPDATE on locks is rejected'); END;

CREATE TRIGGER requests_are_never_replaced BEFORE INSERT ON requests
WHEN EXISTS (SELECT 1 FROM requests
    WHERE tenant_id = NEW.tenant_id AND request_id = NEW.request_id AND part = NEW.part)
BEGIN SELECT RAISE(ABORT, 'history is permanent: REPLACE on requests is rejected'); END;

CREATE TRIGGER requests_are_never_updated BEFORE UPDATE ON requests
BEGIN SELECT RAISE(ABORT, 'history is permanent: UPDATE on requests is rejected'); END;

CREATE TRIGGER requests_are_permanent BEFORE DELETE ON requests
BEGIN SELECT RAISE(ABORT, 'history is permanent: DELETE on requests is rejected'); END;

-- Only the first record of a change is kept.
CREATE TRIGGER enforcements_are_never_replaced BEFORE INSERT ON enforcements
WHEN EXISTS (SELECT 1 FROM enforcements WHERE last_revision = NEW.last_revision)
BEGIN SELECT RAISE(IGNORE); END;

CREATE TRIGGER enforcements_are_never_updated BEFORE UPDATE ON enforcements
BEGIN SELECT RAISE(ABORT, 'history is permanent: UPDATE on enforcements is rejected'); END;

CREATE TRIGGER enforcements_are_permanent BEFORE DELETE ON enforcements
BEGIN SELECT RAISE(ABORT, 'history is permanent: DELETE on enforcements is rejected'); END;
