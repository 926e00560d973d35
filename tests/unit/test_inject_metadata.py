"""Which properties are injected into whose images."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernel.context import Actor
from plugins.steps.inject_image_metadata import EXTENSION, InjectConfig
from tests.support.step_bench import bench


async def injected(tmp_path: Path, roles: tuple[str, ...], **options: object) -> dict[str, str | None]:
    config = InjectConfig.model_validate(options)
    made = await bench(tmp_path, EXTENSION, b"data", config)
    completed = await made.run(Actor(user_id="u", project_id="p", roles=frozenset(roles)))
    assert completed.blob is None
    assert made.untouched
    await made.site.close()
    return completed.properties_set


@pytest.mark.parametrize(
    ("roles", "ignored", "done"),
    [
        (("member",), None, True),
        (("member", "admin"), None, False),
        (("member", "ADMIN"), None, False),
        (("Member", "ops"), "Ops, other", False),
        (("member", "admin"), "Ops", True),
        (("member", "admin"), "", True),
        ((), None, True),
    ],
)
async def test_some_roles_are_left_alone(
    tmp_path: Path, roles: tuple[str, ...], ignored: str | None, done: bool
) -> None:
    options = {} if ignored is None else {"ignore_user_roles": ignored}
    found = await injected(tmp_path, roles, inject="a:1", **options)
    assert found == ({"a": "1"} if done else {})


async def test_names_of_the_services_own_are_left_out(tmp_path: Path) -> None:
    text = '"os_glance_import_task":"x", os_glancey:y, "os_distro":"a, b: c", plain:v'
    assert await injected(tmp_path, ("member",), inject=text) == {"os_distro": "a, b: c", "plain": "v"}


async def test_nothing_is_injected_by_default(tmp_path: Path) -> None:
    assert await injected(tmp_path, ("member",)) == {}


def test_a_name_that_comes_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="appears twice"):
        InjectConfig.model_validate({"inject": "a:1,a:2"})
