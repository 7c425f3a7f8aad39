"""The problems that an exporter finds in itself: they are added to its status document, and logged."""

from collections.abc import Callable, Iterable, Mapping

from meshfs.cluster.config_changes import Changes, Name, View, compare, exporter_view
from meshfs.cluster.config_watch import ConfigWatch, LoadedConfig
from meshfs.telemetry.exporter_documents import ExporterFacts, ExporterFindings, ExporterStatus
from meshfs.telemetry.problem_watch import ProblemWatch
from meshfs.telemetry.problems import Problem, exporter_problems

#: Settings of the exporter's own node, and of the cluster, that only a restart changes.
NODE_UNTIL_RESTART = ("socket", "state", "scratch_size_bytes")
CLUSTER_UNTIL_RESTART = ("discipline",)


class ExporterWatch:
    """Watches one exporter. ``status`` returns the facts of the document; `document` adds the problems in them."""

    def __init__(self, loaded: LoadedConfig, status: Callable[[], ExporterFacts]) -> None:
        node = self._node = loaded.node.name
        self._status = status
        self._missing = loaded.missing
        self._in_force = self._view(loaded)
        self._fixed: frozenset[Name] = frozenset(
            [*((node, what) for what in NODE_UNTIL_RESTART), *(("", what) for what in CLUSTER_UNTIL_RESTART)]
        )
        self.config = ConfigWatch(loaded.config.given, node, self._compare)
        self.problems = ProblemWatch(self._counts, self._find)

    async def reloaded(self, loaded: LoadedConfig, kept: Iterable[str]) -> None:
        """Note that this config is in force now, except for the node's settings in ``kept``, which have not changed."""
        self._missing = loaded.missing
        new = self._view(loaded)
        names = {*self._fixed, *((self._node, what) for what in kept)}
        self._in_force = {**new, **{name: self._in_force[name] for name in names if name in self._in_force}}
        await self.config.look(again=True)
        await self.problems.look()

    def document(self) -> ExporterStatus:
        facts: ExporterFindings = {
            **self._status(),
            "config_state": self.config.state(),
            "keys_missing": [{"node": node, "why": why} for node, why in self._missing.items()],
            "recent": {
                "disk_errors": self.problems.recent("disk_errors"),
                "counters": self.problems.recent("counters"),
            },
        }
        return {**facts, "problems": [problem.as_json() for problem in exporter_problems(facts)]}

    def _view(self, loaded: LoadedConfig) -> View:
        return exporter_view(loaded.config, self._node, loaded.prints)

    def _compare(self, loaded: LoadedConfig) -> Changes:
        return compare(self._in_force, self._view(loaded), self._fixed)

    def _counts(self) -> Mapping[str, Mapping[str, int]]:
        status = self._status()
        return {
            "disk_errors": {disk["name"]: disk["errors"] for disk in status["disks"]},
            "counters": status["counters"],
        }

    async def _find(self) -> list[Problem]:
        return exporter_problems(self.document())
