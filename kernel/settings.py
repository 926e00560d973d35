"""What operators can set, typed: one model a section of their files.

Names and defaults are those that operators of Glance know; sections of ours say
so.  `ops/config.py` reads the files, the drop-in extensions bring the models of
their own sections.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from kernel.options import ByteSize, HashName, IniBool, IniDict, IniLines, IniList

_LARGE: Final = (1 << 31) - 1
"""Larger numbers would not fit where they are going, be it a date or a column."""


class Section(BaseModel):
    """Base of all sections: unknown options are listed by the loader, not refused here."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Default(Section):
    """[DEFAULT]"""

    enable_image_import: IniBool = Field(True, description="Offer staging and import at all.")
    enabled_import_methods: IniList | None = Field(
        None, description="Import methods offered, in this order. Unset: those that ship and are on by default."
    )
    node_staging_uri: str | None = Field(
        None, description="Where staged data lives: a directory that the service can write and all nodes share."
    )
    staging_is_shared: IniBool = Field(True, description="Whether every node reaches the staging area. (ours)")
    worker_self_reference_url: str | None = Field(None, description="URL under which other nodes reach this one.")
    public_endpoint: str | None = Field(None, description="Scheme and authority of links handed to clients.")
    enabled_backends: IniDict = Field({}, description="Stores as name:driver pairs; set it to have several.")
    api_version_profile: Literal["current", "pike"] = Field(
        "current", description="Versions and defaults that clients see. (ours)"
    )

    image_size_cap: int = Field(1099511627776, ge=1, le=1 << 63, description="Most bytes of one image.")
    hashing_algorithm: HashName = Field("sha512", description="Algorithm of os_hash_value; any that hashlib offers.")
    user_storage_quota: ByteSize = Field(0, description="Most bytes of one project over all stores; 0 is no limit.")
    use_keystone_limits: IniBool = Field(False, description="Hold projects to the unified limits kept in Keystone.")
    image_property_quota: int = Field(128, description="Most custom properties of an image; negative is no limit.")
    image_tag_quota: int = Field(128, description="Most tags of an image; negative is no limit.")
    image_member_quota: int = Field(128, description="Most members of an image; negative is no limit.")
    image_location_quota: int = Field(10, description="Most locations of an image; negative is no limit.")

    limit_param_default: int = Field(
        25, ge=1, le=_LARGE, description="Page length of lists when the client names none."
    )
    api_limit_max: int = Field(1000, ge=1, le=_LARGE, description="Longest page of a list.")
    show_image_direct_url: IniBool = Field(False, description="Show the URL of the first location.")
    show_multiple_locations: IniBool = Field(False, description="Show locations, and let PATCH change them.")
    allow_anonymous_access: IniBool = Field(False, description="Let requests without a token read.")
    max_request_id_length: int = Field(64, ge=1, description="Longest request id adopted from a client.")

    property_protection_file: Path | None = Field(None, description="Rules for who may touch which property.")
    property_protection_rule_format: Literal["roles", "policies"] = Field(
        "roles", description="What the rules hold: role names, or names of policies."
    )
    default_publisher_id: str = Field("image.localhost", description="publisher_id of notifications.")
    disabled_notifications: IniList = Field((), description="Notification types, or groups of them, not to send.")
    transport_url: str | None = Field(None, description="Message broker, or several with commas; unset: localhost.")
    control_exchange: str = Field("glance", description="Exchange that notifications are published to.")
    delayed_delete: IniBool = Field(False, description="Keep the bytes of deleted images for scrub_time.")
    scrub_time: int = Field(0, ge=0, le=_LARGE, description="Seconds for which a deleted image's bytes are kept.")
    do_secure_hash: IniBool = Field(True, description="Hash data that is registered by its location.")
    http_retries: int = Field(3, ge=0, description="How often hashing a location is tried again.")


class ImageFormat(Section):
    """[image_format]"""

    container_formats: IniList = Field(
        ("ami", "ari", "aki", "bare", "ovf", "ova", "docker", "compressed"), description="Allowed container formats."
    )
    disk_formats: IniList = Field(
        ("ami", "ari", "aki", "vhd", "vhdx", "vmdk", "raw", "qcow2", "vdi", "iso", "ploop"),
        description="Allowed disk formats.",
    )
    vmdk_allowed_types: IniList = Field(
        ("streamOptimized", "monolithicSparse"), description="vmdk create-types that may be stored."
    )
    require_image_format_match: IniBool = Field(True, description="Refuse data that is not what disk_format says.")
    gpt_safety_checks_nonfatal: IniList = Field((), description="Partition table checks whose failure is tolerated.")

    @property
    def allowed(self) -> dict[str, tuple[str, ...]]:
        """Attribute of an image -> the formats it may name."""
        return {"disk_format": self.disk_formats, "container_format": self.container_formats}


