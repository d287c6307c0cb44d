-- The schema of support-access.
--
-- Times are microseconds since 1970 UTC, and durations are microseconds, so that both databases share
-- one mapping of rows. Texts compare byte by byte, so that no locale affects an index. A tenant_id
-- of '' stands for the vendor's own history.
--
-- Two numbers order events. The revision counts all events of the log; it is internal. The sequence
-- counts the events of one history, of a tenant or of the vendor.
--
-- Names: tables are plural, except head and trusted_time, which have one row. Constraints and
-- indexes are named <table>_<columns or rule>_<check|key|pkey|fkey|idx>, triggers <table>_<rule>.

-- The end of the log.

CREATE TABLE head (
    id            bigint NOT NULL,
    log_name      text COLLATE "C" NOT NULL,
    epoch         text COLLATE "C" NOT NULL,
    token_key     bytea NOT NULL,
    event_key_id  bytea,
    state_nonce   bytea,
    state_sum     bytea,
    revision      bigint NOT NULL,
    time          bigint,
    max_staleness bigint NOT NULL,
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
) WITH (fillfactor = 10); -- every change updates the row: leave room on its page

COMMENT ON TABLE head IS 'The end of the log: one row, which every change locks and updates.';
COMMENT ON COLUMN head.id IS 'Always 1.';
COMMENT ON COLUMN head.log_name IS 'The permanent name of the log: a UUID that is part of every record.';
COMMENT ON COLUMN head.epoch IS
    'The current incarnation of the log: a UUID that is replaced after a restore, and when an operator accepts the clock.';
COMMENT ON COLUMN head.token_key IS 'The secret key of consistency tokens. Replaced together with the epoch.';
COMMENT ON COLUMN head.event_key_id IS 'Identifies the event key, which is not in the database. NULL: none was used yet.';
COMMENT ON COLUMN head.state_nonce IS 'The nonce of the mask of state_sum. Replaced by every change.';
COMMENT ON COLUMN head.state_sum IS
    'The masked sum over all live grants, latest ended grants, live locks and overrides.';
COMMENT ON COLUMN head.revision IS 'The revision of the last event. 0: the log is empty.';
COMMENT ON COLUMN head.time IS
    'The time of the last event. The next event is never earlier, unless an operator accepts the clock.';
COMMENT ON COLUMN head.max_staleness IS
    'The longest lifetime of a lease among the registered nodes. Each change reads this value under the lock on the row.';

INSERT INTO head (id, log_name, epoch, token_key, revision, time, max_staleness)
SELECT 1, gen_random_uuid()::text, gen_random_uuid()::text,
    -- The random bytes of two UUIDs, without those that contain fixed bits.
    substring(a FROM 1 FOR 6) || substring(a FROM 10 FOR 7) || substring(b FROM 1 FOR 3), 0, NULL, 0
FROM (SELECT uuid_send(gen_random_uuid()) AS a, uuid_send(gen_random_uuid()) AS b) AS random;

-- The log.

CREATE TABLE events (
    revision       bigint NOT NULL,
    tenant_id      text COLLATE "C" NOT NULL,
    sequence       bigint NOT NULL,
    hash           bytea NOT NULL,
    time           bigint NOT NULL,
    actor          text COLLATE "C" NOT NULL,
    via            text COLLATE "C",
    actor_asserted bigint NOT NULL,
    reason         text COLLATE "C" NOT NULL,
    kind           text COLLATE "C" NOT NULL,
    grant_id       text COLLATE "C",
    lock_id        text COLLATE "C",
    body           text COLLATE "C" NOT NULL,
    mac            bytea NOT NULL,
    owner_mac      bytea NOT NULL,
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
    CONSTRAINT events_body_check CHECK (body::json IS NOT NULL),
    CONSTRAINT events_mac_check CHECK (length(mac) = 32),
    CONSTRAINT events_owner_mac_check CHECK (length(owner_mac) = 32)
);

COMMENT ON TABLE events IS 'The log: one row for each event. Permanent.';
COMMENT ON COLUMN events.revision IS 'The position in the log: 1, 2, 3 and so on, without gaps. Internal.';
COMMENT ON COLUMN events.tenant_id IS 'The tenant whose history contains the event. Empty: the vendor''s own history.';
COMMENT ON COLUMN events.sequence IS 'The position in that history: 1, 2, 3 and so on, without gaps.';
COMMENT ON COLUMN events.hash IS
    'The SHA-256 of the event and of the previous hash of the history, as docs/history.md specifies.';
