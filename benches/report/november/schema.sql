-- The tables, indexes and triggers of version b50cc2d of 22 November 2026 that a grant and a
-- revocation touched.

CREATE TABLE head (
    id       bigint PRIMARY KEY CHECK (id = 1),
    revision bigint NOT NULL CHECK (revision >= 0),
    time     bigint,
    epoch    text NOT NULL CHECK (length(epoch) = 36)
) WITH (fillfactor = 10);
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
CREATE INDEX grants_of_group ON grants (tenant_id, group_id, create_revision);
CREATE INDEX grants_live ON grants (tenant_id, create_revision) WHERE ended_revision IS NULL;
CREATE INDEX grants_revoked ON grants (tenant_id, create_revision) WHERE revoke_time IS NOT NULL;
CREATE INDEX grants_unrevoked ON grants (tenant_id, create_revision) WHERE revoke_time IS NULL;
CREATE INDEX grants_due ON grants (expire_time, create_revision) WHERE ended_revision IS NULL AND expire_time IS NOT NULL;
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
CREATE TABLE tightenings (
    tenant_id text COLLATE "C" PRIMARY KEY,
    revision  bigint NOT NULL REFERENCES events (revision),
    body      text COLLATE "C" NOT NULL CHECK (body::json IS NOT NULL)
);
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
CREATE TRIGGER head_is_never_deleted BEFORE DELETE OR TRUNCATE ON head
    FOR EACH STATEMENT EXECUTE FUNCTION history_is_permanent();
CREATE TRIGGER head_never_goes_back BEFORE UPDATE ON head
    FOR EACH ROW
    WHEN (NEW.revision < OLD.revision OR NEW.time < OLD.time OR NEW.epoch <> OLD.epoch)
    EXECUTE FUNCTION history_is_permanent();
ALTER TABLE head ADD COLUMN max_staleness bigint NOT NULL DEFAULT 0 CHECK (max_staleness >= 0);
ALTER TABLE events
    ADD COLUMN via text COLLATE "C",
    ADD COLUMN is_asserted bigint NOT NULL DEFAULT 0 CHECK (is_asserted IN (0, 1)),
    ADD CHECK (via IS NOT NULL OR is_asserted = 0);
CREATE TABLE chain (
    revision  bigint PRIMARY KEY REFERENCES events (revision),
    tenant_id text COLLATE "C" NOT NULL,
    sequence  bigint NOT NULL CHECK (sequence > 0),
    hash      bytea NOT NULL CHECK (length(hash) = 32),
    UNIQUE (tenant_id, sequence)
);
CREATE FUNCTION chain_follows_the_log() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.revision <> (SELECT coalesce(max(revision), 0) + 1 FROM chain)
        OR NEW.sequence <> (SELECT coalesce(max(sequence), 0) + 1 FROM chain WHERE tenant_id = NEW.tenant_id)
        OR NEW.tenant_id IS DISTINCT FROM (SELECT tenant_id FROM events WHERE revision = NEW.revision)
    THEN
        RAISE EXCEPTION 'history is permanent: a link must take the next place'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END;
$$;
CREATE TRIGGER chain_follows_the_log BEFORE INSERT ON chain
    FOR EACH ROW EXECUTE FUNCTION chain_follows_the_log();
CREATE TRIGGER chain_is_permanent BEFORE UPDATE OR DELETE OR TRUNCATE ON chain
    FOR EACH STATEMENT EXECUTE FUNCTION history_is_permanent();
