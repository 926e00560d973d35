"""Policy rules and their defaults: Glance's names, and a few of our own.

A rule that a policy file does not mention has the expression given here.
"""

from __future__ import annotations

from typing import Final

_ADMIN: Final = "rule:context_is_admin"
_MEMBER: Final = f"{_ADMIN} or (role:member and project_id:%(project_id)s)"
_READER: Final = f"{_ADMIN} or (role:reader and project_id:%(project_id)s)"
_SERVICE: Final = "rule:service_api"
_ANY_VISIBLE: Final = (
    "(project_id:%(project_id)s or project_id:%(member_id)s or 'community':%(visibility)s"
    " or 'public':%(visibility)s or 'shared':%(visibility)s)"
)
_CONCERNED: Final = "(project_id:%(project_id)s or project_id:%(member_id)s)"

_METADEF_READ: Final = f"{_ADMIN} or (role:reader and (project_id:%(project_id)s or 'public':%(visibility)s))"
_METADEF_READS: Final = (
    "get_metadef_namespace",
    "get_metadef_namespaces",
    "get_metadef_object",
    "get_metadef_objects",
    "list_metadef_resource_types",
    "get_metadef_resource_type",
    "get_metadef_property",
    "get_metadef_properties",
    "get_metadef_tag",
    "get_metadef_tags",
)
_METADEF_WRITES: Final = (
    "modify_metadef_namespace",
    "add_metadef_namespace",
    "delete_metadef_namespace",
    "modify_metadef_object",
    "add_metadef_object",
    "delete_metadef_object",
    "add_metadef_resource_type_association",
    "remove_metadef_resource_type_association",
    "modify_metadef_property",
    "add_metadef_property",
    "remove_metadef_property",
    "modify_metadef_tag",
    "add_metadef_tag",
    "add_metadef_tags",
    "delete_metadef_tag",
    "delete_metadef_tags",
)
"""Operators' files name them; there are no metadefs to read or write here."""

DEFAULTS: Final[dict[str, str]] = {
    "default": "",
    "context_is_admin": "role:admin",
    "service_api": "role:service or role:admin",
    "get_images": _READER,
    "get_image": f"{_ADMIN} or (role:reader and {_ANY_VISIBLE})",
    "add_image": f"{_ADMIN} or (role:member and project_id:%(project_id)s and project_id:%(owner)s)",
    "modify_image": _MEMBER,
    "publicize_image": _ADMIN,
    "communitize_image": _MEMBER,
    "delete_image": _MEMBER,
    "upload_image": _MEMBER,
    "deactivate": _MEMBER,
    "reactivate": _MEMBER,
    "download_image": f"{_ADMIN} or (role:member and {_ANY_VISIBLE})",
    "download_from_store": f"{_ADMIN} or (role:member and {_ANY_VISIBLE})",
    "get_image_location": _READER,
    "set_image_location": _MEMBER,
    "delete_image_location": _ADMIN,
    "add_image_location": f"{_SERVICE} or (role:member and project_id:%(project_id)s)",
    "fetch_image_location": _SERVICE,
    "add_member": _MEMBER,
    "delete_member": _MEMBER,
    "get_members": f"{_ADMIN} or (role:reader and {_CONCERNED})",
    "get_member": f"{_ADMIN} or (role:reader and {_CONCERNED})",
    "modify_member": f"{_ADMIN} or (role:member and project_id:%(member_id)s)",
    "copy_image": _ADMIN,
    "stores_info_detail": f"{_ADMIN} or {_SERVICE}",
    "tasks_api_access": _ADMIN,
    "get_task": "rule:default",
    "get_tasks": "rule:default",
    "add_task": "rule:default",
    "modify_task": "rule:default",
    "manage_image_cache": _ADMIN,
    "cache_image": _ADMIN,
    "cache_list": _ADMIN,
    "cache_delete": _ADMIN,
    "cache_clean": _ADMIN,
    "cache_prune": _ADMIN,
    "list_cached_nodes": _ADMIN,
    "metadef_default": "",
    "metadef_admin": _ADMIN,
    **dict.fromkeys(_METADEF_READS, _METADEF_READ),
    **dict.fromkeys(_METADEF_WRITES, "rule:metadef_admin"),
    # Ours: the /v2/image-imports resource, and what operators see and do under /ops/v1.
    "add_image_import": _MEMBER,
    "get_image_import": _READER,
    "get_image_imports": _READER,
    "ops_read": _ADMIN,
    "ops_write": _ADMIN,
}
