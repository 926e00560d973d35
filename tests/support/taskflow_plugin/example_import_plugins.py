"""Plugins in the shape that Glance asks for: `get_flow` returns a task in a linear flow."""

from __future__ import annotations

import os
import subprocess
import time
from typing import Any

from oslo_config import cfg
from taskflow import task
from taskflow.patterns import linear_flow

CONF = cfg.CONF
CONF.register_opts([cfg.StrOpt("suffix", default="!")], group="shouting")


class Shout(task.Task):
    """Writes the image in capitals beside the staged file, and notes it in a property."""

    default_provides = "file_path"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(f"{kwargs['task_type']}-Shout-{kwargs['task_id']}")
        self._given = kwargs

    def execute(self, file_path: str, **kwargs: Any) -> str:
        given = self._given
        print("whatever a plugin prints goes nowhere near the result")
        path = file_path.removeprefix("file://")
        louder = f"{path}.loud"
        with open(path, "rb") as quiet, open(louder, "wb") as loud:
            loud.write(quiet.read().upper())
        os.remove(path)
        with given["action_wrapper"] as action:
            assert action.image_id == given["image_id"]
            assert action.image_disk_format == "raw"
            action.set_image_attribute(container_format="bare", size=os.stat(louder).st_size)
            action.set_image_extra_properties({"voice": "loud" + CONF.shouting.suffix, "os_glance_import_task": "x"})
            action.add_importing_stores(given["backend"])
        image = given["image_repo"].get(given["image_id"])
        image.extra_properties["who"] = f"{given['context'].project_id}: {','.join(given['context'].roles)}"
        image.extra_properties["how"] = given["import_req"]["method"]["name"]
        image.extra_properties.pop("doomed", None)
        given["image_repo"].save(image, "importing")
        assert given["task_repo"].get(given["task_id"]).task_input["image_id"] == given["image_id"]
        return f"file://{louder}"


class Refuse(task.Task):
    def __init__(self, wrapper: Any, image_id: str) -> None:
        super().__init__("refuse")
        self._wrapper = wrapper

    def execute(self, file_path: str) -> None:
        with self._wrapper as action:
            action.set_image_extra_properties({"never": "seen"})
        with open(file_path.removeprefix("file://") + ".extra", "wb") as extra:
            extra.write(b"rubbish")
        raise RuntimeError(f"the scanner at http://user:secret@scanner found a virus in {file_path}")


class Linger(task.Task):
    """Starts a program and waits for it, so that somebody has to end both."""

    def __init__(self) -> None:
        super().__init__("linger")

    def execute(self, file_path: str) -> None:
        program = subprocess.Popen(["sleep", "600"])
        with open(os.environ["LINGER_TOLD"], "w") as told:
            told.write(f"{os.getpid()} {program.pid}")
        time.sleep(600)


def get_flow(**kwargs: Any) -> linear_flow.Flow:
    return linear_flow.Flow(kwargs["task_type"]).add(Shout(**kwargs))


def get_refusing_flow(**kwargs: Any) -> linear_flow.Flow:
    return linear_flow.Flow("refusing").add(Refuse(kwargs["action_wrapper"], kwargs["image_id"]))


def get_lingering_flow(**kwargs: Any) -> task.Task:
    return Linger()
