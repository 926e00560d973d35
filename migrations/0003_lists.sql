-- Lists of images at any size: `images` holds what lists are filtered and sorted by, and nothing else.
--
-- The state moves to a table of its own.  Rows become a quarter as wide, so that even a list that no index helps
-- reads a hundred thousand of them in time; and a new state no longer touches an index.
-- Appends still hand the state over in the image's row: the trigger puts it where it belongs.

CREATE TABLE states (
    id      uuid PRIMARY KEY,
    version int  NOT NULL,
    fold    int  NOT NULL,                       -- version of the fold that made `state`
    state   json NOT NULL
) WITH (fillfactor = 70);

ALTER TABLE images ALTER COLUMN state DROP NOT NULL;
ALTER TABLE images SET (fillfactor = 95);

CREATE FUNCTION keep_state() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO states VALUES (NEW.id, NEW.version, NEW.fold, NEW.state)
  ON CONFLICT (id) DO UPDATE SET version = excluded.version, fold = excluded.fold, state = excluded.state;
  NEW.state := NULL;
  RETURN NEW;
END $$;
CREATE TRIGGER keep_state BEFORE INSERT OR UPDATE ON images
    FOR EACH ROW WHEN (NEW.state IS NOT NULL) EXECUTE FUNCTION keep_state();

-- One order an index; each is read in both directions.  Nulls come before everything else.
DROP INDEX images_of_owner, images_newest, images_public, images_name;
UPDATE images SET state = state;                 -- the trigger moves it
CREATE INDEX images_of_owner ON images (owner, hidden, created_at, id) WHERE status NOT IN ('deleted', 'pending_delete');
CREATE INDEX images_newest ON images (hidden, created_at, id) WHERE status NOT IN ('deleted', 'pending_delete');
CREATE INDEX images_visibility ON images (visibility, hidden, created_at, id)
    WHERE status NOT IN ('deleted', 'pending_delete');
CREATE INDEX images_status ON images (status, created_at, id) WHERE status NOT IN ('deleted', 'pending_delete');
CREATE INDEX images_name ON images (name NULLS FIRST, created_at, id) WHERE status NOT IN ('deleted', 'pending_delete');
CREATE INDEX images_disk_format ON images (disk_format NULLS FIRST, created_at, id)
    WHERE status NOT IN ('deleted', 'pending_delete');
CREATE INDEX images_container ON images (container_format NULLS FIRST, created_at, id)
    WHERE status NOT IN ('deleted', 'pending_delete');
CREATE INDEX images_size ON images (size NULLS FIRST, created_at, id) WHERE status NOT IN ('deleted', 'pending_delete');
CREATE INDEX images_changed ON images (updated_at) WHERE status NOT IN ('deleted', 'pending_delete');
CREATE INDEX images_protected ON images (created_at, id) WHERE protected AND status NOT IN ('deleted', 'pending_delete');
CREATE INDEX images_checksum ON images USING hash (checksum) WHERE checksum IS NOT NULL;
CREATE INDEX images_hash ON images USING hash (os_hash_value) WHERE os_hash_value IS NOT NULL;

-- What an image has, for lists that ask for it.  The list of what is still to be sorted in stays short: every
-- such query reads it whole.
CREATE INDEX images_tags ON images USING gin (tags) WITH (gin_pending_list_limit = 256);
CREATE INDEX images_properties ON images USING gin (properties) WITH (gin_pending_list_limit = 256);