class TaskSettings(Section):
    """[task]"""

    task_time_to_live: int = Field(48, ge=1, description="Hours for which a finished task stays readable.")
    task_executor: Literal["taskflow"] = Field("taskflow", description="Kept for operators' files; one value only.")
    work_dir: Path | None = Field(None, description="Accepted; work happens in the staging area.")


class GlanceStore(Section):
    """[glance_store]"""

    default_backend: str | None = Field(None, description="Store used when none is named; needed with several.")
    stores: IniList = Field(("file", "http"), description="Drivers of a single-store site.")
    default_store: str = Field("file", description="Driver of a single-store site's only store.")


class ImportOptions(Section):
    """[image_import_opts]"""

    image_import_plugins: IniList = Field((), description="Steps run on imported data, in this order.")
    max_parallel_stores: int = Field(1, ge=1, description="Stores written at once by one import. (ours)")


class TaskflowExecutor(Section):
    """[taskflow_executor]"""

    engine_mode: Literal["serial", "parallel"] = Field("parallel", description="Accepted; has no effect.")
    max_workers: int = Field(10, ge=1, description="Upper bound of jobs at once in one process.")
    conversion_format: Literal["qcow2", "raw", "vmdk"] | None = Field(
        None, description="Format that the 'import' task type converts to."
    )


class Wsgi(Section):
    """[wsgi]"""

    task_pool_threads: int = Field(16, ge=1, description="Upper bound of jobs at once in one process.")


class ImportWorker(Section):
    """[import_worker] (ours)"""

    lease_seconds: float = Field(
        6.0, ge=0.5, le=3600, description="Life of a worker's lease; a dead worker is noticed after it."
    )
    max_concurrent: int = Field(
        4, ge=1, description="Imports of one project that a process works on at once; it has one more place for others."
    )
    store_stall_timeout: float = Field(
        60.0, gt=0, description="Seconds without progress after which a write to a store, or to staging, fails."
    )
    fsync: IniBool = Field(True, description="Make data durable before it is recorded. Off only for tests.")


class ImageImports(Section):
    """[image_imports] (ours)"""

    enabled: IniBool = Field(True, description="Offer /v2/image-imports.")
    time_to_live: int | None = Field(None, ge=1, description="Hours; unset: [task] task_time_to_live.")


class Cors(Section):
    """[cors]"""

    allowed_origin: IniList = Field((), description="Origins whose pages may call the API; empty: none.")
    allow_credentials: IniBool = Field(True, description="Whether browsers may send credentials.")
    max_age: int = Field(3600, ge=0, description="Seconds for which browsers may remember a preflight.")
    allow_methods: IniList = Field(("GET", "PUT", "POST", "DELETE", "PATCH"), description="Methods allowed.")
    allow_headers: IniList = Field(
        (
            "Content-MD5",
            "X-Image-Meta-Checksum",
            "X-Storage-Token",
            "Accept-Encoding",
            "X-Auth-Token",
            "X-Identity-Status",
            "X-Roles",
            "X-Service-Catalog",
            "X-User-Id",
            "X-Tenant-Id",
            "X-OpenStack-Request-ID",
        ),
        description="Request headers allowed, beside the simple ones.",
    )
    expose_headers: IniList = Field(
        ("X-Image-Meta-Checksum", "X-Auth-Token", "X-Subject-Token", "X-Service-Token", "X-OpenStack-Request-ID"),
        description="Response headers that pages may read.",
    )


class Middleware(Section):
    """[oslo_middleware]"""

    enable_proxy_headers_parsing: IniBool = Field(
        False, description="Believe X-Forwarded-* and Forwarded headers. Only behind a proxy that sets them."
    )


class Healthcheck(Section):
    """[healthcheck]"""

    disable_by_file_path: Path | None = Field(None, description="While this file exists, the node reports itself down.")


class OsloPolicy(Section):
    """[oslo_policy]"""

    policy_file: str = Field("policy.yaml", description="File of rules that differ from the defaults.")
    policy_dirs: IniLines = Field(("policy.d",), description="Directories of further rule files.")
    policy_default_rule: str = Field("default", description="Rule that stands in for a missing one.")
    enforce_new_defaults: IniBool = Field(True, description="Accepted; the new defaults are the only ones.")
    enforce_scope: IniBool = Field(True, description="Accepted; scope is always enforced.")
    remote_content_type: Literal["application/x-www-form-urlencoded", "application/json"] = Field(
        "application/x-www-form-urlencoded", description="How http: and https: checks send their question."
    )
    remote_timeout: float = Field(60.0, gt=0, description="Seconds that the server of such a check gets to answer.")
    remote_ssl_verify_server_crt: IniBool = Field(False, description="Verify the certificates of https: checks.")
    remote_ssl_ca_crt_file: Path | None = Field(None, description="CA certificates to trust; unset: the system's.")
    remote_ssl_client_crt_file: Path | None = Field(None, description="Client certificate for https: checks.")
    remote_ssl_client_key_file: Path | None = Field(None, description="Its key, if that is not in the same file.")


