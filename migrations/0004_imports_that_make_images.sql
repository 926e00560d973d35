-- Imports that make the image they import: tasks of the type `import`, and /v2/image-imports.
--
-- Their image lives in `images` from the start, with the status `expected`, which no
-- request sees; the records of image imports are rows of `tasks` of a type of their own.

-- An image is as old as it is visible: it appears with the time of its appearance.
DO $$
DECLARE
  was text := pg_get_functiondef('append'::regproc);
  now text := replace(was, 'properties = excluded.properties, updated_at =',
                      'properties = excluded.properties, created_at = excluded.created_at, updated_at =');
BEGIN
  IF now = was THEN
    RAISE EXCEPTION 'append does not look as this migration expects it';
  END IF;
  EXECUTE now;
END $$;

-- Pages of each resource, for one project and for all; what has expired is left out by its time.
DROP INDEX tasks_of_owner;
CREATE INDEX tasks_of_owner ON tasks (owner, created_at, id) WHERE type <> 'image_import';
CREATE INDEX tasks_newest ON tasks (created_at, id) WHERE type <> 'image_import';
CREATE INDEX image_imports_of_owner ON tasks (owner, created_at, id) WHERE type = 'image_import';
CREATE INDEX image_imports_newest ON tasks (created_at, id) WHERE type = 'image_import';
CREATE INDEX tasks_expiry ON tasks (expires_at);
