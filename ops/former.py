"""Options by names that they had in earlier releases of Glance and its libraries.

They count as if written under today's name; a file that has both means today's.
"""

from __future__ import annotations

from typing import Final

_NOTIFICATIONS: Final = "oslo_messaging_notifications"
_RABBIT: Final = "oslo_messaging_rabbit"
_AUTH: Final = "keystone_authtoken"
_LOGIN: Final = {
    "auth_plugin": "auth_type",
    "tenant_id": "project_id",
    "tenant_name": "project_name",
    "user_name": "username",
}

FORMER: Final[dict[tuple[str, str], tuple[str, str]]] = {
    ("DEFAULT", "container_formats"): ("image_format", "container_formats"),
    ("DEFAULT", "disk_formats"): ("image_format", "disk_formats"),
    ("DEFAULT", "task_time_to_live"): ("task", "task_time_to_live"),
    ("task", "eventlet_executor_pool_size"): ("taskflow_executor", "max_workers"),
    ("DEFAULT", "policy_file"): ("oslo_policy", "policy_file"),
    ("DEFAULT", "policy_dirs"): ("oslo_policy", "policy_dirs"),
    ("DEFAULT", "policy_default_rule"): ("oslo_policy", "policy_default_rule"),
    ("DEFAULT", "enable_proxy_headers_parsing"): ("oslo_middleware", "enable_proxy_headers_parsing"),
    ("DEFAULT", "notification_driver"): (_NOTIFICATIONS, "driver"),
    ("DEFAULT", "notification_topics"): (_NOTIFICATIONS, "topics"),
    ("DEFAULT", "notification_transport_url"): (_NOTIFICATIONS, "transport_url"),
    ("rpc_notifier2", "topics"): (_NOTIFICATIONS, "topics"),
    ("DEFAULT", "amqp_durable_queues"): (_RABBIT, "amqp_durable_queues"),
    ("DEFAULT", "rabbit_durable_queues"): (_RABBIT, "amqp_durable_queues"),
    (_RABBIT, "rabbit_durable_queues"): (_RABBIT, "amqp_durable_queues"),
    (_RABBIT, "rabbit_use_ssl"): (_RABBIT, "ssl"),
    (_RABBIT, "kombu_ssl_ca_certs"): (_RABBIT, "ssl_ca_file"),
    (_RABBIT, "kombu_ssl_certfile"): (_RABBIT, "ssl_cert_file"),
    (_RABBIT, "kombu_ssl_keyfile"): (_RABBIT, "ssl_key_file"),
    (_AUTH, "auth_uri"): (_AUTH, "www_authenticate_uri"),
    **{(section, old): (section, new) for section in (_AUTH, "oslo_limit") for old, new in _LOGIN.items()},
}
"""Section and option as they were -> as they are."""