COMMENT ON COLUMN events.time IS 'When the event was committed.';
COMMENT ON COLUMN events.actor IS 'The caller that made the change.';
COMMENT ON COLUMN events.via IS 'The service through which the actor called: the name in the certificate of the service.';
COMMENT ON COLUMN events.actor_asserted IS '1: that service only named the actor, without proof.';
COMMENT ON COLUMN events.reason IS 'The caller''s reason. May be empty.';
COMMENT ON COLUMN events.kind IS 'The kind of change, in one word.';
COMMENT ON COLUMN events.grant_id IS 'The grant that the event is about.';
COMMENT ON COLUMN events.lock_id IS 'The lock that the event is about.';
COMMENT ON COLUMN events.body IS
    'The change, as JSON: the kind, and the grant, lock or policy after the event. Text, so that every byte is kept.';
COMMENT ON COLUMN events.mac IS 'The HMAC of the row by the event key.';
COMMENT ON COLUMN events.owner_mac IS 'The HMAC of revision and tenant_id by the event key.';

-- The events of a grant and of a lock, and the policy events of a tenant.
CREATE INDEX events_tenant_id_grant_id_sequence_idx ON events (tenant_id, grant_id, sequence) WHERE grant_id IS NOT NULL;
CREATE INDEX events_lock_id_sequence_idx ON events (lock_id, sequence) WHERE lock_id IS NOT NULL;
CREATE INDEX events_policy_tenant_id_sequence_idx ON events (tenant_id, sequence) WHERE kind = 'policy_updated';
-- The accepted clocks.
CREATE INDEX events_clock_accepted_revision_idx ON events (revision) WHERE kind = 'clock_accepted';

-- Grants.

CREATE TABLE grants (
    tenant_id       text COLLATE "C" NOT NULL,
    create_sequence bigint NOT NULL,
    sequence        bigint NOT NULL,
    ended_sequence  bigint,
    create_revision bigint NOT NULL,
    grant_id        text COLLATE "C" NOT NULL,
    group_id        text COLLATE "C" NOT NULL,
    agent_ids       text COLLATE "C" NOT NULL,
    access_level    bigint NOT NULL,
    agent_kinds     text COLLATE "C" NOT NULL,
    start_time      bigint NOT NULL,
    expire_time     bigint,
    revoke_time     bigint,
    reason          text COLLATE "C" NOT NULL,
    ticket          text COLLATE "C" NOT NULL,
    create_time     bigint NOT NULL,
    creator         text COLLATE "C" NOT NULL,
    revoker         text COLLATE "C",
    revoke_reason   text COLLATE "C",
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
    CONSTRAINT grants_agent_ids_check CHECK (agent_ids::json IS NOT NULL),
    CONSTRAINT grants_access_level_check CHECK (access_level IN (1, 2, 3)),
    CONSTRAINT grants_agent_kinds_check CHECK (agent_kinds::json IS NOT NULL AND agent_kinds <> '[]'),
    CONSTRAINT grants_end_check CHECK (ended_sequence IS NULL OR coalesce(revoke_time, expire_time) IS NOT NULL),
    CONSTRAINT grants_revocation_check CHECK ((revoke_time IS NULL OR ended_sequence IS NOT NULL)
        AND (revoker IS NULL) = (revoke_time IS NULL) AND (revoke_reason IS NULL) = (revoke_time IS NULL))
);

