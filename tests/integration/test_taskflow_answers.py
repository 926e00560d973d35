"""What a plugin's process says in the end, and what is made of it when it makes no sense."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from kernel.confined import Ended
from kernel.errors import PluginFailed
from plugins.steps import taskflow_plugins
from plugins.steps.taskflow_plugins import GROUP, adapted
from tests.support.step_bench import bench

POINT = EntryPoint("odd", "nowhere:get_flow", GROUP)


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [
        (b'{"virtual_size": "12"}', 0, "sets something to what it cannot be: .*`int | null`.*virtual_size"),
        (b'{"disk_format": 5}', 0, "sets something to what it cannot be: .*disk_format"),
        (b"", 3, "ended with code 3 and without a result"),
        (b'{"error": "ValueError: a', 1, "ended with code 1 and without a result"),
        (b"", -9, "it was killed"),
    ],
)
async def test_an_odd_end_fails_the_step_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes, code: int, words: str
) -> None:
    async def run(*arguments: object, **more: object) -> Ended:
        return Ended(code=code, out=said, err="")

    monkeypatch.setattr(taskflow_plugins, "run", run)
    made = await bench(tmp_path, adapted(POINT), b"data")
    with pytest.raises(PluginFailed, match=words):
        await made.run()
    assert made.untouched
