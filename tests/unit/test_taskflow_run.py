"""Running a stranger's flow: which file it leaves, and what becomes of that."""

from __future__ import annotations

import os
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from taskflow import task
from taskflow.patterns import linear_flow

from plugins.steps import taskflow_plugins
from plugins.steps._taskflow_run import copy, move, run_flow
from plugins.steps.taskflow_plugins import adapted

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Taskflow's own, of what it imports

HERE = "file:///here"


def made(name: str, result: Any, provides: Any = None) -> task.Task:
    """A task that returns something."""
    return task.FunctorTask(lambda file_path: result, name=name, provides=provides)


@pytest.mark.parametrize(
    ("flow", "file_path"),
    [
        (made("a", "ignored"), HERE),
        (made("a", "file:///there", "file_path"), "file:///there"),
        (made("a", "/there", "file_path"), "/there"),
        (made("a", None, "file_path"), HERE),
        (made("a", (5, "file:///there"), ("size", "file_path")), "file:///there"),
        (made("a", {"file_path": "file:///there"}, {"file_path"}), "file:///there"),
        (linear_flow.Flow("f").add(made("a", "file:///1", "file_path"), made("b", "x")), "file:///1"),
        (
            linear_flow.Flow("f").add(
                linear_flow.Flow("g").add(made("a", "file:///1", "file_path")), made("b", "file:///2", "file_path")
            ),
            "file:///2",
        ),
        (linear_flow.Flow("empty"), HERE),
    ],
)
def test_the_last_file_that_is_provided_counts(flow: Any, file_path: str) -> None:
    assert run_flow(flow, HERE) == file_path


def test_each_task_is_handed_the_file_of_the_one_before() -> None:
    seen: list[str] = []
    flow = linear_flow.Flow("f").add(
        task.FunctorTask(lambda file_path: "file:///next", name="a", provides="file_path"),
        task.FunctorTask(lambda file_path: seen.append(file_path), name="b"),
    )
    run_flow(flow, HERE)
    assert seen == ["file:///next"]


def test_an_error_reverts_the_plugin_and_is_told() -> None:
    reverted: list[str] = []

    class Failing(task.Task):
        def execute(self, file_path: str) -> None:
            raise ZeroDivisionError("by nothing")

        def revert(self, *_: Any, **__: Any) -> None:
            reverted.append("yes")

    with pytest.raises(ZeroDivisionError, match="by nothing"):
        run_flow(linear_flow.Flow("f").add(Failing()), HERE)
    assert reverted == ["yes"]


def test_the_copy_is_private(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"data")
    source.chmod(0o440)
    copy(str(source), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"data"
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "copy").stat().st_nlink == 1


@pytest.mark.parametrize("scheme", ["file://", ""])
def test_the_result_is_moved(tmp_path: Path, scheme: str) -> None:
    result, output = tmp_path / "its result", tmp_path / "output"
    result.write_bytes(b"data")
    inode = result.stat().st_ino
    move(f"{scheme}{str(result).replace(' ', '%20') if scheme else result}", str(output))
    assert output.read_bytes() == b"data"
    assert output.stat().st_ino == inode
    assert not result.exists()


def test_a_result_that_has_another_name_somewhere_is_copied(tmp_path: Path) -> None:
    """Whoever holds the other name could change it later."""
    result, output = tmp_path / "result", tmp_path / "output"
    result.write_bytes(b"data")
    os.link(result, tmp_path / "kept")
    move(str(result), str(output))
    assert output.stat().st_nlink == 1
    assert (output.read_bytes(), (tmp_path / "kept").read_bytes()) == (b"data", b"data")


def test_only_a_regular_file_will_do(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "directory").mkdir()
    for name in ("link", "directory"):
        with pytest.raises(ValueError, match="not a regular file"):
            move(str(tmp_path / name), str(tmp_path / "output"))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        move(str(tmp_path / "nothing"), str(tmp_path / "output"))


def test_without_taskflow_it_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    step = adapted(EntryPoint(name="theirs", value="module:get_flow", group=taskflow_plugins.GROUP))
    assert step.unavailable() is None
    monkeypatch.setattr(taskflow_plugins.importlib.util, "find_spec", lambda name: None)
    assert "taskflow is not installed" in str(step.unavailable())
