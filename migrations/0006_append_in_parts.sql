-- What follows from an append travels in parts, and each is parsed once.
--
-- A request used to bring one JSON document, which every statement of `append` parsed anew to look whether there was
-- something in it for it: half the time of creating an image.  Now each kind of row comes as arrays of its own, with
-- the number of the request it belongs to, and a statement that has nothing to write is not run.

-- Beside `states`, what `images` has of it says nothing.
DROP TRIGGER keep_state ON images;
DROP FUNCTION keep_state();
ALTER TABLE images DROP COLUMN state, DROP COLUMN fold;

DROP FUNCTION append(text[], uuid[], int[], uuid[], bigint[], json[], int[], int[], uuid[], text[], json[], json[], text);

-- As before, byte by byte; lengths that never differ are written down.
CREATE OR REPLACE FUNCTION hashed_bytes(category text, stream uuid, version int, event_id uuid, type text, data text, meta text)
RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT int4send(octet_length(category)) || convert_to(category, 'UTF8')
      || '\x00000010'::bytea || uuid_send(stream) || '\x00000004'::bytea || int4send(version)
      || '\x00000010'::bytea || uuid_send(event_id)
      || int4send(octet_length(type)) || convert_to(type, 'UTF8')
      || int4send(octet_length(data)) || convert_to(data, 'UTF8')
      || int4send(octet_length(meta)) || convert_to(meta, 'UTF8')
$$;

-- Requests are numbered 1..n; a stream occurs at most once in a call, and so does an owner whose limits are checked.
--   expected     version the stream must have; NULL: any (then nothing may follow from it)
--   holders      NULL, or the lease owner on whose behalf the outcome is recorded, with its epoch
--   takes        NULL, or the lease to take: {owner, node, epoch, ttl, yielding, project, resource}
--   parks        NULL, or: give the lease back, and let nobody have it for so many seconds; '-infinity': anybody at once
-- Event i belongs to request event_of[i] (ascending) and is its nth[i]-th.
-- What follows, applied only if the request is accepted, names it by its number in the array beside it:
--   image_rows, with versions, folds and states; task_rows; member_rows
--   charges      owner, resource, delta, and the limit it is held to or NULL
--   secrets, and the requests that forget theirs
--   interrupts   requests whose stream's worker is to look up
-- outcome: accepted | repeated | conflict | fenced | held | over_quota
CREATE FUNCTION append(
  categories text[], streams uuid[], expected int[], holders uuid[], epochs bigint[], takes json[], parks float8[],
  event_of int[], nth int[], ids uuid[], types text[], datas json[], metas json[],
  image_of int[], image_rows json[], versions int[], folds int[], states json[],
  task_of int[], task_rows json[], member_of int[], member_rows json[],
  charge_of int[], charge_owners text[], charge_resources text[], charge_deltas bigint[], charge_limits bigint[],
  secret_of int[], secret_names text[], secret_datas bytea[], forgets int[], interrupts int[], channel text)
