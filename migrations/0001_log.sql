-- The log and everything that changes in the same breath.
--
-- `append` is the only way in.  It takes one advisory lock, numbers the events
-- without gaps in commit order, chains their hashes, and writes the rows that
-- follow from them (images, tasks, members, usage, leases, secrets) in the same
-- call, so that a reader sees a write and its consequences together or not at all.

CREATE TABLE deployment (
    id      uuid        PRIMARY KEY,             -- names the directories and prefixes that are ours to sweep
    one     boolean     NOT NULL DEFAULT true UNIQUE CHECK (one),
    born_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO deployment (id) VALUES (gen_random_uuid());

CREATE TABLE events (
    position bigint      PRIMARY KEY CHECK (position > 0),      -- gapless, in commit order
    category text        NOT NULL,
    stream   uuid        NOT NULL,
    version  int         NOT NULL CHECK (version > 0),          -- 1, 2, 3 … within the stream
    event_id uuid        NOT NULL,                              -- made by the caller: a resent append finds itself again
    type     text        NOT NULL,
    data     json        NOT NULL,                              -- verbatim: the hash is taken over these very bytes
    meta     json        NOT NULL,
    hash     bytea       NOT NULL,                              -- sha256 of the previous hash and this event
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),    -- for people; never for order
    CONSTRAINT events_stream_version UNIQUE (stream, version, category),
    CONSTRAINT events_event_id UNIQUE (event_id)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

CREATE FUNCTION events_are_for_ever() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'events are never changed or deleted'; END $$;
CREATE TRIGGER events_are_for_ever BEFORE UPDATE OR DELETE OR TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION events_are_for_ever();

-- The snapshot that `decide` loads and the read model that the API answers from.
CREATE TABLE images (
    id               uuid PRIMARY KEY,
    image_id         text NOT NULL,              -- as the client wrote it
    version          int  NOT NULL,
    fold             int  NOT NULL,              -- version of the fold that made `state`
    state            json NOT NULL,
    owner            text,
    name             text,
    status           text NOT NULL,
    visibility       text NOT NULL,
    hidden           boolean NOT NULL,
    protected        boolean NOT NULL,
    disk_format      text,
    container_format text,
    min_disk         int  NOT NULL,
    min_ram          int  NOT NULL,
    size             bigint,
    virtual_size     bigint,
    checksum         text,
    os_hash_algo     text,
    os_hash_value    text,
    tags             text[] NOT NULL,
    properties       text[] NOT NULL,            -- 'length:name=value'
    created_at       timestamptz NOT NULL,
    updated_at       timestamptz NOT NULL,
    work             text,                       -- kind of the outstanding work, if any
    due_at           timestamptz,                -- when it may be taken up
    node             text                        -- the only node that can, where staging is not shared
) WITH (fillfactor = 70);
CREATE INDEX images_work ON images (due_at) WHERE work IS NOT NULL;
CREATE INDEX images_of_owner ON images (owner, created_at DESC, id DESC) WHERE status NOT IN ('deleted', 'pending_delete');
CREATE INDEX images_newest ON images (created_at DESC, id DESC) WHERE status NOT IN ('deleted', 'pending_delete');
CREATE INDEX images_public ON images (created_at DESC, id DESC)
    WHERE visibility = 'public' AND status NOT IN ('deleted', 'pending_delete');
CREATE INDEX images_name ON images (name, created_at DESC, id DESC) WHERE status NOT IN ('deleted', 'pending_delete');

CREATE TABLE members (
    image      uuid NOT NULL,
    member     text NOT NULL,
    status     text NOT NULL,
    removed    boolean NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (member, image)
);

CREATE TABLE tasks (
    id         uuid PRIMARY KEY,
    image      uuid,
    image_id   text,
    type       text NOT NULL,
    status     text NOT NULL,
    owner      text,
    document   json NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    expires_at timestamptz
) WITH (fillfactor = 70);
CREATE INDEX tasks_of_image ON tasks (image, created_at);
CREATE INDEX tasks_of_owner ON tasks (owner, created_at);

CREATE TABLE usage (
    owner    text   NOT NULL,
    resource text   NOT NULL,
    amount   bigint NOT NULL,
    PRIMARY KEY (owner, resource)
) WITH (fillfactor = 50);

-- Who works on a stream.  A row once made stays until the stream's last work is
-- done, so that its epoch never runs backwards.
CREATE TABLE leases (
    stream   uuid   PRIMARY KEY,
    owner    uuid,
    node     text,
    epoch    bigint NOT NULL,
    until    timestamptz NOT NULL,               -- '-infinity': given back; past: whoever held it is presumed dead
    yielding boolean NOT NULL DEFAULT false,     -- held for clean-up only: whoever has real work may take it
    progress json,
    project  text,                               -- whose quota `reserved` counts against
    resource text,
    reserved bigint NOT NULL DEFAULT 0           -- bytes of a transfer of unknown size, while it lives
) WITH (fillfactor = 50);
CREATE INDEX leases_reserved ON leases (project, resource) WHERE reserved > 0;

-- What a restart needs and no log may hold; encrypted by the service.
CREATE TABLE secrets (
    stream  uuid NOT NULL,
    name    text NOT NULL,
    data    bytea NOT NULL,
    made_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (stream, name)
);

-- Positions of those who read the log; one process at a time drives a consumer.
CREATE TABLE consumers (
    name     text   PRIMARY KEY,
    position bigint NOT NULL DEFAULT 0,
    owner    uuid,
    epoch    bigint NOT NULL DEFAULT 0,
    until    timestamptz NOT NULL DEFAULT '-infinity',
    parked   json                                -- what could not be delivered, by stream
) WITH (fillfactor = 50);

CREATE FUNCTION chain_step(state bytea, seed bytea, item bytea) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT sha256(coalesce(state, seed) || item) $$;
-- Hash of a run of events in order, starting from the hash before the run.
CREATE AGGREGATE chain(seed bytea, item bytea) (sfunc = chain_step, stype = bytea);

-- The bytes of an event that its hash covers, each field with its length before it.
CREATE FUNCTION hashed_bytes(category text, stream uuid, version int, event_id uuid, type text, data text, meta text)
RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT int4send(octet_length(category)) || convert_to(category, 'UTF8')
      || int4send(16) || uuid_send(stream)
      || int4send(4)  || int4send(version)
      || int4send(16) || uuid_send(event_id)
      || int4send(octet_length(type)) || convert_to(type, 'UTF8')
      || int4send(octet_length(data)) || convert_to(data, 'UTF8')
      || int4send(octet_length(meta)) || convert_to(meta, 'UTF8')
$$;

-- Requests are numbered 1..n; a stream occurs at most once in a call, and so does an owner whose limits are checked.
--   expected     version the stream must have; NULL: any (then `docs` must be NULL too)
--   holders      NULL, or the lease owner on whose behalf the outcome is recorded, with its epoch
--   docs         NULL, or what follows from the events, applied only if the request is accepted:
--                image {…}, tasks […], members […], charges [[owner, resource, delta, limit or null]],
--                take {owner, node, epoch, ttl, yielding}, release, park (seconds), secrets [{name, data}], forget, interrupt
-- Event i belongs to request req[i] (ascending) and is its nth[i]-th.
-- outcome: accepted | repeated | conflict | fenced | held | over_quota
CREATE FUNCTION append(categories text[], streams uuid[], expected int[], holders uuid[], epochs bigint[], docs json[],
                       req int[], nth int[], ids uuid[], types text[], datas json[], metas json[], channel text)
RETURNS TABLE (request int, outcome text, stream_version int, first_position bigint, detail json) LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
  head bigint;
  head_hash bytea;
  ok boolean[];
  current int[];
  outcomes text[];
  stored int[];
  firsts bigint[];
  details json[];
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'append needs READ COMMITTED' USING ERRCODE = 'invalid_transaction_state';
  END IF;
  -- Its own statement: the snapshot of what follows is then newer than every earlier append.
  PERFORM pg_advisory_xact_lock('events'::regclass::oid::bigint);
  SELECT position, hash INTO head, head_hash FROM events ORDER BY position DESC LIMIT 1;
  head := coalesce(head, 0);
  head_hash := coalesce(head_hash, '\x'::bytea);
  PERFORM pg_notify(channel, '');

  WITH r AS MATERIALIZED (
    SELECT k::int, c, s, x, h, ep, d,
           coalesce((SELECT max(e.version) FROM events e WHERE e.stream = s AND e.category = c), 0) AS cur
    FROM unnest(categories, streams, expected, holders, epochs, docs) WITH ORDINALITY AS u(c, s, x, h, ep, d, k)
  ), rep AS MATERIALIZED (                      -- its first event is here already: an answer got lost
    SELECT q AS k, e.version + (SELECT count(*)::int FROM unnest(req) n WHERE n = q) - 1 AS v, e.position AS p
    FROM unnest(req, nth, ids) AS u(q, n, id) JOIN events e ON e.event_id = u.id WHERE u.n = 1
  ), judged AS MATERIALIZED (
    SELECT r.k, r.cur, rep.v, rep.p, over.detail,
           CASE WHEN rep.k IS NOT NULL THEN 'repeated'
                WHEN r.h IS NOT NULL AND NOT EXISTS
                     (SELECT FROM leases l WHERE l.stream = r.s AND l.owner = r.h AND l.epoch = r.ep) THEN 'fenced'
                WHEN r.x IS NOT NULL AND r.x <> r.cur THEN 'conflict'
                WHEN r.d->'take' IS NOT NULL AND EXISTS
                     (SELECT FROM leases l WHERE l.stream = r.s
                      AND (l.epoch >= (r.d->'take'->>'epoch')::bigint OR (l.until > clock_timestamp() AND NOT l.yielding))
                      AND (l.owner = (r.d->'take'->>'owner')::uuid AND l.epoch = (r.d->'take'->>'epoch')::bigint
                           AND l.yielding = coalesce((r.d->'take'->>'yielding')::boolean, false)) IS NOT TRUE)
                     THEN 'held'
                WHEN over.detail IS NOT NULL THEN 'over_quota'
                ELSE 'accepted' END AS o
    FROM r LEFT JOIN rep ON rep.k = r.k LEFT JOIN LATERAL (
      SELECT json_build_array(t->>1, (t->>3)::bigint, used, (t->>2)::bigint) AS detail
      FROM json_array_elements(r.d->'charges') AS t, LATERAL (
        SELECT coalesce((SELECT sum(u.amount) FROM usage u WHERE u.owner = t->>0 AND u.resource = t->>1), 0)
             + coalesce((SELECT sum(l.reserved) FROM leases l WHERE l.project = t->>0 AND l.resource = t->>1
                         AND l.reserved > 0 AND l.until > clock_timestamp() AND l.stream <> r.s), 0) AS used) AS now
      WHERE t->>3 IS NOT NULL AND (t->>2)::bigint >= 0 AND used + (t->>2)::bigint > (t->>3)::bigint
      LIMIT 1) AS over ON true
  )
  SELECT array_agg(o = 'accepted' ORDER BY k), array_agg(cur ORDER BY k), array_agg(o ORDER BY k),
         array_agg(v ORDER BY k), array_agg(p ORDER BY k), array_agg(judged.detail ORDER BY k)
  INTO ok, current, outcomes, stored, firsts, details FROM judged;

  INSERT INTO events (position, category, stream, version, event_id, type, data, meta, hash)
  SELECT head + row_number() OVER w, c, s, v, id, t, d, m,
         chain(head_hash, hashed_bytes(c, s, v, id, t, d::text, m::text)) OVER w
  FROM (
    SELECT categories[q] AS c, streams[q] AS s, current[q] + n AS v, id, t, d, m, i
    FROM unnest(req, nth, ids, types, datas, metas) WITH ORDINALITY AS u(q, n, id, t, d, m, i) WHERE ok[q]
  ) AS fresh WINDOW w AS (ORDER BY i);

  INSERT INTO images AS t SELECT p.* FROM unnest(docs, ok) AS u(d, fine), LATERAL json_populate_record(NULL::images, d->'image') AS p
  WHERE fine AND d->'image' IS NOT NULL
  ON CONFLICT (id) DO UPDATE SET
    version = excluded.version, fold = excluded.fold, state = excluded.state, owner = excluded.owner, name = excluded.name,
    status = excluded.status, visibility = excluded.visibility, hidden = excluded.hidden, protected = excluded.protected,
    disk_format = excluded.disk_format, container_format = excluded.container_format, min_disk = excluded.min_disk,
    min_ram = excluded.min_ram, size = excluded.size, virtual_size = excluded.virtual_size, checksum = excluded.checksum,
    os_hash_algo = excluded.os_hash_algo, os_hash_value = excluded.os_hash_value, tags = excluded.tags,
    properties = excluded.properties, updated_at = excluded.updated_at, work = excluded.work, due_at = excluded.due_at,
    node = excluded.node;

  INSERT INTO tasks AS t SELECT p.* FROM unnest(docs, ok) AS u(d, fine), LATERAL json_populate_recordset(NULL::tasks, d->'tasks') AS p
  WHERE fine AND d->'tasks' IS NOT NULL
  ON CONFLICT (id) DO UPDATE SET status = excluded.status, document = excluded.document,
    updated_at = excluded.updated_at, expires_at = excluded.expires_at;

  INSERT INTO members AS t SELECT p.* FROM unnest(docs, ok) AS u(d, fine), LATERAL json_populate_recordset(NULL::members, d->'members') AS p
  WHERE fine AND d->'members' IS NOT NULL
  ON CONFLICT (member, image) DO UPDATE SET status = excluded.status, removed = excluded.removed, updated_at = excluded.updated_at;

  INSERT INTO usage AS t (owner, resource, amount)
  SELECT c->>0, c->>1, sum((c->>2)::bigint) FROM unnest(docs, ok) AS u(d, fine), LATERAL json_array_elements(d->'charges') AS c
  WHERE fine AND d->'charges' IS NOT NULL GROUP BY 1, 2 HAVING sum((c->>2)::bigint) <> 0 ORDER BY 1, 2
  ON CONFLICT (owner, resource) DO UPDATE SET amount = t.amount + excluded.amount;

  INSERT INTO leases AS t (stream, owner, node, epoch, until, yielding, project, resource)
  SELECT s, (d->'take'->>'owner')::uuid, d->'take'->>'node', (d->'take'->>'epoch')::bigint,
         clock_timestamp() + (d->'take'->>'ttl')::float8 * interval '1 second',
         coalesce((d->'take'->>'yielding')::boolean, false), d->'take'->>'project', d->'take'->>'resource'
  FROM unnest(streams, docs, ok) AS u(s, d, fine) WHERE fine AND d->'take' IS NOT NULL
  ON CONFLICT (stream) DO UPDATE SET owner = excluded.owner, node = excluded.node, epoch = excluded.epoch,
    until = excluded.until, yielding = excluded.yielding, progress = NULL, project = excluded.project, resource = excluded.resource, reserved = 0;

  UPDATE leases l SET owner = NULL, progress = NULL, reserved = 0,
         until = CASE WHEN d->'park' IS NULL THEN '-infinity' ELSE clock_timestamp() + (d->>'park')::float8 * interval '1 second' END
  FROM unnest(streams, docs, ok) AS u(s, d, fine)
  WHERE fine AND (d->'release' IS NOT NULL OR d->'park' IS NOT NULL) AND l.stream = s;

  INSERT INTO secrets AS t (stream, name, data)
  SELECT s, x->>'name', decode(x->>'data', 'base64')
  FROM unnest(streams, docs, ok) AS u(s, d, fine), LATERAL json_array_elements(d->'secrets') AS x
  WHERE fine AND d->'secrets' IS NOT NULL
  ON CONFLICT (stream, name) DO UPDATE SET data = excluded.data, made_at = clock_timestamp();

  DELETE FROM secrets t USING unnest(streams, docs, ok) AS u(s, d, fine)
  WHERE fine AND d->'forget' IS NOT NULL AND t.stream = s;

  PERFORM pg_notify(channel || '_interrupt', s::text) FROM unnest(streams, docs, ok) AS u(s, d, fine)
  WHERE fine AND d->'interrupt' IS NOT NULL;

  RETURN QUERY
  SELECT k::int, outcomes[k], coalesce(stored[k], current[k] + coalesce(mine.n, 0)),
         coalesce(firsts[k], mine.p), details[k]
  FROM generate_subscripts(streams, 1) AS k
  LEFT JOIN (SELECT q, count(*)::int AS n, head + min(rank) AS p
             FROM (SELECT q, row_number() OVER (ORDER BY i) AS rank
                   FROM unnest(req) WITH ORDINALITY AS u(q, i) WHERE ok[q]) AS placed GROUP BY q) AS mine ON mine.q = k
  ORDER BY k;
END $$;

-- Renewal takes the lock of `append` too: the two then never wait for each other's rows crosswise.
-- Returns what is still held; a lease that has run out but that nobody has taken is simply held again.
CREATE FUNCTION renew_leases(me uuid, ttl float8, held uuid[], held_epochs bigint[], progresses json[])
RETURNS TABLE (stream uuid) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
  PERFORM pg_advisory_xact_lock('events'::regclass::oid::bigint);
  RETURN QUERY
  UPDATE leases l SET until = clock_timestamp() + ttl * interval '1 second', progress = p
  FROM unnest(held, held_epochs, progresses) AS u(s, e, p)
  WHERE l.stream = s AND l.epoch = e AND l.owner = me RETURNING l.stream;
END $$;

-- Take over, or keep, the right to drive a consumer; NULL when somebody else has it.
CREATE FUNCTION hold_consumer(consumer text, me uuid, ttl float8) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE result bigint;
BEGIN
  INSERT INTO consumers (name) VALUES (consumer) ON CONFLICT DO NOTHING;
  UPDATE consumers SET epoch = CASE WHEN owner = me THEN epoch ELSE epoch + 1 END, owner = me,
         until = clock_timestamp() + ttl * interval '1 second'
  WHERE name = consumer AND (owner = me OR until < clock_timestamp()) RETURNING epoch INTO result;
  RETURN result;
END $$;
