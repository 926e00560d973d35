"""Whatever users ask and workers suffer: no illegal status, nothing lost, nothing left behind.

    users, clients and workers ─▶ decide ─▶ evolve     and beside it, the bytes that exist
                                                       in stores and in staging

Workers do what is outstanding, badly: steps fail, processes die between an effect and
its record or hand over in the middle, and those that were only stopped wake up late and
write once more.  After every event the state must be sound and all recorded bytes
must be there; once all work is done nothing else may be.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from msgspec import Struct

from kernel import commands as c
from kernel import events as e
from kernel.decide import decide
from kernel.errors import EntrepotError, Fenced
from kernel.evolve import NOTHING, evolve
from kernel.image import IMAGE_IMPORT, IMPORT, STAGING, TRANSITIONS, Image, Job
from kernel.naming import blob_name
from kernel.patch import Operation
from kernel.purge import valid_names
from kernel.work import outstanding
from tests.support.builders import IMAGE, at, blob, created, digests, location, meta

STORES = ("a", "b", "c")
TTL = 6.0
"""Seconds after which the lease of a dead process may be taken."""

Bytes = tuple[str, str]
"""Store, name."""

some_stores = st.lists(st.sampled_from(STORES), min_size=1, max_size=3, unique=True).map(tuple)
some_number = st.integers(0, 11)


def edit(operation: Operation) -> c.PatchImage:
    return c.PatchImage(operations=(operation,))


class Late(Struct):
    """What a process that was only stopped may still write, until `deadline`."""

    bytes: Bytes
    deadline: float | None = None


class Life(RuleBasedStateMachine):
    """One image, its users and its workers."""

    def __init__(self) -> None:
        super().__init__()
        self.image = NOTHING
        self.now = 0.0
        self.epoch = 0
        self.holder: str | None = None
        """Who has the lease: `client`, `worker`, or `dead` when it died with it."""
        self.sending: Bytes | None = None
        self.bytes: set[Bytes] = set()
        self.late: list[Late] = []
        self.tasks = 0
        self.last: tuple[c.WorkerCommand, ...] = ()
        self.expected: dict[str, Any] = {}
        """Formats and properties as the user has them, whatever steps do."""
        self.begins()
        self.note()

    def begins(self) -> None:
        assert self.record(c.CreateImage(image=created(properties={"p0": "u", "p1": None})))

    # --- recording -------------------------------------------------------------------

    def record(self, *commands: c.Command, epoch: int | None = None) -> bool:
        """Decide and fold, all or nothing, as `kernel.handle` does; False if refused."""
        self.now += 1
        states = [self.image]
        events: list[e.Event] = []
        try:
            for command in commands:
                for event in decide(command, states[-1]):
                    states.append(evolve(states[-1], event, meta(self.now, epoch=epoch)))
                    events.append(event)
        except EntrepotError:
            return False
        self.image = states[-1]
        for before, event, after in zip(states, events, states[1:], strict=False):
            self.check(before, event, after)
        return True

    def happens(self, event: e.Event) -> None:
        """An event that no command causes now: users' formats, as older versions may have recorded them."""
        self.now += 1
        before, self.image = self.image, evolve(self.image, event, meta(self.now, epoch=None))
        self.check(before, event, self.image)

    def note(self) -> None:
        image = self.image
        self.expected = {
            "disk_format": image.disk_format,
            "container_format": image.container_format,
            "properties": dict(image.properties),
        }

    # --- what always holds -----------------------------------------------------------

    def check(self, before: Image, event: e.Event, after: Image) -> None:
        assert after.version == before.version + 1
        assert after.status == before.status or after.status in TRANSITIONS[before.status] or not before.exists
        job = before.job
        if before.status == "importing" and after.status == "active":
            assert job is not None
            assert isinstance(event, e.StoreSucceeded)
            assert set(after.stores) >= (set(job.stores) if job.must_succeed else {event.store})
        if isinstance(event, e.ImportCompleted):
            self.check_completed(before, after)
        if isinstance(event, e.ImportFailed):
            self.check_failed(before, after)
        if isinstance(event, e.ImportCompleted | e.ImportFailed):
            assert job is not None
            assert not set(after.importing or ()) & set(job.stores)
        self.check_state(after)

    def check_state(self, image: Image) -> None:
        job, transfer = image.job, image.transfer
        match image.status:
            case "expected":
                assert job is not None or image.version == 1
                assert job is None or job.makes
            case "queued" if job is not None:
                assert job.makes
            case "queued":
                assert (image.size, image.checksum, image.locations, image.staged, transfer) == (
                    None,
                    None,
                    (),
                    None,
                    None,
                )
            case "saving":
                assert transfer is not None
                assert transfer.store != STAGING
            case "uploading":
                assert (transfer is None) is (image.staged is not None)
            case "importing":
                assert job is not None
                assert not job.copies
            case "active" | "deactivated":
                assert image.locations
                assert image.checksum is not None
            case "pending_delete":
                assert (job, transfer, image.staged) == (None, None, None)
                assert image.locations
            case "deleted":
                assert (job, transfer, image.staged, image.locations) == (None, None, None, ())
        assert job is not None or image.task is None or image.task.final
        garbage = {(item.store, item.url) for item in image.garbage}
        assert not garbage & {(item.store, item.url) for item in image.locations}
        assert self.needed(image) <= self.bytes, "bytes that the record vouches for are gone"

    def check_completed(self, before: Image, after: Image) -> None:
        job = before.job
        assert job is not None
        assert after.status in ("active", "deactivated")
        assert set(job.done) <= set(after.stores)
        if job.must_succeed:
            assert set(job.stores) <= set(after.stores)
        assert set(job.done) | set(job.failed) == set(job.stores)
        assert set(job.failed) <= set(after.failed or ())
        assert after.task is not None
        assert after.task.status == "success"

    def check_failed(self, before: Image, after: Image) -> None:
        assert before.job is not None
        assert after.task is not None
        assert after.task.status == "failure"
        made = before.job.makes and before.status in ("queued", "expected")
        assert after.status == ("deleted" if made else "queued" if before.status == "importing" else before.status)
        assert {name: getattr(after, name) for name in self.expected} == self.expected

    @staticmethod
    def needed(image: Image) -> set[Bytes]:
        """Bytes that the record vouches for."""
        found = {(item.store, item.name or "") for item in image.locations}
        for staged in (image.staged, image.job.data if image.job else None):
            if staged is not None:
                found.add((STAGING, staged.name))
        return found

    # --- users -----------------------------------------------------------------------

    @precondition(lambda self: self.holder != "client")
    @rule(store=st.sampled_from((STAGING, STAGING, "a", "b")), declared=st.none() | st.just(3))
    def a_client_begins_to_send(self, store: str, declared: int | None) -> None:
        if self.holder == "worker":
            return
        self.tasks += 1
        transfer, epoch = f"transfer{self.tasks}", self.epoch + 1
        command: c.Command = c.StartUpload(transfer=transfer, store=store, declared_size=declared)
        if store == STAGING:
            command = c.StartStaging(transfer=transfer, declared_size=declared)
        if self.record(command, epoch=epoch):
            self.epoch, self.holder = epoch, "client"
            self.sending = store, blob_name(IMAGE, transfer, "data", epoch)

    @precondition(lambda self: self.holder == "client")
    @rule(fate=some_number)
    def a_client_ends(self, fate: int) -> None:
        assert self.sending is not None
        (store, name), transfer = self.sending, self.sending[1].split("/")[1]
        whole = fate < 8
        if fate in (7, 11):
            self.dies([self.sending], whole)
            return
        give_up = c.FailTransfer(transfer=transfer, reason="broken off")
        if whole:
            self.bytes.add((store, name))
            complete: c.Command = c.CompleteUpload(
                transfer=transfer, location=_location(store, name), digests=digests()
            )
            if store == STAGING:
                complete = c.CompleteStaging(transfer=transfer, blob=_blob(name))
            if not self.record(complete, epoch=self.epoch):
                self.record(give_up, epoch=self.epoch)
        else:
            self.record(give_up, epoch=self.epoch)
        self.holder = self.sending = None

    @rule(
        stores=some_stores,
        must_succeed=st.booleans(),
        parallel=st.integers(1, 2),
        steps=st.integers(0, 2),
        describes=st.booleans(),
    )
    def a_user_asks_for_an_import(
        self, stores: tuple[str, ...], must_succeed: bool, parallel: int, steps: int, describes: bool
    ) -> None:
        self.tasks += 1
        status = self.image.status
        copies = status == "active"
        request = e.ImportRequested(
            task_id=f"task{self.tasks}",
            method="any",
            request={},
            stores=stores,
            multi=True,
            must_succeed=must_succeed,
            parallel=1 if copies else parallel,
            steps=() if copies else ("s0", "s1")[:steps],
            fetches=status == "queued",
            copies=copies,
            inspects=not copies,
            describes=describes and status == "queued",
        )
        needs = {"uploading": "uploading", "active": "active"}.get(status, "queued")
        if self.record(c.RequestImport(needs=needs, request=request)):
            self.note()

    @precondition(lambda self: self.image.job is not None)
    @rule(unlucky=some_number)
    def a_user_cancels_the_import(self, unlucky: int) -> None:
        assert self.image.job is not None
        if unlucky > 3:  # else few imports would come to their end
            return
        doing = self.doing()
        if self.record(c.CancelImport(task_id=self.image.job.task_id, reason="enough")) and self.holder == "worker":
            self.leave_behind(doing, unlucky)

    @precondition(lambda self: self.image.job is not None)
    @rule(unlucky=some_number)
    def an_import_that_seems_dead_is_preempted(self, unlucky: int) -> None:
        assert self.image.job is not None
        if unlucky > 2:  # else few imports would come to their end
            return
        doing = self.doing()
        command = c.PreemptImport(task_id=self.image.job.task_id, as_of=self.image.version)
        if self.record(command) and self.holder == "worker":
            self.leave_behind(doing, unlucky)
            self.holder = None

    @rule(unlucky=some_number)
    def a_user_deletes_the_image(self, unlucky: int) -> None:
        if unlucky > 2:  # else most lives would be short
            return
        doing = self.doing()
        scrub_at = at(self.now + 20) if unlucky == 1 else None
        if self.record(c.DeleteImage(scrub_at=scrub_at)) and self.holder == "worker":
            self.leave_behind(doing, unlucky)
            self.holder = None

    @precondition(lambda self: len(self.image.locations) > 1)
    @rule(store=st.sampled_from(STORES))
    def an_operator_deletes_a_copy(self, store: str) -> None:
        self.record(c.RemoveCopy(store=store))

    @precondition(lambda self: self.image.status in ("active", "deactivated"))
    @rule()
    def an_operator_deactivates_or_reactivates(self) -> None:
        assert self.record(c.Deactivate() if self.image.status == "active" else c.Reactivate())

    @precondition(lambda self: self.image.job is not None and not self.image.expected)
    @rule(number=some_number)
    def a_user_edits(self, number: int) -> None:
        name = f"p{number % 3}"
        if number < 4:
            self.happens(e.ImageUpdated(disk_format=f"u{self.now}"))
            self.expected["disk_format"] = self.image.disk_format
        elif number < 8 or name not in self.image.properties:
            assert self.record(edit(Operation(verb="add", name=name, value=f"u{self.now}")))
            self.expected["properties"][name] = self.image.properties[name]
        else:
            assert self.record(edit(Operation(verb="remove", name=name)))
            self.expected["properties"].pop(name, None)

    # --- workers ---------------------------------------------------------------------

    @rule(luck=st.lists(st.tuples(st.integers(0, 4), some_number), min_size=1, max_size=5))
    def a_worker_works(self, luck: list[tuple[int, int]]) -> None:
        for fate, pick in luck:
            self.works(fate == 4, pick)

    def works(self, fails: bool, pick: int) -> None:
        work = outstanding(self.image)
        if self.holder == "client" or work is None or (work.due is not None and work.due > at(self.now)):
            return
        if self.holder == "dead":
            self.now += TTL
        take_over = self.take_over()
        if work.kind == "discard":
            assert self.image.transfer is not None
            self.epoch += 1
            give_up = c.FailTransfer(transfer=self.image.transfer.id, reason="the process is gone")
            assert self.record(*take_over, give_up, epoch=self.epoch)
            self.holder = None
        elif work.kind == "purge":
            self.purges(take_over, fails, pick)
        elif work.kind == "expire":
            assert self.image.expiring is not None
            assert self.record(c.ExpireImageImport(task_id=self.image.expiring.id))
        else:
            if self.holder != "worker":
                self.epoch += 1
                assert self.record(*take_over, epoch=self.epoch)
                self.holder = "worker"
            self.performs(fails, pick)
            if self.image.job is None:
                self.holder = None

    def take_over(self) -> tuple[c.Command, ...]:
        """What the next holder of the lease records first, as `kernel.reactor` has it."""
        job = self.image.job
        if self.holder == "dead":
            sweep_at = self.now + 2 * TTL
            for item in self.late:
                item.deadline = item.deadline or sweep_at
            return (c.TakeOver(sweep_at=at(sweep_at)),)
        if self.holder is None and job is not None and job.started:
            return (c.TakeOver(),)
        return ()

    def purges(self, take_over: tuple[c.Command, ...], fails: bool, pick: int) -> None:
        self.epoch += 1
        assert self.record(*take_over, c.ScrubImage(now=at(self.now)), epoch=self.epoch)
        blobs, sweeps = self.purge(fails)
        if fails and pick == 0:
            self.holder = "dead"
            return
        assert self.record(c.RecordPurge(blobs=blobs, sweeps=sweeps))
        self.holder = None

    def purge(self, fails: bool) -> tuple[tuple[Bytes, ...], tuple[e.Sweep, ...]]:
        """Remove garbage and what searches that are due find, as `kernel.purge` does; the first cannot be removed."""
        image = self.image
        garbage = [(item.store, item.url) for item in image.garbage][fails:]
        self.bytes -= {(store, url.removeprefix(f"{store}://")) for store, url in garbage}
        due = [sweep for sweep in image.sweeps if sweep.due is None or sweep.due <= at(self.now)]
        valid = valid_names(image)
        for sweep in due:
            found = {item for item in self.bytes if item[0] == sweep.store}
            self.bytes -= {item for item in found if _epoch(item[1]) < sweep.below and item[1] not in valid}
        return tuple(garbage), tuple(due)

    def performs(self, fails: bool, pick: int) -> None:
        job, work = self.image.job, outstanding(self.image)
        assert job is not None
        assert work is not None
        outcomes = self.fails(work.kind, job, pick) if fails else self.succeeds(work.kind, job, pick)
        assert self.record(*outcomes, epoch=self.epoch)
        self.last = outcomes

    def succeeds(self, kind: str, job: Job, pick: int) -> tuple[c.WorkerCommand, ...]:
        task = job.task_id
        match kind:
            case "begin":
                return (c.BeginImport(task_id=task),)
            case "describe":
                copied = e.MetadataCopied(disk_format="s", container_format="s", properties={f"p{pick % 3}": "s"})
                return (c.RecordMetadata(task_id=task, copied=copied),)
            case "fetch":
                return (c.RecordFetch(task_id=task, blob=self.made(job, "fetch")),)
            case "step":
                step = job.steps[job.steps_done]
                return (c.RecordStep(task_id=task, completed=self.stepped(job, step, pick)),)
            case "inspect":
                return (c.RecordInspection(task_id=task, detected=("raw",), virtual_size=3),)
            case "store":
                return self.stores(job, pick)
            case "clear":
                return (self.clears(job, ()),)
        blobs, sweeps = self.purge(False)
        return (c.FinishUndo(task_id=task, purged=blobs, swept=sweeps),)

    def fails(self, kind: str, job: Job, pick: int) -> tuple[c.WorkerCommand, ...]:
        task = job.task_id
        match kind:
            case "begin":
                return (c.BeginImport(task_id=task),)
            case "clear":
                kept = (job.data.url,) if job.data else ()
                return (self.clears(job, kept),)
            case "undo":
                blobs, sweeps = self.purge(True)
                return (c.FinishUndo(task_id=task, purged=blobs, swept=sweeps),)
            case "store" if job.writing or pick > 3:
                return self.stores(job, 3)
        return (c.FailStep(task_id=task, step=kind, reason="bad luck", inspection=kind == "inspect"),)

    def stepped(self, job: Job, step: str, pick: int) -> e.StepCompleted:
        changed: dict[str, Any] = {"properties_set": {f"p{pick % 3}": f"s{self.now}"}}
        if pick % 2:
            changed = {"properties_removed": (f"p{pick % 3}",), "disk_format": f"s{self.now}"}
        if pick % 3:
            changed["blob"] = self.made(job, step)
        return e.StepCompleted(step=step, **changed)

    def stores(self, job: Job, pick: int) -> tuple[c.WorkerCommand, ...]:
        """Begin another store, or have one done."""
        free = [store for store in job.todo if store not in job.writing]
        if free and len(job.writing) < job.parallel:
            name = blob_name(IMAGE, job.task_id, free[0], self.epoch)
            return (c.StartStore(task_id=job.task_id, store=free[0], name=name),)
        if pick % 4 == 3:
            return self.stores_fail(job, pick)
        store = sorted(job.writing)[pick % len(job.writing)]
        return (self.stored(job, store),)

    def stored(self, job: Job, store: str) -> c.WorkerCommand:
        name = job.writing[store]
        self.bytes.add((store, name))
        return c.RecordStoreSuccess(
            task_id=job.task_id, store=store, location=_location(store, name), digests=digests()
        )

    def stores_fail(self, job: Job, pick: int) -> tuple[c.WorkerCommand, ...]:
        """One store fails, perhaps leaving something there; another may end in the same moment."""
        first, *others = sorted(job.writing, reverse=pick % 2 == 0)
        if pick % 3 == 0:
            self.bytes.add((first, job.writing[first]))
        failed = c.RecordStoreFailure(task_id=job.task_id, store=first, reason="bad luck")
        return (failed, *(self.stored(job, store) for store in others if pick > 5))

    def clears(self, job: Job, kept: tuple[str, ...]) -> c.WorkerCommand:
        urls = {item.url for item in self.image.garbage if item.store == STAGING}
        if job.data is not None:
            urls.add(job.data.url)
        self.bytes -= {(STAGING, url.removeprefix(f"{STAGING}://")) for url in urls.difference(kept)}
        return c.ClearStaging(task_id=job.task_id, kept=kept)

    def made(self, job: Job, step: str) -> e.Blob:
        """Bytes made in staging under the present lease."""
        name = blob_name(IMAGE, job.task_id, step, self.epoch)
        self.bytes.add((STAGING, name))
        return _blob(name)

    # --- misfortunes -----------------------------------------------------------------

    def doing(self) -> list[Bytes]:
        """What a worker is writing right now."""
        job, work = self.image.job, outstanding(self.image)
        if self.holder != "worker" or job is None or work is None:
            return []
        if work.kind in ("fetch", "step"):
            step = "fetch" if work.kind == "fetch" else job.steps[job.steps_done]
            return [(STAGING, blob_name(IMAGE, job.task_id, step, self.epoch))]
        return list(job.writing.items())

    def leave_behind(self, doing: list[Bytes], unlucky: int) -> None:
        """Interrupted just as it had finished: what it wrote is there, and in no record."""
        if unlucky % 2:
            self.bytes.update(doing)

    def dies(self, doing: list[Bytes], there: bool) -> None:
        if there:
            self.bytes.update(doing)
        self.late += [Late(item) for item in doing]
        self.holder, self.sending = "dead", None

    @precondition(lambda self: self.holder == "worker")
    @rule(there=st.booleans())
    def a_worker_dies(self, there: bool) -> None:
        self.dies(self.doing(), there)

    @precondition(lambda self: self.holder == "worker")
    @rule(unlucky=some_number)
    def a_worker_hands_over(self, unlucky: int) -> None:
        self.leave_behind(self.doing(), unlucky)
        self.holder = None

    @precondition(lambda self: any(item.deadline is None or self.now < item.deadline for item in self.late))
    @rule()
    def stopped_processes_wake_up_and_write(self) -> None:
        for item in self.late:
            if item.deadline is None or self.now < item.deadline:
                self.bytes.add(item.bytes)

    @precondition(lambda self: self.last)
    @rule()
    def an_outcome_is_reported_again(self) -> None:
        for command in self.last:
            if isinstance(command, c.StartStore) and self.image.job and command.store not in self.image.job.writing:
                continue  # it was handed over, or is done: not a repetition
            try:
                assert decide(command, self.image) == ()
            except Fenced:
                continue

    @rule()
    def time_passes(self) -> None:
        self.now += 2 * TTL

    # --- the end ---------------------------------------------------------------------

    def teardown(self) -> None:
        """Everybody stops asking; workers go on until nothing is outstanding."""
        if self.holder == "client":
            self.dies([self.sending] if self.sending else [], True)
        for _ in range(200):
            self.works(False, 0)
            self.stopped_processes_wake_up_and_write()
            work = outstanding(self.image)
            if work is None:
                break
            if work.due is not None:
                self.now = max(self.now, (work.due - at()).total_seconds())
        assert outstanding(self.image) is None, "work without end"
        assert self.image.garbage == ()
        assert self.bytes == self.needed(self.image), "bytes were left behind"