COMMENT ON TABLE grants IS 'Every grant after its last event.';
COMMENT ON COLUMN grants.tenant_id IS 'The tenant.';
COMMENT ON COLUMN grants.create_sequence IS 'The event that created the grant, in the tenant''s history.';
COMMENT ON COLUMN grants.sequence IS 'The last event that changed the grant, in the tenant''s history.';
COMMENT ON COLUMN grants.ended_sequence IS 'The event that ended the grant. NULL: no event has.';
COMMENT ON COLUMN grants.create_revision IS 'The event that created the grant, in the log. Orders lists over all tenants.';
COMMENT ON COLUMN grants.grant_id IS 'The grant''s UUID.';
COMMENT ON COLUMN grants.group_id IS 'The support group that may enter.';
COMMENT ON COLUMN grants.agent_ids IS 'The only agents that may enter, as a JSON array. Empty: every agent of the group.';
COMMENT ON COLUMN grants.access_level IS 'The highest level: 1 READ_ONLY, 2 READ_WRITE, 3 ADMIN.';
COMMENT ON COLUMN grants.agent_kinds IS 'The admitted agent kinds, as a JSON array of entries. Never empty.';
COMMENT ON COLUMN grants.start_time IS 'When access starts (inclusive).';
COMMENT ON COLUMN grants.expire_time IS 'When access ends (exclusive). NULL: until revoked.';
COMMENT ON COLUMN grants.revoke_time IS 'When the grant was revoked.';
COMMENT ON COLUMN grants.reason IS 'The creator''s reason. May be empty.';
COMMENT ON COLUMN grants.ticket IS 'The support ticket. May be empty.';
COMMENT ON COLUMN grants.create_time IS 'When the grant was created.';
COMMENT ON COLUMN grants.creator IS 'The caller that created the grant.';
COMMENT ON COLUMN grants.revoker IS 'The caller that revoked the grant.';
COMMENT ON COLUMN grants.revoke_reason IS 'The revoker''s reason.';

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

CREATE TABLE grant_agents (
    tenant_id       text COLLATE "C" NOT NULL,
    agent_id        text COLLATE "C" NOT NULL,
    create_sequence bigint NOT NULL,
    CONSTRAINT grant_agents_pkey PRIMARY KEY (tenant_id, agent_id, create_sequence),
    CONSTRAINT grant_agents_tenant_id_create_sequence_fkey FOREIGN KEY (tenant_id, create_sequence)
        REFERENCES grants (tenant_id, create_sequence)
);

COMMENT ON TABLE grant_agents IS 'The agents that grants name, for lists by agent.';
COMMENT ON COLUMN grant_agents.tenant_id IS 'The tenant of the grant.';
COMMENT ON COLUMN grant_agents.agent_id IS 'The agent.';
COMMENT ON COLUMN grant_agents.create_sequence IS 'The grant.';

CREATE TABLE latest_ended_grants (
    tenant_id       text COLLATE "C" NOT NULL,
    group_id        text COLLATE "C" NOT NULL,
    end_time        bigint NOT NULL,
    access_level    bigint NOT NULL,
    grant_id        text COLLATE "C" NOT NULL,
    create_sequence bigint NOT NULL,
    CONSTRAINT latest_ended_grants_pkey PRIMARY KEY (tenant_id, group_id),
    CONSTRAINT latest_ended_grants_tenant_id_create_sequence_fkey FOREIGN KEY (tenant_id, create_sequence)
        REFERENCES grants (tenant_id, create_sequence),
    CONSTRAINT latest_ended_grants_access_level_check CHECK (access_level IN (1, 2, 3))
);

COMMENT ON TABLE latest_ended_grants IS
    'The latest ended grant of each tenant and group, by (end_time, access_level, grant_id). Check nodes load these grants to explain denials.';
COMMENT ON COLUMN latest_ended_grants.tenant_id IS 'The tenant.';
COMMENT ON COLUMN latest_ended_grants.group_id IS 'The support group.';
COMMENT ON COLUMN latest_ended_grants.end_time IS 'When the grant was revoked or expired.';
COMMENT ON COLUMN latest_ended_grants.access_level IS 'The level of the grant, as in grants.';
COMMENT ON COLUMN latest_ended_grants.grant_id IS 'The grant''s UUID.';
COMMENT ON COLUMN latest_ended_grants.create_sequence IS 'The grant''s key in grants.';

-- Locks.

CREATE TABLE locks (
    tenant_id       text COLLATE "C" NOT NULL,
    create_sequence bigint NOT NULL,
    sequence        bigint NOT NULL,
    ended_sequence  bigint,
    create_revision bigint NOT NULL,
    lock_id         text COLLATE "C" NOT NULL,
    target          text COLLATE "C" NOT NULL,
    target_id       text COLLATE "C" NOT NULL,
    party           text COLLATE "C" NOT NULL,
    expire_time     bigint,
    reason          text COLLATE "C" NOT NULL,
    create_time     bigint NOT NULL,
    creator         text COLLATE "C" NOT NULL,
    unlock_time     bigint,
    unlocker        text COLLATE "C",
    unlock_reason   text COLLATE "C",
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
);

