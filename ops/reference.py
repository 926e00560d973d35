"""Every option there is, from the models that read them: one reference, and sample files.

Nothing is written down twice.  A section comes from `kernel/settings.py`, or from the
extension whose section it is.
"""

from __future__ import annotations

import textwrap
import types
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import annotated_types
from msgspec import Struct
from pydantic import BaseModel, BeforeValidator, SecretStr
from pydantic.fields import FieldInfo

from handlers.policy_defaults import DEFAULTS
from kernel.extend import ImportStep
from kernel.options import to_bytes, to_host, to_lines, to_port
from kernel.registry import Registry
from kernel.settings import SECTIONS
from ops.config import IMPORT, MAIN
from ops.former import FORMER
from plugins.limits.keystone import LimitsConfig
from plugins.steps.taskflow_plugins import TaskflowConfig

POLICY: Final = "policy.yaml"
PROTECTIONS: Final = "property-protections.conf"
SAMPLES: Final = (MAIN, IMPORT, POLICY, PROTECTIONS)
"""Files that `sample` can make."""

_IMPORT_SECTIONS: Final = ("image_import_opts", "import_filtering_opts", "glance_download_properties")
"""Beside those of the plugins."""
_STORE_OPTIONS: Final = (
    ("store_description", "text", "", "What clients are told of the store."),
    ("weight", "integer", "0", "The heaviest store that has an image is read from."),
)
_WIDTH: Final = 100


class Option(Struct, frozen=True):
    """One option."""

    name: str
    kind: str
    default: str
    """As it would be written; empty: unset."""
    about: str
    required: bool = False


class Chapter(Struct, frozen=True):
    """One section of a file."""

    section: str
    file: str
    about: str
    options: tuple[Option, ...]
    variable: bool = False
    """Whether `section` stands for names that operators choose."""


def chapters(registry: Registry) -> list[Chapter]:
    """All sections, those of the main file first."""
    found: dict[str, list[Option]] = {name: list(_options(model)) for name, model in SECTIONS.items()}
    about = dict.fromkeys(SECTIONS, "")
    about["cors"] = "More origins: sections `[cors.NAME]`, each with `allowed_origin`; what one leaves out is as here."
    plugins = set()
    for extension in sorted(registry, key=lambda item: bool(getattr(item, "shares", ()))):
        section = getattr(extension, "section", None)
        if section is None or getattr(extension, "yields", False):
            continue
        shared = {option.name for other in getattr(extension, "shares", ()) for option in found.get(other, ())}
        known = {option.name for option in found.setdefault(section, [])}
        found[section] += [item for item in _options(extension.config) if item.name not in known | shared]
        about.setdefault(section, f"Read by {extension.name}.")
        if isinstance(extension, ImportStep):
            plugins.add(section)
    found["oslo_limit"] = list(_options(LimitsConfig))
    about["oslo_limit"] = "How the service learns unified limits; needed with use_keystone_limits."
    found["taskflow_plugins"] = list(_options(TaskflowConfig))
    about["taskflow_plugins"] = "Read by plugins that were written for Glance. (ours)"
    ours = {*_IMPORT_SECTIONS, *plugins, "taskflow_plugins"}
    told = [
        Chapter(name, IMPORT if name in ours else MAIN, about[name], tuple(options))
        for name, options in found.items()
        if options
    ]
    return [*(item for item in told if item.file == MAIN), *_stores(registry), *(i for i in told if i.file == IMPORT)]


def _stores(registry: Registry) -> Iterator[Chapter]:
    common = tuple(Option(*item) for item in _STORE_OPTIONS)
    for name, driver in sorted(registry.stores.items()):
        about = f"A store `NAME:{name}` of enabled_backends; in [glance_store] where it is the site's only store."
        yield Chapter(f"a store of the driver {name}", MAIN, about, (*common, *_options(driver.config)), variable=True)