class PasteDeploy(Section):
    """[paste_deploy]"""

    flavor: str = Field("", description="Chooses the auth backend: keystone if it says so.")


class MessagingNotifications(Section):
    """[oslo_messaging_notifications]"""

    driver: IniLines = Field((), description="Where notifications go: log, messaging, messagingv2, noop.")
    topics: IniList = Field(("notifications",), description="Topics that messages are sent to.")
    transport_url: str | None = Field(None, description="Broker; unset: [DEFAULT] transport_url.")
    retry: int = Field(-1, description="Accepted; delivery is tried until it succeeds.")


class Entrepot(Section):
    """[entrepot] (ours)"""

    auth: str | None = Field(None, description="Auth backend; unset: by the paste flavor, else none (loopback only).")
    sinks: IniList = Field((), description="Notification sinks, in addition to those that driver names.")
    state_dir: Path | None = Field(None, description="Directory of the embedded database, keys and logs.")
    secret_key_file: Path | None = Field(
        None, description="Key that secrets are encrypted with; the same on all nodes. Unset: in the state directory."
    )
    key_source: str | None = Field(
        None, description="Where certificates of signed images come from; unset: what is configured, if anything."
    )
    certificate_dir: Path | None = Field(
        None, description="Directory of certificates, <uuid>.pem each, that signatures of images are verified with."
    )
    body_timeout: float = Field(60.0, gt=0, description="Seconds without a byte after which a sender is given up.")
    most_uploads: int = Field(256, ge=1, description="Uploads and stagings served at once by one process.")
    most_waiting_uploads: int = Field(
        512, ge=0, description="Further ones that wait for their turn; whoever comes after them gets a 503 at once."
    )
    upload_wait: float = Field(30.0, gt=0, description="Seconds to wait for a turn before the answer is a 503.")
    most_followers: int = Field(32, ge=1, description="Subscribers of the event stream in one process.")
    trust_everyone: IniBool = Field(
        False, description="Let an auth backend that trusts every caller listen on more than loopback."
    )


class Settings(BaseModel):
    """Everything that is set, by section."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    default: Default = Default()
    image_format: ImageFormat = ImageFormat()
    task: TaskSettings = TaskSettings()
    glance_store: GlanceStore = GlanceStore()
    image_import_opts: ImportOptions = ImportOptions()
    taskflow_executor: TaskflowExecutor = TaskflowExecutor()
    wsgi: Wsgi = Wsgi()
    import_worker: ImportWorker = ImportWorker()
    image_imports: ImageImports = ImageImports()
    cors: Cors = Cors()
    more_cors: dict[str, Cors] = {}
    """The sections [cors.…] by their names, each with origins of its own; what one leaves out is as in [cors]."""
    oslo_middleware: Middleware = Middleware()
    healthcheck: Healthcheck = Healthcheck()
    oslo_policy: OsloPolicy = OsloPolicy()
    paste_deploy: PasteDeploy = PasteDeploy()
    oslo_messaging_notifications: MessagingNotifications = MessagingNotifications()
    entrepot: Entrepot = Entrepot()
    raw: dict[str, dict[str, str]] = {}
    """Every section as written, for the extensions' own models."""
    origin: dict[tuple[str, str], str] = {}
    """(section, option) -> the file that set it."""
    state_dir: Path = Path(os.devnull)
    config_dirs: tuple[Path, ...] = ()
    """Where policy, protection and schema files are looked for."""

    def section(self, name: str) -> dict[str, Any]:
        """A section's options as written, for the model of an extension."""
        return dict(self.raw.get(name, {}))


SECTIONS: dict[str, type[Section]] = {
    "DEFAULT": Default,
    "image_format": ImageFormat,
    "task": TaskSettings,
    "glance_store": GlanceStore,
    "image_import_opts": ImportOptions,
    "taskflow_executor": TaskflowExecutor,
    "wsgi": Wsgi,
    "import_worker": ImportWorker,
    "image_imports": ImageImports,
    "cors": Cors,
    "oslo_middleware": Middleware,
    "healthcheck": Healthcheck,
    "oslo_policy": OsloPolicy,
    "paste_deploy": PasteDeploy,
    "oslo_messaging_notifications": MessagingNotifications,
    "entrepot": Entrepot,
}
"""Section name in the file -> its model; the field of `Settings` is the name in lower case."""
