"""Does nothing but say so: the smallest plugin there is, for those who write one and to see the order in the log."""

from __future__ import annotations

import structlog

from kernel.extend import ImportStep, NoConfig, StepRequest, StepResult, Trial

log = structlog.get_logger(__name__)


async def run(request: StepRequest) -> StepResult:
    log.info("no_op", image_id=request.image.id, task=request.task_id)
    return StepResult()


EXTENSION = ImportStep(
    name="no_op", since="Glance Pike", run=run, selftest=lambda tmp: Trial(config=NoConfig(), data=b"anything")
)