def _options(model: type[BaseModel]) -> Iterator[Option]:
    for name, field in model.model_fields.items():
        if field.description is None or field.exclude:
            continue  # what the service itself hands over
        default = "" if field.is_required() else written(field.get_default(call_default_factory=True))
        yield Option(name, _kind(field), default, " ".join(field.description.split()), field.is_required())


# --- values ------------------------------------------------------------------------------


def written(value: Any) -> str:
    """A value as an operator would write it."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case dict():
            return ", ".join(f"{key}:{item}" for key, item in value.items())
        case tuple() | list() | frozenset():
            return ", ".join(str(item) for item in value)
        case float():
            return f"{value:g}"
        case _:
            return str(value)


_PLAIN: Final[dict[Any, str]] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "text",
    Path: "path",
    SecretStr: "text, secret",
}
_ITEMS: Final = {to_port: "list of ports", to_host: "list of hosts"}


def _kind(field: FieldInfo) -> str:
    """What may be written, in words."""
    readers = [item.func for item in field.metadata if isinstance(item, BeforeValidator)]
    if to_bytes in readers:
        return "size"
    if to_lines in readers:
        return "list, may be repeated"
    return _word(field.annotation) + "".join(_bounds(field.metadata))


def _word(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _word(arguments[0])
    if origin in (Union, types.UnionType):
        return _word(next(item for item in arguments if item is not type(None)))
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin is dict:
        return "name:value pairs"
    if origin is tuple:
        readers = [item.func for item in getattr(arguments[0], "__metadata__", ()) if isinstance(item, BeforeValidator)]
        return next((_ITEMS[reader] for reader in readers if reader in _ITEMS), "list")
    return _PLAIN.get(annotation, "text")


def _bounds(metadata: Iterable[Any]) -> Iterator[str]:
    for item in metadata:
        match item:
            case annotated_types.Ge():
                yield f" ≥ {item.ge}"
            case annotated_types.Gt():
                yield f" > {item.gt}"
            case annotated_types.Le():
                yield f" ≤ {item.le}"


# --- the reference -----------------------------------------------------------------------


def markdown(registry: Registry) -> str:
    """The whole reference."""
    told = chapters(registry)
    parts = [_HEAD, _plugins(registry)]
    for file in (MAIN, IMPORT):
        parts.append(f"# {file}\n")
        parts += [_table(chapter) for chapter in told if chapter.file == file]
    parts += [_TAIL, _former()]
    return "\n".join(parts)


_HEAD: Final = """\
# Configuration

Made by `entrepot config reference`; do not edit. Names and defaults are Glance's unless an option says that it is
ours. Options that mean nothing here are named once when the service starts.

Files, later ones win: `glance-image-import.conf` (optional), `glance-api.conf`, the drop-ins in `glance-api.conf.d/`,
`entrepot.conf`, environment variables `ENTREPOT_<SECTION>__<OPTION>`. They are looked for where `--config-file` says,
in `$OS_GLANCE_CONFIG_DIR`, `~/.config/entrepot`, `/etc/entrepot` or `/etc/glance`. `entrepot config sample` makes
samples of them, `entrepot config check` finds what is wrong with them.

Lists are written `a, b` or `['a', "b"]`; pairs `name:value, "na:me":"va,lue"`; booleans true, yes, on, 1 and their
opposites.
"""

_TAIL: Final = """\
# Other files and sections

- Staging with several stores: `[os_glance_staging_store] filesystem_store_datadir`, if set, instead of
  `node_staging_uri`. `os_glance_tasks_store` is reserved and has no effect.
- Notifications: a sink that is new is told what happens from then on; one that was there before goes on where it was.
- Policy: `[oslo_policy] policy_file`, YAML or JSON; a rule that it leaves out has its default.
- Property protections: `[DEFAULT] property_protection_file`, looked for beside the configuration files. A property that
  no section matches is nobody's.
