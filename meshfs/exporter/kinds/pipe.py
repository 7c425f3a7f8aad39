"""An open of a named pipe of IPC$."""

from collections.abc import Callable

from meshfs.exporter.kinds.kind import Kind
from meshfs.exporter.state.open import Owner
from meshfs.exporter.state.tree import Tree
from meshfs.smb.constants import AccessMask


class PipeOpen(Kind):
    """A pipe that takes one message and gives the answer to it: ``answer`` makes that."""

    __slots__ = ("_answer", "_output")

    def __init__(self, session: Owner, tree: Tree, file_id: int, name: str, answer: Callable[[bytes], bytes]) -> None:
        super().__init__(session, tree, file_id, int(AccessMask.READ_DATA | AccessMask.WRITE_DATA), name)
        self._answer = answer
        self._output = b""

    def write(self, data: bytes) -> None:
        self._output = self._answer(data)

    def read(self, length: int) -> tuple[bytes, bool]:
        """Up to ``length`` bytes, and whether there are more."""
        data, self._output = self._output[:length], self._output[length:]
        return data, bool(self._output)