RETURNS TABLE (outcome text, stream_version int, first_position bigint, detail json) LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
  head bigint;
  head_hash bytea;
  current int[];
  outcomes text[];
  stored int[];
  firsts bigint[];
  details json[];
  q int;
  again int;
  place bigint;
  excess json;
  places bigint[] := array_fill(NULL::bigint, ARRAY[cardinality(event_of)]);
  hashes bytea[] := array_fill(NULL::bytea, ARRAY[cardinality(event_of)]);
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

  -- Each question is asked only where it arises, for to set a statement up costs more than to run it; what weighs
  -- more comes later and has the last word.
  SELECT array_agg(coalesce((SELECT max(e.version) FROM events e WHERE e.stream = s AND e.category = c), 0) ORDER BY k)
  INTO current FROM unnest(categories, streams) WITH ORDINALITY AS u(c, s, k);
  stored := current;
  outcomes := array_fill('accepted'::text, ARRAY[cardinality(streams)]);
  firsts := array_fill(NULL::bigint, ARRAY[cardinality(streams)]);
  details := array_fill(NULL::json, ARRAY[cardinality(streams)]);

  IF num_nonnulls(VARIADIC charge_limits) > 0 THEN
    FOR q, excess IN
      SELECT q, json_build_array(res, most, used, delta)
      FROM unnest(charge_of, charge_owners, charge_resources, charge_deltas, charge_limits) AS u(q, own, res, delta, most),
      LATERAL (
        SELECT coalesce((SELECT sum(u.amount) FROM usage u WHERE u.owner = own AND u.resource = res), 0)
             + coalesce((SELECT sum(l.reserved) FROM leases l WHERE l.project = own AND l.resource = res
                         AND l.reserved > 0 AND l.until > clock_timestamp() AND l.stream <> streams[q]), 0) AS used) AS now
      WHERE most IS NOT NULL AND delta >= 0 AND used + delta > most
    LOOP
      outcomes[q] := 'over_quota';
      details[q] := excess;
    END LOOP;
  END IF;

  IF num_nonnulls(VARIADIC takes) > 0 THEN
    FOR q IN
      SELECT k FROM unnest(streams, takes) WITH ORDINALITY AS u(s, t, k)
      CROSS JOIN LATERAL json_to_record(t) AS w(owner uuid, epoch bigint, yielding boolean) JOIN leases l ON l.stream = s
      WHERE t IS NOT NULL AND (l.epoch >= w.epoch OR (l.until > clock_timestamp() AND NOT l.yielding))
      AND (l.owner = w.owner AND l.epoch = w.epoch AND l.yielding = coalesce(w.yielding, false)) IS NOT TRUE
    LOOP
      outcomes[q] := 'held';
    END LOOP;
  END IF;

  FOR i IN 1 .. cardinality(streams) LOOP
    IF expected[i] <> current[i] THEN outcomes[i] := 'conflict'; END IF;
  END LOOP;

  IF num_nonnulls(VARIADIC holders) > 0 THEN
    FOR q IN
      SELECT k FROM unnest(streams, holders, epochs) WITH ORDINALITY AS u(s, h, ep, k)
      WHERE h IS NOT NULL AND NOT EXISTS (SELECT FROM leases l WHERE l.stream = s AND l.owner = h AND l.epoch = ep)
    LOOP
      outcomes[q] := 'fenced';
    END LOOP;
  END IF;

  -- Their first events are here already: an answer got lost.  OFFSET 0 keeps the planner from reading the whole log
  -- instead, which looks cheap as long as the log is short.
  FOR q, again, place IN
    SELECT q, e.version, e.position FROM unnest(event_of, nth, ids) AS u(q, n, id),
    LATERAL (SELECT version, position FROM events WHERE event_id = u.id OFFSET 0) AS e WHERE n = 1
  LOOP
    outcomes[q] := 'repeated';
    firsts[q] := place;
    stored[q] := again + (SELECT count(*)::int FROM unnest(event_of) n WHERE n = q) - 1;
  END LOOP;

  -- A loop over simple expressions takes half the time of an aggregate that calls a function of its own.
  FOR i IN 1 .. cardinality(event_of) LOOP
    q := event_of[i];
    CONTINUE WHEN outcomes[q] <> 'accepted';
    head := head + 1;
    stored[q] := current[q] + nth[i];
    IF nth[i] = 1 THEN firsts[q] := head; END IF;
    head_hash := sha256(head_hash || hashed_bytes(categories[q], streams[q], stored[q], ids[i], types[i],
                                                  datas[i]::text, metas[i]::text));
    places[i] := head;
    hashes[i] := head_hash;
  END LOOP;

  INSERT INTO events (position, category, stream, version, event_id, type, data, meta, hash)
  SELECT p, categories[q], streams[q], current[q] + n, id, t, d, m, h
  FROM unnest(event_of, nth, ids, types, datas, metas, places, hashes) AS u(q, n, id, t, d, m, p, h) WHERE outcomes[q] = 'accepted';

  IF cardinality(image_of) > 0 THEN
    INSERT INTO states AS t (id, version, fold, state)
    SELECT streams[q], v, f, s FROM unnest(image_of, versions, folds, states) AS u(q, v, f, s) WHERE outcomes[q] = 'accepted'
    ON CONFLICT (id) DO UPDATE SET version = excluded.version, fold = excluded.fold, state = excluded.state;

    INSERT INTO images AS t
    SELECT p.* FROM unnest(image_of, image_rows) AS u(q, d), LATERAL json_populate_record(NULL::images, d) AS p WHERE outcomes[q] = 'accepted'
    ON CONFLICT (id) DO UPDATE SET
      version = excluded.version, owner = excluded.owner, name = excluded.name, status = excluded.status,
      visibility = excluded.visibility, hidden = excluded.hidden, protected = excluded.protected,
      disk_format = excluded.disk_format, container_format = excluded.container_format, min_disk = excluded.min_disk,
      min_ram = excluded.min_ram, size = excluded.size, virtual_size = excluded.virtual_size, checksum = excluded.checksum,
      os_hash_algo = excluded.os_hash_algo, os_hash_value = excluded.os_hash_value, tags = excluded.tags,
      properties = excluded.properties, created_at = excluded.created_at, updated_at = excluded.updated_at,
      work = excluded.work, due_at = excluded.due_at, node = excluded.node;
  END IF;

  IF cardinality(task_of) > 0 THEN
    INSERT INTO tasks AS t
    SELECT p.* FROM unnest(task_of, task_rows) AS u(q, d), LATERAL json_populate_record(NULL::tasks, d) AS p WHERE outcomes[q] = 'accepted'
    ON CONFLICT (id) DO UPDATE SET status = excluded.status, document = excluded.document,
      updated_at = excluded.updated_at, expires_at = excluded.expires_at;
  END IF;

  IF cardinality(member_of) > 0 THEN
    INSERT INTO members AS t
    SELECT p.* FROM unnest(member_of, member_rows) AS u(q, d), LATERAL json_populate_record(NULL::members, d) AS p WHERE outcomes[q] = 'accepted'
    ON CONFLICT (member, image) DO UPDATE SET status = excluded.status, removed = excluded.removed, updated_at = excluded.updated_at;
  END IF;

  IF cardinality(charge_of) > 0 THEN
    INSERT INTO usage AS t (owner, resource, amount)
    SELECT o, r, sum(n) FROM unnest(charge_of, charge_owners, charge_resources, charge_deltas) AS u(q, o, r, n) WHERE outcomes[q] = 'accepted'
    GROUP BY o, r HAVING sum(n) <> 0 ORDER BY o, r
    ON CONFLICT (owner, resource) DO UPDATE SET amount = t.amount + excluded.amount;
  END IF;

  IF num_nonnulls(VARIADIC takes) > 0 THEN
    INSERT INTO leases AS t (stream, owner, node, epoch, until, yielding, project, resource)
    SELECT s, w.owner, w.node, w.epoch, clock_timestamp() + w.ttl * interval '1 second', coalesce(w.yielding, false),
           w.project, w.resource
    FROM unnest(streams, takes, outcomes) AS u(s, d, o),
         LATERAL json_to_record(d) AS w(owner uuid, node text, epoch bigint, ttl float8, yielding boolean,
                                        project text, resource text)
    WHERE o = 'accepted' AND d IS NOT NULL
    ON CONFLICT (stream) DO UPDATE SET owner = excluded.owner, node = excluded.node, epoch = excluded.epoch,
      until = excluded.until, yielding = excluded.yielding, progress = NULL, project = excluded.project,
      resource = excluded.resource, reserved = 0;
  END IF;

  IF num_nonnulls(VARIADIC parks) > 0 THEN
    UPDATE leases l SET owner = NULL, progress = NULL, reserved = 0,
           until = CASE WHEN p = '-infinity' THEN '-infinity' ELSE clock_timestamp() + p * interval '1 second' END
    FROM unnest(streams, parks, outcomes) AS u(s, p, o) WHERE o = 'accepted' AND p IS NOT NULL AND l.stream = s;
  END IF;

  IF cardinality(secret_of) > 0 THEN
    INSERT INTO secrets AS t (stream, name, data)
    SELECT streams[q], n, d FROM unnest(secret_of, secret_names, secret_datas) AS u(q, n, d) WHERE outcomes[q] = 'accepted'
    ON CONFLICT (stream, name) DO UPDATE SET data = excluded.data, made_at = clock_timestamp();
  END IF;

  IF cardinality(forgets) > 0 THEN
    DELETE FROM secrets t USING unnest(forgets) AS q WHERE outcomes[q] = 'accepted' AND t.stream = streams[q];
  END IF;

  IF cardinality(interrupts) > 0 THEN
    PERFORM pg_notify(channel || '_interrupt', streams[q]::text) FROM unnest(interrupts) AS q WHERE outcomes[q] = 'accepted';
  END IF;

  RETURN QUERY SELECT * FROM unnest(outcomes, stored, firsts, details);
END $$;