def _blob(name: str) -> e.Blob:
    return blob(name, url=f"{STAGING}://{name}")


def _location(store: str, name: str) -> e.Location:
    return location(store, url=f"{store}://{name}", name=name)


def _epoch(name: str) -> int:
    return int(name.rsplit(".", 1)[1])


class Making(Life):
    """The same with an image that its import makes: it is there in good time, or with its success, or not at all."""

    def begins(self) -> None:
        self.began = False

    @precondition(lambda self: not self.began)
    @rule(
        kind=st.sampled_from((IMPORT, IMAGE_IMPORT)),
        stores=some_stores,
        must_succeed=st.booleans(),
        parallel=st.integers(1, 2),
        undeclared=st.booleans(),
    )
    def a_user_asks_for_a_new_image(
        self,
        kind: str,
        stores: tuple[str, ...],
        must_succeed: bool,
        parallel: int,
        undeclared: bool,
    ) -> None:
        self.began = True
        self.tasks += 1
        image = created(properties={"p0": "u", "p1": None}, **({"disk_format": None} if undeclared else {}))
        request = e.ImportRequested(
            task_id=f"task{self.tasks}",
            type=kind,
            method="any",
            request={},
            stores=stores,
            multi=True,
            must_succeed=must_succeed or kind == IMPORT,
            parallel=parallel,
            steps=("s0",),
            fetches=True,
            task_ttl=600,
        )
        assert self.record(c.ExpectImage(image=image, request=request))
        self.note()

    def check(self, before: Image, event: e.Event, after: Image) -> None:
        super().check(before, event, after)
        if before.expected and not after.gone:
            assert isinstance(event, e.ImageAppeared)
            assert after.status == ("active" if before.job and before.job.cleared else "queued")
        if before.gone and not before.expected:
            assert after.gone, "what is gone does not come back"

    def works(self, fails: bool, pick: int) -> None:
        if self.began:
            super().works(fails, pick)


ENOUGH = settings(max_examples=150, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])

TestLife = Life.TestCase
TestLife.settings = ENOUGH
TestMaking = Making.TestCase
TestMaking.settings = settings(ENOUGH, max_examples=100)
