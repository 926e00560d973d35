-- Lists that had to look at every image: filters that few or none pass, and the public ones among the images of others.
--
-- All of these indexes are partial and hold little or nothing where clouds are as they usually are, so that writing
-- an image costs no more than before.

-- Public images are few; among them, orders and filters other than the time of creation start here.
CREATE INDEX images_public_name ON images (name NULLS FIRST, created_at, id)
    WHERE visibility = 'public' AND status NOT IN ('deleted', 'pending_delete');
CREATE INDEX images_public_status ON images (status, created_at, id)
    WHERE visibility = 'public' AND status NOT IN ('deleted', 'pending_delete');
CREATE INDEX images_public_size ON images (size NULLS FIRST, created_at, id)
    WHERE visibility = 'public' AND status NOT IN ('deleted', 'pending_delete');

-- Most images ask for no memory and no disk.
CREATE INDEX images_min_ram ON images (min_ram) WHERE min_ram > 0 AND status NOT IN ('deleted', 'pending_delete');
CREATE INDEX images_min_disk ON images (min_disk) WHERE min_disk > 0 AND status NOT IN ('deleted', 'pending_delete');

-- Whatever is not the usual algorithm.
CREATE INDEX images_hash_algo ON images (os_hash_algo)
    WHERE os_hash_algo <> 'sha512' AND status NOT IN ('deleted', 'pending_delete');

CREATE INDEX images_virtual_size ON images (virtual_size)
    WHERE virtual_size IS NOT NULL AND status NOT IN ('deleted', 'pending_delete');
