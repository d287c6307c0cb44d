-- The log of events, and the grants it adds up to. Times are microseconds since 1970, UTC. `revision` is the number of an
-- event: 1, 2, 3 and so on over all tenants, in the order of commits. Texts compare byte by byte: no locale can change an index.

CREATE TABLE head (
    id       bigint PRIMARY KEY CHECK (id = 1),
    revision bigint NOT NULL CHECK (revision >= 0),
    time     bigint,
    epoch    text NOT NULL CHECK (length(epoch) = 36)
) WITH (fillfactor = 10); -- updated by every change: leave room on its page

COMMENT ON TABLE head IS 'The end of the log: one row, locked and written by every change.';
COMMENT ON COLUMN head.id IS 'There is one row.';
COMMENT ON COLUMN head.revision IS 'Of the last event; 0 if there is none.';
COMMENT ON COLUMN head.time IS 'Of the last event, so that the log''s time never runs backwards.';
COMMENT ON COLUMN head.epoch IS 'Names this log for ever: a UUID made with the database.';

INSERT INTO head (id, revision, time, epoch) VALUES (1, 0, NULL, gen_random_uuid()::text);

CREATE TABLE events (
    revision  bigint PRIMARY KEY CHECK (revision > 0),
    tenant_id text COLLATE "C" NOT NULL,
    time      bigint NOT NULL,
    actor     text COLLATE "C" NOT NULL,
    reason    text COLLATE "C" NOT NULL,
    kind      text COLLATE "C" NOT NULL,
    grant_id  text COLLATE "C",
    body      text COLLATE "C" NOT NULL CHECK (body::json IS NOT NULL)
);

COMMENT ON TABLE events IS 'The log: what happened. Permanent.';
COMMENT ON COLUMN events.revision IS 'Its place in the log.';
COMMENT ON COLUMN events.tenant_id IS 'Whose history it belongs to.';
COMMENT ON COLUMN events.time IS 'When it was committed.';
COMMENT ON COLUMN events.actor IS 'Who did it.';
COMMENT ON COLUMN events.reason IS 'Why; may be empty.';
COMMENT ON COLUMN events.kind IS 'What happened, in a word.';
COMMENT ON COLUMN events.grant_id IS 'The grant it is about, if it is about one.';
COMMENT ON COLUMN events.body IS 'What happened, whole, as JSON: the kind, and the grant or policy it left. Text, to be kept to the byte.';

-- A tenant's history, and a grant's.
CREATE INDEX events_of_tenant ON events (tenant_id, revision);
CREATE INDEX events_of_grant ON events (tenant_id, grant_id, revision);

CREATE TABLE grants (
    tenant_id       text COLLATE "C" NOT NULL,
    create_revision bigint NOT NULL REFERENCES events (revision),
    revision        bigint NOT NULL CHECK (revision >= create_revision),
    ended_revision  bigint,
    grant_id        text COLLATE "C" NOT NULL UNIQUE CHECK (length(grant_id) = 36),
    group_id        text COLLATE "C" NOT NULL,
    agent_ids       text COLLATE "C" NOT NULL CHECK (agent_ids::json IS NOT NULL),
    access_level    bigint NOT NULL CHECK (access_level BETWEEN 1 AND 3),
    start_time      bigint NOT NULL,
    expire_time     bigint,
    revoke_time     bigint,
    reason          text COLLATE "C" NOT NULL,
    ticket          text COLLATE "C" NOT NULL,
    create_time     bigint NOT NULL,
    creator         text COLLATE "C" NOT NULL,
    revoker         text COLLATE "C",
    revoke_reason   text COLLATE "C",
    PRIMARY KEY (tenant_id, create_revision),
    CHECK (ended_revision IS NULL OR coalesce(revoke_time, expire_time) IS NOT NULL),
    CHECK ((revoker IS NULL) = (revoke_time IS NULL) AND (revoke_reason IS NULL) = (revoke_time IS NULL))
);

COMMENT ON TABLE grants IS 'Every grant, as its last event left it.';
COMMENT ON COLUMN grants.tenant_id IS 'Who lets in.';
COMMENT ON COLUMN grants.create_revision IS 'The event that made it: its place in lists.';
COMMENT ON COLUMN grants.revision IS 'The last event that changed it.';
COMMENT ON COLUMN grants.ended_revision IS 'The event that ended it; NULL while none has.';
COMMENT ON COLUMN grants.grant_id IS 'Its UUID.';
COMMENT ON COLUMN grants.group_id IS 'The group that is let in.';
COMMENT ON COLUMN grants.agent_ids IS 'Only these agents, a JSON array; empty: all.';
COMMENT ON COLUMN grants.access_level IS '1 READ_ONLY, 2 READ_WRITE, 3 ADMIN.';
COMMENT ON COLUMN grants.start_time IS 'The first moment of access.';
COMMENT ON COLUMN grants.expire_time IS 'The first moment without; NULL: until revoked.';
COMMENT ON COLUMN grants.revoke_time IS 'When it was revoked, if it was.';
COMMENT ON COLUMN grants.reason IS 'Why it was made; may be empty.';
COMMENT ON COLUMN grants.ticket IS 'The ticket it belongs to; may be empty.';
COMMENT ON COLUMN grants.create_time IS 'When it was made.';
COMMENT ON COLUMN grants.creator IS 'By whom.';
COMMENT ON COLUMN grants.revoker IS 'By whom it was revoked.';
COMMENT ON COLUMN grants.revoke_reason IS 'Why it was revoked.';

