"""Runs one plugin that was written for Glance, on a copy of the staged file; a process of its own.

    python -P -m plugins.steps._taskflow_run < what to run > what came of it

Both are JSON documents; what the plugin prints goes to standard error.  The copy and
the move of the result are made here, so that killing this process stops them too.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from plugins.steps._taskflow_facade import ActionWrapper, Context, Repo, TaskRepo

_FICLONE: Final = 0x40049409
_FILES: Final = ("glance-image-import.conf", "glance-api.conf")
_SCHEME: Final = "file://"


def main() -> None:
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    logging.basicConfig(level=logging.INFO)
    try:
        answer = perform(json.load(sys.stdin))
    except Exception as error:
        logging.exception("the plugin failed")
        answer = {"error": f"{type(error).__name__}: {error}"}
    with told:
        json.dump(answer, told)


def perform(asked: dict[str, Any]) -> dict[str, Any]:
    """Run the plugin; returns what it changed."""
    work = Path(asked["work"])
    copy(asked["source"], work)
    configure([Path(directory) for directory in asked["config_dirs"]])
    point = EntryPoint(**asked["plugin"])
    repo = Repo(asked["image"])
    image_id = asked["image"]["id"]
    flow = point.load()(
        context=Context(asked["context"]),
        task_id=asked["task"]["id"],
        task_type=asked["task"]["type"],
        task_repo=TaskRepo(asked["task"]),
        image_repo=repo,
        admin_repo=repo,
        image_id=image_id,
        import_req=asked["task"]["input"]["import_req"],
        backend=asked["backend"],
        action_wrapper=ActionWrapper(repo, image_id),
    )
    made = run_flow(flow, f"{_SCHEME}{work}")
    move(made, asked["output"])
    return repo.changes


def configure(directories: list[Path]) -> None:
    """Let plugins find their options where the operator wrote them."""
    from oslo_config import cfg

    files = [str(file) for directory in directories for name in _FILES if (file := directory / name).exists()]
    dropped = [str(place) for file in files if (place := Path(f"{file}.d")).is_dir()]
    cfg.CONF([], project="glance", default_config_files=files, default_config_dirs=dropped)


def run_flow(flow: Any, file_path: str) -> str:
    """Run flow or task; returns the `file_path` that was provided last, else the one that was given.

    The given one is provided by a task too, as in Glance: a value that is merely stored would hide
    what the plugin's own tasks provide to one another.
    """
    from taskflow import engines, task
    from taskflow.flow import Flow
    from taskflow.patterns import linear_flow

    staged = task.FunctorTask(lambda: file_path, name="entrepot-staged-file", provides="file_path")
    whole = linear_flow.Flow("entrepot").add(staged, flow)
    engine = engines.load(whole, engine="serial")
    engine.run()
    for atom in atoms(whole, Flow):
        if "file_path" in atom.save_as:
            result, place = engine.storage.get_execute_result(atom.name), atom.save_as["file_path"]
            file_path = (result if place is None else result[place]) or file_path
    return str(file_path)


def atoms(flow: Any, kind: type) -> Iterator[Any]:
    """Every task of a flow, in order, those of flows inside it included."""
    for node, _ in flow.iter_nodes():
        if isinstance(node, kind):
            yield from atoms(node, kind)
        else:
            yield node


# --- files -------------------------------------------------------------------------------


def copy(source: str, target: Path) -> None:
    """A private copy, without moving bytes where the file system can share them."""
    with open(source, "rb") as original, target.open("xb") as private:
        os.fchmod(private.fileno(), 0o600)
        try:
            fcntl.ioctl(private.fileno(), _FICLONE, original.fileno())
        except OSError:
            shutil.copyfileobj(original, private, 1 << 20)


def move(made: str, output: str) -> None:
    """Have the plugin's file become the step's output."""
    path = Path(unquote(made.removeprefix(_SCHEME)) if made.startswith(_SCHEME) else made)
    try:
        found = path.lstat()
    except OSError as error:
        raise FileNotFoundError("the file that it provides does not exist") from error
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("what it provides is not a regular file")
    if found.st_nlink == 1:
        try:
            os.rename(path, output)
        except OSError:
            pass  # another disk
        else:
            return
    with path.open("rb") as original, open(output, "xb") as private:
        shutil.copyfileobj(original, private, 1 << 20)
    path.unlink()


if __name__ == "__main__":
    main()
