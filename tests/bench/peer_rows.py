"""As many images in the peer's database as in ours, written by SQL: through its API they would take hours.

The images are those of `tests/listing/filling.py` in kind and number: the same shares of visibilities, statuses
and tags, nine properties each, a location where there is data.  Their ids begin alike, so that they can be removed.
"""

from __future__ import annotations

from typing import Any, Final

import asyncpg

PREFIX: Final = "be9c4000-"
"""How the ids of images made here begin."""

REMOVE: Final = f"""
WITH tags AS (DELETE FROM image_tags WHERE image_id LIKE '{PREFIX}%'),
     properties AS (DELETE FROM image_properties WHERE image_id LIKE '{PREFIX}%'),
     locations AS (DELETE FROM image_locations WHERE image_id LIKE '{PREFIX}%')
DELETE FROM images WHERE id LIKE '{PREFIX}%'
"""

_DICE: Final = """
CREATE TEMP TABLE dice ON COMMIT DROP AS
SELECT n, timestamp '2026-01-02 03:04:05' + n * interval '1 second' AS at,
       substr(md5(n::text), 1, 4) || '-4' || substr(md5(n::text), 5, 3) || '-8' || substr(md5(n::text), 8, 3)
         || '-' || substr(md5(n::text), 11, 12) AS tail,
       random() AS sight, random() AS fate, random() AS linux, random() AS golden, random() AS nightly,
       random() AS usual, random() AS unseen, random() AS owned, floor(random() * 30)::int AS release,
       floor(random() * 5)::int AS system, (random() * 17e9)::bigint AS bytes
FROM generate_series(1, $1::int) AS n
"""

_IMAGES: Final = f"""
INSERT INTO images (id, name, size, virtual_size, status, created_at, updated_at, deleted_at, deleted, disk_format,
                    container_format, checksum, os_hash_algo, os_hash_value, owner, min_disk, min_ram,
                    visibility, os_hidden)
SELECT '{PREFIX}' || tail, CASE WHEN usual < 0.01 THEN 'ubuntu-22.04' ELSE 'image-' || n END,
       CASE WHEN fate >= 0.1 THEN bytes END, CASE WHEN fate >= 0.1 THEN bytes END,
       CASE WHEN fate < 0.1 THEN 'queued' WHEN fate < 0.95 THEN 'active' WHEN fate < 0.97 THEN 'deactivated'
            ELSE 'deleted' END,
       at, at, CASE WHEN fate >= 0.97 THEN at END, fate >= 0.97,
       CASE WHEN n % 2 = 0 THEN 'raw' ELSE 'qcow2' END, 'bare',
       CASE WHEN fate >= 0.1 THEN md5(n::text) END, CASE WHEN fate >= 0.1 THEN 'sha512' END,
       CASE WHEN fate >= 0.1 THEN repeat(md5(n::text), 4) END,
       CASE WHEN owned < 0.95 THEN $1 ELSE 'p' || n % 40 END, 0, (ARRAY[0, 512, 2048])[n % 3 + 1],
       (CASE WHEN sight < 0.70 THEN 'private' WHEN sight < 0.92 THEN 'shared' WHEN sight < 0.96 THEN 'community'
             ELSE 'public' END)::image_visibility,
       unseen < 0.01
FROM dice
"""

_PROPERTIES: Final = f"""
INSERT INTO image_properties (image_id, name, value, created_at, updated_at, deleted)
SELECT '{PREFIX}' || tail, p.name, p.value, at, at, fate >= 0.97
FROM dice, LATERAL (VALUES
  ('architecture', 'x86_64'), ('hw_disk_bus', 'virtio'), ('hw_scsi_model', 'virtio-scsi'),
  ('os_distro', (ARRAY['ubuntu', 'debian', 'fedora', 'centos', 'windows'])[system + 1]), ('os_version', release::text),
  ('owner_specified.openstack.md5', ''), ('owner_specified.openstack.object', 'images/image-' || n),
  ('owner_specified.openstack.sha256', ''), ('serial', n::text)) AS p (name, value)
"""

_TAGS: Final = f"""
INSERT INTO image_tags (image_id, value, created_at, updated_at, deleted)
SELECT '{PREFIX}' || tail, t.value, at, at, fate >= 0.97
FROM dice,
  LATERAL (VALUES ('linux', linux < 0.5), ('golden', golden < 0.001), ('nightly', nightly < 0.1)) AS t (value, has)
WHERE t.has
"""

_LOCATIONS: Final = f"""
INSERT INTO image_locations (image_id, value, meta_data, status, created_at, updated_at, deleted)
SELECT '{PREFIX}' || tail, 'file:///nowhere/' || n, '{{"store": "' || $1 || '"}}', 'active', at, at, fate >= 0.97
FROM dice WHERE fate >= 0.1
"""


async def fill_peer(dsn: str, images: int, owner: str, store: str) -> int:
    """Have so many images there, nearly all of one project; what an earlier run left is kept if it is that many."""
    connection: Any = await asyncpg.connect(dsn)
    try:
        there: int = await connection.fetchval(f"SELECT count(*) FROM images WHERE id LIKE '{PREFIX}%'")
        if there != images:
            async with connection.transaction():
                await connection.execute(REMOVE)
                await connection.execute("SELECT setseed(0.7)")
                await connection.execute(_DICE.replace("$1", str(images)))
                await connection.execute(_IMAGES.replace("$1", _quoted(owner)))
                await connection.execute(_PROPERTIES)
                await connection.execute(_TAGS)
                await connection.execute(_LOCATIONS.replace("$1", _quoted(store)))
        await connection.execute("VACUUM ANALYZE")
        return int(await connection.fetchval("SELECT count(*) FROM images"))
    finally:
        await connection.close()


async def empty_peer(dsn: str) -> str:
    """Remove what `fill_peer` wrote."""
    connection: Any = await asyncpg.connect(dsn)
    try:
        return str(await connection.execute(REMOVE, timeout=600))
    finally:
        await connection.close()


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