COMMENT ON TABLE locks IS 'Every lock after its last event.';
COMMENT ON COLUMN locks.tenant_id IS 'The tenant in which the lock applies. Empty: all tenants.';
COMMENT ON COLUMN locks.create_sequence IS 'The event that created the lock, in its history.';
COMMENT ON COLUMN locks.sequence IS 'The last event that changed the lock, in its history.';
COMMENT ON COLUMN locks.ended_sequence IS 'The event that ended the lock. NULL: no event has.';
COMMENT ON COLUMN locks.create_revision IS 'The event that created the lock, in the log. Orders lists over all histories.';
COMMENT ON COLUMN locks.lock_id IS 'The lock''s UUID.';
COMMENT ON COLUMN locks.target IS 'The kind of target: agent_id, group_id, agent_kind or everything.';
COMMENT ON COLUMN locks.target_id IS 'The agent, the group, or HUMAN, AI or SERVICE. Empty for everything.';
COMMENT ON COLUMN locks.party IS 'The party that created the lock and may lift it: tenant or vendor.';
COMMENT ON COLUMN locks.expire_time IS 'When the lock ends by itself (exclusive). NULL: when a caller lifts the lock.';
COMMENT ON COLUMN locks.reason IS 'The creator''s reason.';
COMMENT ON COLUMN locks.create_time IS 'When the lock was created.';
COMMENT ON COLUMN locks.creator IS 'The caller that created the lock.';
COMMENT ON COLUMN locks.unlock_time IS 'When the lock was lifted.';
COMMENT ON COLUMN locks.unlocker IS 'The caller that lifted the lock.';
COMMENT ON COLUMN locks.unlock_reason IS 'The unlocker''s reason.';

-- Lists of live locks, and the number of live locks of a party.
CREATE INDEX locks_live_tenant_id_create_sequence_idx ON locks (tenant_id, create_sequence) WHERE ended_sequence IS NULL;
CREATE INDEX locks_live_create_revision_idx ON locks (create_revision) WHERE ended_sequence IS NULL;
CREATE INDEX locks_live_party_tenant_id_idx ON locks (party, tenant_id) WHERE ended_sequence IS NULL;
-- The locks that end next.
CREATE INDEX locks_live_expire_time_create_revision_idx ON locks (expire_time, create_revision)
    WHERE ended_sequence IS NULL AND expire_time IS NOT NULL;

-- Requests, and the enforcement of changes.

CREATE TABLE requests (
    tenant_id      text COLLATE "C" NOT NULL,
    request_id     text COLLATE "C" NOT NULL,
    part           bigint NOT NULL,
    fingerprint    bytea NOT NULL,
    first_revision bigint NOT NULL,
    last_revision  bigint NOT NULL,
    CONSTRAINT requests_pkey PRIMARY KEY (tenant_id, request_id, part),
    CONSTRAINT requests_first_revision_fkey FOREIGN KEY (first_revision) REFERENCES events (revision),
    CONSTRAINT requests_last_revision_fkey FOREIGN KEY (last_revision) REFERENCES events (revision),
    CONSTRAINT requests_part_check CHECK (part >= 0),
    CONSTRAINT requests_fingerprint_check CHECK (length(fingerprint) = 32),
    CONSTRAINT requests_last_revision_check CHECK (last_revision >= first_revision)
);

COMMENT ON TABLE requests IS 'The request ids that made a change, so that a retry does not repeat the change. Permanent.';
COMMENT ON COLUMN requests.tenant_id IS 'The tenant to which the id is scoped. Empty: the vendor.';
COMMENT ON COLUMN requests.request_id IS 'The id that the caller chose, or a random one.';
COMMENT ON COLUMN requests.part IS 'The number of the transaction: 0, except for requests that commit in parts.';
COMMENT ON COLUMN requests.fingerprint IS 'The SHA-256 of the request''s content.';
COMMENT ON COLUMN requests.first_revision IS 'The first event of the transaction.';
COMMENT ON COLUMN requests.last_revision IS 'The last event of the transaction.';

