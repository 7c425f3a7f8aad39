"""The verbs "flows" and "flows-set": show how flows share each disk, and change that at run time.

    {"verb": "flows", "disk": NAME or null for all}

        {"version", "node", "uptime_s", "disks": [one object per disk: `describe_disk`]}

    {"verb": "flows-set", "disk": NAME or null for all, "set": {...}}       the keys that `policy.Change` takes
    {"verb": "flows-set", "disk": NAME or null for all, "reset": true}      return to the config's settings

A change is checked for all its disks before it is made at any of them. The answer is the "flows" document of those
disks, with the settings that are in force then. The change stays until a reset or the end of the process, also when the
config is read again.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

import trio

from meshfs.program.control import RefusedError, Request
from meshfs.scheduler.decide.fair import FairQueue
from meshfs.scheduler.decide.policy import Change, DiskPolicy, Overrides, PolicyError
from meshfs.scheduler.decide.queue import Queue
from meshfs.scheduler.usage import DiskMeter
from meshfs.telemetry.documents import STATUS_VERSION
from meshfs.telemetry.exporter_documents import DiskFlows, FlowsDocument
from meshfs.wording import describe, unknown_key
from meshfsd.flows_document import describe_disk

logger = logging.getLogger(__name__)


class MeteredRunner(Protocol):
    """Declares the part of a disk's runner that is used here."""

    @property
    def meter(self) -> DiskMeter: ...


class ScheduledDisk(Protocol):
    """Declares the part of a `ServedDisk` that is used here. ``policy`` is ``config_policy`` with ``overrides``."""

    @property
    def runner(self) -> MeteredRunner: ...

    @property
    def queue(self) -> Queue: ...

    @property
    def policy(self) -> DiskPolicy: ...

    @property
    def config_policy(self) -> DiskPolicy: ...

    @property
    def overrides(self) -> Overrides: ...

    def set_policy(self, base: DiskPolicy, overrides: Overrides, nodes: Collection[str]) -> None:
        """Put the policy in force. Raises PolicyError before anything has changed."""


class FlowControl:
    """Handles both verbs. ``disks`` and ``nodes`` return the present disks and nodes. ``now`` is the queues' clock."""

    def __init__(
        self,
        node: str,
        disks: Callable[[], Mapping[str, ScheduledDisk]],
        nodes: Callable[[], Collection[str]],
        now: Callable[[], float],
    ) -> None:
        self._node = node
        self._disks = disks
        self._nodes = nodes
        self._now = now
        self._started = now()

    # --- showing -----------------------------------------------------------------------

    async def show(self, request: Request) -> FlowsDocument:
        """Handle the verb "flows". Raises RefusedError."""
        _check_keys(request, ("verb", "disk"))
        return await self._show(self._chosen(request))

    async def _show(self, names: Sequence[str]) -> FlowsDocument:
        """Describe disk by disk, so that I/O continues meanwhile. A disk that is withdrawn meanwhile is left out."""
        uptime_s = self._now() - self._started
        found: list[DiskFlows] = []
        for name in names:
            if (disk := self._disks().get(name)) is not None:
                meter = disk.runner.meter
                found.append(describe_disk(self._node, name, disk.queue, disk.policy, meter, self._now()))
            await trio.lowlevel.checkpoint()
        return {"version": STATUS_VERSION, "node": self._node, "uptime_s": round(uptime_s, 3), "disks": found}

    def _chosen(self, request: Request) -> list[str]:
        name, disks = request.get("disk"), self._disks()
        if name is None:
            return sorted(disks)
        if not isinstance(name, str) or name not in disks:
            there = f"expected one of {', '.join(sorted(disks))}" if disks else "because this exporter serves no disks"
            raise RefusedError(f"there is no disk {describe(name)}, {there}")
        return [name]

    # --- changing ----------------------------------------------------------------------

    async def change(self, request: Request) -> FlowsDocument:
        """Handle the verb "flows-set". Raises RefusedError before anything has changed."""
        _check_keys(request, ("verb", "disk", "set", "reset"))
        names = self._chosen(request)
        if "set" in request and "reset" in request:
            raise RefusedError("the request has both set and reset, expected only one of them")
        if "set" in request:
            self._set(names, request["set"])
        elif request.get("reset") is True:
            self._reset(names)
        elif "reset" in request:
            raise RefusedError(f"reset: found {describe(request['reset'])}, expected true")
        else:
            raise RefusedError('the request changes nothing, expected "set": {...} or "reset": true')
        return await self._show(names)

    def _set(self, names: Sequence[str], wish: object) -> None:
        try:
            change = Change.parse(wish)
        except PolicyError as error:
            raise RefusedError(str(error)) from error
        wanted = {name: self._fair(name).overrides.add(change) for name in names}
        self._install(wanted)
        logger.info("the settings of %s were changed at run time: %s", _names(names), _settings_text(change))

    def _reset(self, names: Sequence[str]) -> None:
        self._install({name: Overrides() for name in names if self._fair(name)})
        logger.info("the settings of %s are those of the config again", _names(names))

    def _fair(self, name: str) -> ScheduledDisk:
        """Return the disk. Raises RefusedError if its queue uses no policy."""
        disk = self._disks()[name]
        if not isinstance(disk.queue, FairQueue):
            raise RefusedError(
                f"disk {name} is scheduled by {disk.queue.discipline}, which has no weights, floors or limits; "
                'set discipline = "fair" in [scheduler] of the config and restart meshfsd'
            )
        return disk

    def _install(self, wanted: Mapping[str, Overrides]) -> None:
        """Change all of the disks. If one of them cannot take the change, raise RefusedError and change none."""
        disks, nodes = self._disks(), self._nodes()
        for name, overrides in wanted.items():
            try:
                overrides.policy(disks[name].config_policy, nodes)
            except PolicyError as error:
                raise RefusedError(f"disk {name}: {error}") from error
        for name, overrides in wanted.items():
            disks[name].set_policy(disks[name].config_policy, overrides, nodes)


def _check_keys(request: Request, known: Sequence[str]) -> None:
    for key in request:
        if key not in known:
            raise RefusedError(f"{describe(key)}: {unknown_key(key[:200], known)}")


def _names(names: Sequence[str]) -> str:
    return f"disk {names[0]}" if len(names) == 1 else f"{len(names)} disks"


def _settings_text(change: Change) -> str:
    """Return a text such as "system_floor = 0.3", or "n2/app, n2/system: weight = 4"."""
    values = ", ".join(f"{key} = {'none' if value is None else f'{value:g}'}" for key, value in change.values.items())
    flows = ", ".join(str(flow) for flow in change.flows() if flow is not None)
    return f"{flows}: {values}" if flows else values