-- A tenant's list by group and by state: each holds exactly the rows of an answer, in its order.
CREATE INDEX grants_of_group ON grants (tenant_id, group_id, create_revision);
CREATE INDEX grants_live ON grants (tenant_id, create_revision) WHERE ended_revision IS NULL;
CREATE INDEX grants_revoked ON grants (tenant_id, create_revision) WHERE revoke_time IS NOT NULL;
CREATE INDEX grants_unrevoked ON grants (tenant_id, create_revision) WHERE revoke_time IS NULL;
-- What the sweep asks for: the grants that end next.
CREATE INDEX grants_due ON grants (expire_time, create_revision) WHERE ended_revision IS NULL AND expire_time IS NOT NULL;

CREATE TABLE grant_agents (
    tenant_id       text COLLATE "C" NOT NULL,
    agent_id        text COLLATE "C" NOT NULL,
    create_revision bigint NOT NULL,
    PRIMARY KEY (tenant_id, agent_id, create_revision),
    FOREIGN KEY (tenant_id, create_revision) REFERENCES grants (tenant_id, create_revision)
);

COMMENT ON TABLE grant_agents IS 'The agents that grants name, to list grants by agent.';
COMMENT ON COLUMN grant_agents.tenant_id IS 'Who lets in.';
COMMENT ON COLUMN grant_agents.agent_id IS 'The agent named.';
COMMENT ON COLUMN grant_agents.create_revision IS 'The grant that names it.';

CREATE TABLE latest_ended (
    tenant_id       text COLLATE "C" NOT NULL,
    group_id        text COLLATE "C" NOT NULL,
    end_time        bigint NOT NULL,
    access_level    bigint NOT NULL,
    grant_id        text COLLATE "C" NOT NULL,
    create_revision bigint NOT NULL,
    PRIMARY KEY (tenant_id, group_id),
    FOREIGN KEY (tenant_id, create_revision) REFERENCES grants (tenant_id, create_revision)
);

COMMENT ON TABLE latest_ended IS
    'Of the grants that an event has ended, the latest of each tenant and group by (end_time, access_level, grant_id): what a check node needs to explain a denial, found without reading the history.';
COMMENT ON COLUMN latest_ended.tenant_id IS 'Who let in.';
COMMENT ON COLUMN latest_ended.group_id IS 'The group that was let in.';
COMMENT ON COLUMN latest_ended.end_time IS 'When the grant was revoked or expired.';
COMMENT ON COLUMN latest_ended.access_level IS 'Its level, as in grants.';
COMMENT ON COLUMN latest_ended.grant_id IS 'Its UUID.';
COMMENT ON COLUMN latest_ended.create_revision IS 'Where it is in grants.';

CREATE TABLE requests (
    tenant_id   text COLLATE "C" NOT NULL,
    request_id  text COLLATE "C" NOT NULL,
    fingerprint bytea NOT NULL CHECK (length(fingerprint) = 32),
    revision    bigint NOT NULL REFERENCES events (revision),
    PRIMARY KEY (tenant_id, request_id)
);

COMMENT ON TABLE requests IS 'What request ids were used for, remembered as long as the grant.';
COMMENT ON COLUMN requests.tenant_id IS 'Whose id it is.';
COMMENT ON COLUMN requests.request_id IS 'As the caller chose it.';
COMMENT ON COLUMN requests.fingerprint IS 'SHA-256 of the request''s content.';
COMMENT ON COLUMN requests.revision IS 'The event it made.';

CREATE TABLE policy_overrides (
    tenant_id text COLLATE "C" PRIMARY KEY,
    revision  bigint NOT NULL REFERENCES events (revision),
    body      text COLLATE "C" NOT NULL CHECK (body::json IS NOT NULL)
);

COMMENT ON TABLE policy_overrides IS 'Each tenant''s own policy settings, as its last policy event left them.';
COMMENT ON COLUMN policy_overrides.tenant_id IS 'Whose policy it is.';
COMMENT ON COLUMN policy_overrides.revision IS 'The event that made it so.';
COMMENT ON COLUMN policy_overrides.body IS 'The settings, as JSON.';

-- History is permanent, whoever asks.
CREATE FUNCTION history_is_permanent() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'history is permanent: % on % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'integrity_constraint_violation';
END;
$$;

CREATE FUNCTION events_follow_each_other() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.revision <> (SELECT coalesce(max(revision), 0) + 1 FROM events) THEN
        RAISE EXCEPTION 'history is permanent: an event must take the next revision'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END;
$$;

CREATE TRIGGER events_follow_each_other BEFORE INSERT ON events
    FOR EACH ROW EXECUTE FUNCTION events_follow_each_other();
CREATE TRIGGER events_are_permanent BEFORE UPDATE OR DELETE OR TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION history_is_permanent();
CREATE TRIGGER grants_are_never_deleted BEFORE DELETE OR TRUNCATE ON grants
    FOR EACH STATEMENT EXECUTE FUNCTION history_is_permanent();
CREATE TRIGGER requests_are_permanent BEFORE UPDATE OR DELETE OR TRUNCATE ON requests
    FOR EACH STATEMENT EXECUTE FUNCTION history_is_permanent();
CREATE TRIGGER head_is_never_deleted BEFORE DELETE OR TRUNCATE ON head
    FOR EACH STATEMENT EXECUTE FUNCTION history_is_permanent();
CREATE TRIGGER head_never_goes_back BEFORE UPDATE ON head
    FOR EACH ROW
    WHEN (NEW.revision < OLD.revision OR NEW.time < OLD.time OR NEW.epoch <> OLD.epoch)
    EXECUTE FUNCTION history_is_permanent();