CREATE TABLE enforcements (
    last_revision      bigint NOT NULL,
    first_revision     bigint NOT NULL,
    elapsed            bigint NOT NULL,
    nodes_acknowledged bigint NOT NULL,
    nodes_lapsed       bigint NOT NULL,
    CONSTRAINT enforcements_pkey PRIMARY KEY (last_revision),
    CONSTRAINT enforcements_last_revision_fkey FOREIGN KEY (last_revision) REFERENCES events (revision),
    CONSTRAINT enforcements_first_revision_check CHECK (first_revision BETWEEN 1 AND last_revision),
    CONSTRAINT enforcements_elapsed_check CHECK (elapsed >= 0),
    CONSTRAINT enforcements_nodes_check CHECK (nodes_acknowledged >= 0 AND nodes_lapsed >= 0)
);

COMMENT ON TABLE enforcements IS 'The changes whose enforcement at every check node is known. Permanent.';
COMMENT ON COLUMN enforcements.last_revision IS 'The last event of the change.';
COMMENT ON COLUMN enforcements.first_revision IS 'The first event of the change.';
COMMENT ON COLUMN enforcements.elapsed IS 'The time from the commit until the enforcement was known.';
COMMENT ON COLUMN enforcements.nodes_acknowledged IS 'The number of nodes that acknowledged the change.';
COMMENT ON COLUMN enforcements.nodes_lapsed IS 'The number of further nodes, whose leases had expired.';

-- Check nodes.

CREATE TABLE members (
    node_id               text COLLATE "C" NOT NULL,
    heartbeat_seq         bigint NOT NULL,
    acknowledged_revision bigint NOT NULL,
    nodes                 bigint NOT NULL,
    nodes_lapsed          bigint NOT NULL,
    max_staleness         bigint NOT NULL,
    version               text COLLATE "C" NOT NULL,
    heartbeat_time        bigint NOT NULL,
    followers             text COLLATE "C" NOT NULL,
    CONSTRAINT members_pkey PRIMARY KEY (node_id),
    CONSTRAINT members_node_id_check CHECK (length(node_id) = 36),
    CONSTRAINT members_heartbeat_seq_check CHECK (heartbeat_seq >= 0),
    CONSTRAINT members_acknowledged_revision_check CHECK (acknowledged_revision >= 0),
    CONSTRAINT members_nodes_check CHECK (nodes >= 0 AND nodes_lapsed >= 0),
    CONSTRAINT members_max_staleness_check CHECK (max_staleness >= 0),
    CONSTRAINT members_followers_check CHECK (followers::json IS NOT NULL)
) WITH (fillfactor = 10); -- heartbeats update the rows continually: leave room on their pages

COMMENT ON TABLE members IS
    'The check nodes with access to the database. A node without a row holds no lease, and allows nothing.';
COMMENT ON COLUMN members.node_id IS 'The node''s UUID, chosen at the start of its process.';
COMMENT ON COLUMN members.heartbeat_seq IS
    'Advances with every heartbeat. A row is evicted only if this value has not moved.';
COMMENT ON COLUMN members.acknowledged_revision IS
    'The node and all its followers answer checks from this revision or a later one.';
COMMENT ON COLUMN members.nodes IS 'The number of those nodes. 0 before the first acknowledgement.';
COMMENT ON COLUMN members.nodes_lapsed IS 'The number of further nodes, whose leases have expired.';
COMMENT ON COLUMN members.max_staleness IS 'The lifetime of the node''s leases.';
COMMENT ON COLUMN members.version IS 'The version of the node''s program.';
COMMENT ON COLUMN members.heartbeat_time IS 'The time of the last heartbeat, or of the registration, by the database''s clock.';
COMMENT ON COLUMN members.followers IS 'The node''s followers, as a JSON array, for display.';

-- The trusted time, which outlives the rows of members.

CREATE TABLE trusted_time (
    id             bigint NOT NULL,
    time           bigint,
    accepted_clock bigint NOT NULL,
    CONSTRAINT trusted_time_pkey PRIMARY KEY (id),
    CONSTRAINT trusted_time_id_check CHECK (id = 1),
    CONSTRAINT trusted_time_accepted_clock_check CHECK (accepted_clock >= 0)
) WITH (fillfactor = 10); -- updated continually, like members

