"""Files as operators of Glance have them, with much in them that is none of our business."""

from __future__ import annotations

from pathlib import Path


def glance_api_conf(directory: Path, plain: bool = True) -> str:
    """glance-api.conf of a site with three file stores and a read-only one."""
    text = f"""\
[DEFAULT]
debug = False
log_config_append = {directory}/etc/logging.conf
public_endpoint = http://127.0.0.1:9292
worker_self_reference_url = http://127.0.0.1:9292
enabled_backends = store1:file, store2:file, store3:file, web:http
enabled_import_methods = [glance-direct,web-download,copy-image{"" if plain else ",glance-download"}]
node_staging_uri = file://{directory}/staging
image_cache_dir = {directory}/cache
transport_url = fake://
bind_port = 9292
workers = 4

[database]
connection = postgresql+psycopg2://glance:secret@127.0.0.1/glance

[paste_deploy]
config_file = {directory}/etc/glance-api-paste.ini
flavor = lab

[entrepot]
auth = headers

[glance_store]
default_backend = store1

[store1]
filesystem_store_datadir = {directory}/store1
store_description = the first
[store2]
filesystem_store_datadir = {directory}/store2
store_description = the second
[store3]
filesystem_store_datadir = {directory}/store3
[web]
store_description = somebody else's

[os_glance_staging_store]
filesystem_store_datadir = {directory}/staging
[os_glance_tasks_store]
filesystem_store_datadir = {directory}/tasks

[task]
task_executor = taskflow
work_dir = {directory}/work

[taskflow_executor]
engine_mode = serial
max_workers = 5

[import_filtering_opts]
allowed_ports = [80,443,18080,18081]
allowed_hosts = [127.0.0.1,localhost]

[oslo_messaging_notifications]
driver = log

[oslo_concurrency]
lock_path = {directory}/lock

[wsgi]
python_interpreter = /usr/bin/python3
"""
    if plain:
        return text
    return (
        text
        + """
[DEFAULT]
show_multiple_locations = True
do_secure_hash = False
[store1]
weight = 300
[store2]
weight = 200
[store3]
weight = 100
[image_format]
require_image_format_match = False
"""
    )


def glance_image_import_conf(plain: bool = True) -> str:
    """glance-image-import.conf beside it."""
    plugins = "no_op" if plain else "'no_op', 'inject_image_metadata'"
    return f"[image_import_opts]\nimage_import_plugins = [{plugins}]\nmax_parallel_stores = 2\n"
