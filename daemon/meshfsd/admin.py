"""Handle the verbs "suspend", "drain", "resume" and "admin" of the control socket. `meshctl` asks them.

    suspend   the disk's I/O waits in its queue until the disk is resumed, at most for the given time
    drain     the disk's opens end when their requests are done. Then its device is flushed and released. Without a
              disk, this is done with all disks, also with those that are added later
    resume    the disk is served as before. Without a disk, all disks are
    admin     shows the progress of the other verbs

Each verb answers at once. A task for each disk does the work that takes longer, and `meshctl` asks for the progress.
The states are those of `meshfs.disk.admin_state`. They survive a reload of the config. They end with the process,
because nobody may remember after a restart why a disk is not served. To keep a disk out, take it out of the config.

Mounts see the state "suspended" or "drained" in the announcement of the disk. They do not count a suspended disk as
hung, and treat a drained one like a disk whose owner is away. An exporter that stops announces all its disks as drained
(`leave`), so that mounts can tell a stop on purpose from a failure.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import trio

from meshfs import limits
from meshfs.disk.admin_state import AdminEvent, AdminState, NotInThisState
from meshfs.disk.health import NOT_YET
from meshfs.program.control import Handler, RefusedError, Request
from meshfs.telemetry.documents import STATUS_VERSION
from meshfs.telemetry.exporter_documents import AdminDocument, DiskAdminItem
from meshfs.wording import describe, unknown_key
from meshfsd.disks import Disks
from meshfsd.served import ServedDisk

logger = logging.getLogger(__name__)

_POLL_S = 0.01


class Informed(Protocol):
    """Knows whether the mounts have asked for the announcements of the disks since these have changed."""

    @property
    def all_informed(self) -> bool: ...


class DiskAdmin:
    """Handles the verbs for one node. ``rediscover`` has the machine's disks discovered again."""

    def __init__(self, node: str, disks: Disks, mounts: Informed, rediscover: Callable[[], None]) -> None:
        self._node = node
        self._disks = disks
        self._mounts = mounts
        self._rediscover = rediscover
        self._nursery: trio.Nursery | None = None
        #: The task of each disk that is being suspended or drained.
        self._steps: dict[ServedDisk, trio.CancelScope] = {}
        #: The wait for the end of each suspension. The deadline is that end.
        self._ends: dict[ServedDisk, trio.CancelScope] = {}

    def verbs(self) -> dict[str, Handler]:
        return {"suspend": self.suspend, "drain": self.drain, "resume": self.resume, "admin": self.show}

    async def run(self) -> None:
        """Run the tasks of the verbs, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            await trio.sleep_forever()

    # --- the verbs ---------------------------------------------------------------------

    async def show(self, request: Request) -> AdminDocument:
        """Handle the verb "admin". Raises RefusedError."""
        _check_keys(request, ("verb", "disk"))
        return self._document(self._chosen(request))

    async def suspend(self, request: Request) -> AdminDocument:
        """Handle the verb "suspend". Raises RefusedError before anything has changed."""
        _check_keys(request, ("verb", "disk", "for_s"))
        for_s = _time_s(request.get("for_s", limits.SUSPEND_S))
        if request.get("disk") is None:
            raise RefusedError("the request names no disk to suspend")
        [served] = self._chosen(request)
        if not served.instance:
            raise RefusedError(f"disk {served.name} was never opened ({served.health.why}), so no I/O can wait for it")
        self._happened(served, AdminEvent.SUSPEND)
        served.runner.pause()
        self._end_after(served, for_s)
        self._take_steps(served, self._settle)
        self._disks.announce(served)
        logger.warning("disk %s is suspended for at most %g s: its I/O waits", served.name, for_s)
        return self._document([served])

    async def drain(self, request: Request) -> AdminDocument:
        """Handle the verb "drain". Raises RefusedError before anything has changed."""
        _check_keys(request, ("verb", "disk"))
        chosen = self._chosen(request)
        if request.get("disk") is None:
            self._disks.drained = True
            logger.warning("node %s is drained: nothing can be opened here", self._node)
        for served in chosen:
            if not served.admin.drains:
                self._drain(served)
        return self._document(chosen)

    def _drain(self, served: ServedDisk) -> None:
        self._happened(served, AdminEvent.DRAIN)
        self._stop(served)
        # The requests that a suspension held back are done, or refused if there is no device. If the device goes away
        # before they are flushed, they are lost.
        served.admin.flushed = False
        served.runner.resume()
        self._take_steps(served, self._empty)
        self._disks.announce(served)
        logger.warning("disk %s is drained: it cannot be opened", served.name)

    async def resume(self, request: Request) -> AdminDocument:
        """Handle the verb "resume". Raises RefusedError. A disk that is served already stays as it is."""
        _check_keys(request, ("verb", "disk"))
        chosen = self._chosen(request)
        if request.get("disk") is None:
            self._disks.drained = False
        for served in chosen:
            if served.admin.state is not AdminState.SERVING:
                self._resume(served, "an administrator resumed it")
        return self._document(chosen)

    def _resume(self, served: ServedDisk, why: str) -> None:
        was_drained = served.admin.drains
        self._stop(served)
        self._happened(served, AdminEvent.RESUME)
        served.runner.resume()
        if served.disk is not None:
            served.admin.flushed = False
        if served.health.served or not was_drained:
            self._disks.announce(served)
        # A drained disk is announced, and takes opens, when its keeper has tried to claim the device.
        self._disks.poke({served.name})
        self._rediscover()
        logger.warning("disk %s is served again: %s", served.name, why)

    async def leave(self) -> None:
        """Announce all disks as drained, because the exporter stops. Wait until the mounts know, for DRAIN_NEWS_S."""
        for served in self._disks.served.values():
            served.admin.leaving = True
            self._disks.announce(served)
        with trio.move_on_after(limits.DRAIN_NEWS_S):
            while not self._mounts.all_informed:  # noqa: ASYNC110 - a bounded wait at the end of the process
                await trio.sleep(_POLL_S)

    # --- the tasks of disks ------------------------------------------------------------

    async def _settle(self, served: ServedDisk) -> None:
        """Wait until a suspended disk has nothing in flight, and flush it."""
        await served.runner.wait_idle()
        self._settled(served, flushed=await served.settle())

    async def _empty(self, served: ServedDisk) -> None:
        """End the opens of a drained disk when their requests are done, and flush and release its device."""
        await served.runner.wait_idle()
        ended = trio.Event()
        self._disks.end_opens(served, ended.set)
        await ended.wait()
        await served.runner.wait_idle()
        flushed = await served.settle()
        await self._disks.let_go(served.name)
        self._settled(served, flushed=flushed)

    def _settled(self, served: ServedDisk, *, flushed: bool) -> None:
        admin = served.admin
        if not admin.settled:
            admin.happened(AdminEvent.SETTLED)
            admin.flushed = flushed
            self._disks.announce(served)
            logger.info("disk %s is %s: nothing is at its device any more", served.name, admin.state)

    def _take_steps(self, served: ServedDisk, steps: Callable[[ServedDisk], Awaitable[None]]) -> None:
        """Start a task, unless the disk is settled or has its task already."""
        if served.admin.settled or served in self._steps:
            return
        scope = self._steps[served] = trio.CancelScope()

        async def run() -> None:
            with scope:
                await steps(served)
            if self._steps.get(served) is scope:
                del self._steps[served]

        assert self._nursery is not None, "verbs are handled while it runs"
        self._nursery.start_soon(run)

    def _end_after(self, served: ServedDisk, for_s: float) -> None:
        """Resume the disk after ``for_s``, and not at an earlier time that was set before."""
        deadline_s = trio.current_time() + for_s
        if served in self._ends:
            self._ends[served].deadline = deadline_s
            return
        scope = self._ends[served] = trio.CancelScope(deadline=deadline_s)

        async def wait() -> None:
            with scope:
                await trio.sleep_forever()
            if self._ends.get(served) is scope:
                del self._ends[served]
                # The disk may have been withdrawn meanwhile, and another disk may have its name.
                if self._disks.served.get(served.name) is served:
                    self._resume(served, "the time of its suspension is over")

        assert self._nursery is not None, "verbs are handled while it runs"
        self._nursery.start_soon(wait)

    def _stop(self, served: ServedDisk) -> None:
        """Stop the tasks of the disk's last verb."""
        for scopes in (self._steps, self._ends):
            scope = scopes.pop(served, None)
            if scope is not None:
                scope.cancel()

    # --- requests and answers ----------------------------------------------------------

    def _happened(self, served: ServedDisk, event: AdminEvent) -> None:
        try:
            served.admin.happened(event)
        except NotInThisState as error:
            raise RefusedError(f"disk {served.name}: {error}") from error

    def _chosen(self, request: Request) -> list[ServedDisk]:
        """Return the disk that the request names by name or id, or all disks if it names none."""
        wanted, disks = request.get("disk"), self._disks.served
        if wanted is None:
            return [disks[name] for name in sorted(disks)]
        found = [served for served in disks.values() if wanted in (served.name, served.offered.info.id)]
        if not found:
            there = f"expected one of {', '.join(sorted(disks))}" if disks else "because this exporter serves no disks"
            raise RefusedError(f"there is no disk {describe(wanted)}, {there}")
        return found[:1]

    def _document(self, chosen: Sequence[ServedDisk]) -> AdminDocument:
        return {
            "version": STATUS_VERSION,
            "node": self._node,
            "drained": self._disks.drained,
            "disks": [self._describe(served) for served in chosen],
        }

    def _describe(self, served: ServedDisk) -> DiskAdminItem:
        info, counts, end = served.describe(), served.runner.status(), self._ends.get(served)
        # A drained disk that was resumed is not settled before the first attempt to claim its device has ended.
        claiming = served.disk is None and served.health.why == NOT_YET and not served.admin.drains
        return {
            "name": served.name,
            "id": info.id,
            "admin": served.admin.state.value,
            "state": info.state.value,
            "why": info.why,
            "settled": served.admin.settled and not claiming,
            "flushed": served.admin.flushed,
            "queued": counts.queued,
            "in_flight": counts.in_flight,
            "ends_in_s": None if end is None else round(max(end.deadline - trio.current_time(), 0.0), 3),
        }


def _time_s(value: object) -> float:
    """Return the time of a suspension. Raises RefusedError."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= limits.SUSPEND_MAX_S:
        return float(value)
    raise RefusedError(f"for_s: found {describe(value)}, expected more than 0 and at most {limits.SUSPEND_MAX_S:g}")


def _check_keys(request: Request, known: Sequence[str]) -> None:
    for key in request:
        if key not in known:
            raise RefusedError(f"{describe(key)}: {unknown_key(key[:200], known)}")