- Custom properties with a definition of their own: `schema-image.json` beside the configuration files, JSON schemas by
  name. Without it those that most sites have (`kernel_id`, `os_distro`, ...); `{}` is none.
- Certificates of signed images: `[entrepot] certificate_dir`; or a key manager through castellan, which reads its own
  sections `[key_manager]`, `[barbican]`, `[barbican_service_user]` and `[vault]`.
"""


def _former() -> str:
    lines = ["# Former names", "", "Read as if today's name stood there; a file that has both means today's.", ""]
    lines += ["| formerly | today |", "|---|---|"]
    lines += [f"| `[{old}] {was}` | `[{new}] {now}` |" for (old, was), (new, now) in FORMER.items()]
    return "\n".join([*lines, ""])


def _plugins(registry: Registry) -> str:
    lines = [
        "## Import plugins",
        "",
        "Listed in `[image_import_opts] image_import_plugins`, in `glance-image-import.conf`, in the order in which",
        "they are to run.",
        "",
        "| plugin | since | options in |",
        "|---|---|---|",
    ]
    for name, step in sorted(registry.steps.items()):
        if not step.yields:
            section = f"`{IMPORT}`, `[{step.section}]`" if step.section else "none"
            lines.append(f"| `{name}` | {step.since or 'Entrepot'} | {section} |")
    return "\n".join([*lines, ""])


def _table(chapter: Chapter) -> str:
    title = chapter.section if chapter.variable else f"[{chapter.section}]"
    lines = [f"## {title}", ""]
    if chapter.about:
        lines += [chapter.about, ""]
    lines += ["| option | what | default | |", "|---|---|---|---|"]
    for option in chapter.options:
        default = "required" if option.required else f"`{option.default}`" if option.default else ""
        lines.append(f"| `{option.name}` | {option.kind} | {default} | {option.about.replace('|', chr(92) + '|')} |")
    return "\n".join([*lines, ""])


# --- samples -----------------------------------------------------------------------------


def sample(name: str, registry: Registry) -> str:
    """A file to begin with, everything in it commented out; it says what is so without it."""
    if name == POLICY:
        return "\n".join([_POLICY_HEAD, *(f'#"{rule}": "{expression}"' for rule, expression in DEFAULTS.items()), ""])
    if name == PROTECTIONS:
        return _PROTECTIONS
    lines = [f"# {name}: every option with its default. Made by `entrepot config sample`.", ""]
    for chapter in chapters(registry):
        if chapter.file == name:
            lines += _sampled(chapter)
    return "\n".join(lines)


def _sampled(chapter: Chapter) -> list[str]:
    lines = [f"# {chapter.section}: {chapter.about}", "#[NAME]"] if chapter.variable else [f"[{chapter.section}]"]
    for option in chapter.options:
        lines += ["", *_comment(f"{option.about} ({option.kind})"), f"#{option.name} = {option.default}".rstrip()]
    return [*lines, "", ""]


def _comment(text: str) -> Sequence[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ")


_POLICY_HEAD: Final = """\
# policy.yaml: every rule with its default. Made by `entrepot config sample`.
# The language is oslo.policy's; JSON will do too. A rule that is left out has its default.
"""

_PROTECTIONS: Final = """\
# property-protections.conf: who may do what with which property. Made by `entrepot config sample`.
#
# A section's name is a regular expression, looked for anywhere in the property's name; the first section that
# matches decides, and all four keys must be there. With property_protection_rule_format = roles they hold roles,
# `@` for everybody or `!` for nobody; with policies, the name of a rule. What no section matches nobody may touch.

# An operator's mark on what users import (see [inject_metadata_properties]): they see it, and it stays.
#[^property1$]
#create = admin, service_role
#read = admin, service_role, member
#update = admin
#delete = admin

# Everything else is the users' own.
#[.*]
#create = @
#read = @
#update = @
#delete = @
"""
