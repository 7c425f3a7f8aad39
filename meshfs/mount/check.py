"""Answers the verb "check" of a mount's control socket, with which `meshctl check` asks for the views of all mounts.

    {"verb": "check"}                       ->  {"node": ..., "nodes": [...], "exporters": [...]}
    {"verb": "check", "exporter": "n1"}     ->  the exchange with that exporter (`meshfs.mesh_view`)

meshctl asks about each exporter in a request of its own, and so shows how far the check is.
"""

from collections.abc import Mapping

from meshfs.errors import MeshfsError
from meshfs.limits import CHECK_TIMEOUT_S
from meshfs.mesh_view import exchange_json
from meshfs.mount.exporters import Exporters
from meshfs.mount.mesh import Mesh
from meshfs.program.control import RefusedError, Request


class MeshCheck:
    """Asks the exporters of one mount for the views of all mounts."""

    def __init__(self, node: str, mesh: Mesh, initiator: Exporters) -> None:
        self._node = node
        self._mesh = mesh
        self._initiator = initiator

    async def answer(self, request: Request) -> Mapping[str, object]:
        """Answer one request. Raises RefusedError if the exporter does not answer."""
        exporter = request.get("exporter")
        if exporter is None:
            return {
                "node": self._node,
                "nodes": list(self._mesh.catalog.nodes),
                "exporters": list(self._initiator.exporters),
            }
        if not isinstance(exporter, str) or exporter not in self._initiator.exporters:
            raise RefusedError(f"this mount knows no exporter {exporter!r}")
        try:
            return exchange_json(await self._initiator.exchange_views(exporter))
        except TimeoutError:
            raise RefusedError(f"the exporter has not answered within {CHECK_TIMEOUT_S:g} s") from None
        except MeshfsError as error:
            raise RefusedError(str(error)) from error