COMMENT ON TABLE trusted_time IS
    'The latest time that a check node has trusted: one row. The database''s clock may be wrong.';
COMMENT ON COLUMN trusted_time.id IS 'Always 1.';
COMMENT ON COLUMN trusted_time.time IS 'The time. Only an accepted clock decreases it. NULL before the first.';
COMMENT ON COLUMN trusted_time.accepted_clock IS 'The revision of the event with which an operator last accepted the clock; 0 before the first.';

INSERT INTO trusted_time (id, accepted_clock) VALUES (1, 0);

-- History is permanent. These triggers also reject statements of the tables' owner.

CREATE FUNCTION reject_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'history is permanent: % on % is rejected', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'integrity_constraint_violation';
END;
$$;

COMMENT ON FUNCTION reject_change IS 'Rejects the statement that fires the trigger.';

CREATE FUNCTION check_next_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.revision > 1 AND NOT EXISTS (SELECT 1 FROM events WHERE revision = NEW.revision - 1))
        OR (NEW.sequence > 1 AND NOT EXISTS (SELECT 1 FROM events
            WHERE tenant_id = NEW.tenant_id AND sequence = NEW.sequence - 1))
    THEN
        RAISE EXCEPTION 'history is permanent: an event must have the next revision and the next sequence'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END;
$$;

COMMENT ON FUNCTION check_next_event IS 'Rejects gaps in the log and in histories.';

CREATE FUNCTION check_head_time() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.revision <= OLD.revision OR NEW.epoch = OLD.epoch OR NOT EXISTS (SELECT 1 FROM events
        WHERE revision = NEW.revision AND kind = 'clock_accepted' AND time = NEW.time)
    THEN
        RAISE EXCEPTION 'history is permanent: only an event that accepts the clock may be earlier'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END;
$$;

COMMENT ON FUNCTION check_head_time IS 'Rejects a decrease of the time without an event that accepts the clock.';

CREATE FUNCTION check_trusted_time() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.accepted_clock = OLD.accepted_clock OR NOT EXISTS (SELECT 1 FROM head JOIN events ON events.revision = head.revision
        WHERE head.revision = NEW.accepted_clock AND events.kind = 'clock_accepted' AND events.time = NEW.time)
    THEN
        RAISE EXCEPTION 'history is permanent: only the last event can be the accepted clock'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END;
$$;

COMMENT ON FUNCTION check_trusted_time IS 'Rejects a decrease of the time, unless the last event accepts the clock.';

CREATE TRIGGER head_is_permanent BEFORE DELETE OR TRUNCATE ON head
    FOR EACH STATEMENT EXECUTE FUNCTION reject_change();
CREATE TRIGGER head_moves_forward BEFORE UPDATE ON head
    FOR EACH ROW
    WHEN (NEW.revision < OLD.revision OR (NEW.time IS NULL AND OLD.time IS NOT NULL)
        OR NEW.log_name <> OLD.log_name OR (NEW.epoch <> OLD.epoch) <> (NEW.token_key <> OLD.token_key))
    EXECUTE FUNCTION reject_change();
CREATE TRIGGER head_time_moves_forward BEFORE UPDATE ON head
    FOR EACH ROW WHEN (NEW.time < OLD.time) EXECUTE FUNCTION check_head_time();

CREATE TRIGGER trusted_time_is_permanent BEFORE DELETE OR TRUNCATE ON trusted_time
    FOR EACH STATEMENT EXECUTE FUNCTION reject_change();
CREATE TRIGGER trusted_time_moves_forward BEFORE UPDATE ON trusted_time
    FOR EACH ROW
    WHEN (NEW.time IS NULL AND OLD.time IS NOT NULL)
    EXECUTE FUNCTION reject_change();
CREATE TRIGGER trusted_time_follows_clock BEFORE UPDATE ON trusted_time
    FOR EACH ROW WHEN (NEW.time < OLD.time OR NEW.accepted_clock <> OLD.accepted_clock) EXECUTE FUNCTION check_trusted_time();

