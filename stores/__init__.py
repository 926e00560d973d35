"""Store drivers: one file each, exporting `EXTENSION`."""