-- At the commit, so that the trigger reads no table that the same statement writes.
CREATE CONSTRAINT TRIGGER events_have_no_gaps AFTER INSERT ON events DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION check_next_event();
CREATE TRIGGER events_are_permanent BEFORE DELETE OR TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION reject_change();
-- A new event key replaces the HMAC, and nothing else.
CREATE TRIGGER events_are_never_updated BEFORE UPDATE ON events
    FOR EACH ROW
    WHEN (NEW.mac = OLD.mac OR
        (NEW.revision, NEW.tenant_id, NEW.sequence, NEW.hash, NEW.time, NEW.actor, NEW.via, NEW.actor_asserted,
            NEW.reason, NEW.kind, NEW.grant_id, NEW.lock_id, NEW.body)
        IS DISTINCT FROM (OLD.revision, OLD.tenant_id, OLD.sequence, OLD.hash, OLD.time, OLD.actor, OLD.via,
            OLD.actor_asserted, OLD.reason, OLD.kind, OLD.grant_id, OLD.lock_id, OLD.body))
    EXECUTE FUNCTION reject_change();

CREATE TRIGGER grants_are_permanent BEFORE DELETE OR TRUNCATE ON grants
    FOR EACH STATEMENT EXECUTE FUNCTION reject_change();
CREATE TRIGGER grants_move_forward BEFORE UPDATE ON grants
    FOR EACH ROW
    WHEN (OLD.ended_sequence IS NOT NULL OR NEW.sequence <= OLD.sequence
        OR (NEW.tenant_id, NEW.create_sequence, NEW.create_revision, NEW.grant_id, NEW.group_id, NEW.agent_ids,
            NEW.access_level, NEW.agent_kinds, NEW.start_time, NEW.reason, NEW.ticket, NEW.create_time,
            NEW.creator)
        <> (OLD.tenant_id, OLD.create_sequence, OLD.create_revision, OLD.grant_id, OLD.group_id, OLD.agent_ids,
            OLD.access_level, OLD.agent_kinds, OLD.start_time, OLD.reason, OLD.ticket, OLD.create_time,
            OLD.creator))
    EXECUTE FUNCTION reject_change();

CREATE TRIGGER grant_agents_are_permanent BEFORE UPDATE OR DELETE OR TRUNCATE ON grant_agents
    FOR EACH STATEMENT EXECUTE FUNCTION reject_change();

CREATE TRIGGER latest_ended_grants_are_permanent BEFORE DELETE OR TRUNCATE ON latest_ended_grants
    FOR EACH STATEMENT EXECUTE FUNCTION reject_change();
CREATE TRIGGER latest_ended_grants_move_forward BEFORE UPDATE ON latest_ended_grants
    FOR EACH ROW
    WHEN ((NEW.tenant_id, NEW.group_id) <> (OLD.tenant_id, OLD.group_id)
        OR (NEW.end_time, NEW.access_level, NEW.grant_id) <= (OLD.end_time, OLD.access_level, OLD.grant_id))
    EXECUTE FUNCTION reject_change();

CREATE TRIGGER locks_are_permanent BEFORE DELETE OR TRUNCATE ON locks
    FOR EACH STATEMENT EXECUTE FUNCTION reject_change();
CREATE TRIGGER locks_move_forward BEFORE UPDATE ON locks
    FOR EACH ROW
    WHEN (OLD.ended_sequence IS NOT NULL OR NEW.ended_sequence IS NULL OR NEW.sequence <= OLD.sequence
        OR NEW.expire_time IS DISTINCT FROM OLD.expire_time
        OR (NEW.tenant_id, NEW.create_sequence, NEW.create_revision, NEW.lock_id, NEW.target, NEW.target_id,
            NEW.party, NEW.reason, NEW.create_time, NEW.creator)
        <> (OLD.tenant_id, OLD.create_sequence, OLD.create_revision, OLD.lock_id, OLD.target, OLD.target_id,
            OLD.party, OLD.reason, OLD.create_time, OLD.creator))
    EXECUTE FUNCTION reject_change();

CREATE TRIGGER requests_are_permanent BEFORE UPDATE OR DELETE OR TRUNCATE ON requests
    FOR EACH STATEMENT EXECUTE FUNCTION reject_change();

CREATE TRIGGER enforcements_are_permanent BEFORE UPDATE OR DELETE OR TRUNCATE ON enforcements
    FOR EACH STATEMENT EXECUTE FUNCTION reject_change();
