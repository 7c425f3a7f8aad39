"""Reads and controls one enclosure of an exporter, for the handles of a mount.

A reading is one CREATE, some READs and one CLOSE. The exporter reads the device at the CREATE, so all READs see one
content. If the session is lost in between, the whole reading begins again.

control_page.py says how a control page is sent.

The bounds are those of disks (failfast.py): a call ends within ``io_timeout_s``. If the exporter has been away for that
long, a call fails at once.
"""

import errno
import functools
import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import trio

from meshfs import limits
from meshfs.enclosure_info import EnclosureInfo, EnclosureState
from meshfs.errors import ChannelLost, RemoteProtocolError, StatusError
from meshfs.initiator.attached.control_page import ControlPage
from meshfs.initiator.attached.outcomes import Meaning, meaning
from meshfs.initiator.remote.exporter import RemoteExporter
from meshfs.initiator.remote.failfast import BlockedCall, ends_at
from meshfs.initiator.session.commands import RemoteOpen, open_file
from meshfs.initiator.session.session import InitiatorSession
from meshfs.initiator.session.trees import TreeConnect
from meshfs.loop.worker import enter_trio
from meshfs.smb.constants import NtStatus
from meshfs.smb.status import errno_from_status

logger = logging.getLogger(__name__)

#: The errno of a call whose enclosure is not offered any more. read(2) and write(2) have no ENOENT.
_GONE: Final = errno.ENODEV

T = TypeVar("T")
Spawn = Callable[[Callable[[], Any]], None]


class RemoteEnclosure:
    """Reads and controls the enclosure with the id ``enclosure_id`` of one exporter, for all its openers."""

    def __init__(self, enclosure_id: str, exporter: RemoteExporter, spawn: Spawn) -> None:
        self.exporter = exporter
        self._id = enclosure_id
        self._spawn = spawn
        #: One control page is under way at a time. Until the open of a page that was given up is closed, it keeps the
        #: turn.
        self._turn = trio.Semaphore(1)

    def check(self) -> None:
        """Raise OSError ENODEV if the enclosure is gone: nobody offers it here any more, or its device went away.

        While the exporter is away, the enclosure counts as it was last.
        """
        info = self._latest()
        if info.state is EnclosureState.GONE:
            raise OSError(_GONE, f"enclosure {info.name} is gone: {info.why}")

    async def read(self) -> bytes:
        """Return all pages of the enclosure as they are now. Raises OSError: ENODEV, EIO, EACCES, ... or ETIMEDOUT."""
        await enter_trio()
        deadline = trio.current_time() + self.exporter.io_timeout_s
        return await self._until_answered("read", deadline, self._read_once)

    async def control(self, page: bytes) -> None:
        """Let the enclosure carry out a control page. Raises OSError, and then nothing was changed, except as follows.

        After EIO and ETIMEDOUT the page may have been carried out. EINVAL is for a page that is malformed, ESTALE for
        one that was made for another configuration, and EACCES for a node without the right.
        """
        await enter_trio()
        deadline = trio.current_time() + self.exporter.io_timeout_s
        with trio.move_on_at(deadline) as patience:
            await self._turn.acquire()
        if patience.cancelled_caught:
            raise self._timeout("write")
        sending = ControlPage(page)
        try:
            await self._until_answered("write", deadline, functools.partial(self._control_once, sending))
        finally:
            if not sending.keeps_turn:
                self._turn.release()

    # --- until there is an answer --------------------------------------------------------

    async def _until_answered(
        self,
        op: str,
        deadline: float,
        attempt: Callable[[InitiatorSession, TreeConnect, float], Awaitable[T]],
    ) -> T:
        """Call ``attempt`` until it succeeds or is refused. It may be repeated after each ChannelLost it raises."""
        pause_s = limits.RETRY_DELAY_MIN_S
        while True:
            session, tree = await self._share(op, deadline)
            try:
                return await attempt(session, tree, deadline)
            except ChannelLost:
                pass
            except StatusError as error:
                self._look_at(error, session)
            except RemoteProtocolError as error:
                raise OSError(errno.EIO, f"{self._name}: the exporter broke the protocol: {error}") from error
            except TimeoutError as error:
                raise self._timeout(op) from error
            if trio.current_time() + pause_s >= deadline:
                raise self._timeout(op)
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, limits.RETRY_DELAY_MAX_S)

    async def _share(self, op: str, deadline: float) -> tuple[InitiatorSession, TreeConnect]:
        """Wait for a session that is connected to the share of the enclosures. Raises OSError, among them ETIMEDOUT."""
        exporter = self.exporter
        waiting = BlockedCall(self._latest().name, op, trio.current_time(), deadline)
        exporter.waiting.add(waiting)
        try:
            while (session := exporter.session) is None or session.enclosures is None:
                waiting.ends_s = ends_at(deadline, exporter.io_timeout_s, exporter.away_since_s)
                if trio.current_time() >= waiting.ends_s:
                    raise self._timeout(op)
                with trio.move_on_at(waiting.ends_s):
                    await exporter.session_change()
                # The exporter may have said meanwhile that it does not offer the enclosure.
                self._latest()
            return session, session.enclosures.tree
        finally:
            exporter.waiting.discard(waiting)

    def _look_at(self, error: StatusError, session: InitiatorSession) -> None:
        """Return if the request may be sent again. Raises OSError if it was refused."""
        what = meaning(error.status)
        if what is Meaning.REFUSED:
            number = errno_from_status(error.status)
            number = _GONE if number == errno.ENOENT else number
            raise OSError(number, f"{self._name}: {os.strerror(number)} ({error})") from error
        if error.status == NtStatus.NETWORK_NAME_DELETED:
            # Only this share is disconnected. The disks of the session are not affected.
            session.enclosures = None
            self.exporter.news.ask_enclosures()
        elif what is Meaning.SESSION_LOST:
            session.ended_by(error.status)

    def _timeout(self, op: str) -> TimeoutError:
        exporter = self.exporter
        why = f"exporter {exporter.node} is {exporter.state.value} ({exporter.why})" if exporter.why else "no answer"
        return TimeoutError(errno.ETIMEDOUT, f"{self._name}: {op}: {why}")

    def _latest(self) -> EnclosureInfo:
        """Return the last facts that the exporter advertised. Raises OSError ENODEV if it does not advertise any."""
        info = next((info for info in self.exporter.enclosures if info.id == self._id), None)
        if info is None:
            raise OSError(_GONE, f"{self._name}: node {self.exporter.node} does not offer it any more")
        return info

    @property
    def _name(self) -> str:
        return f"enclosure {self._id}"

    # --- one attempt ---------------------------------------------------------------------

    async def _create(
        self, session: InitiatorSession, tree: TreeConnect, deadline: float, *, writable: bool
    ) -> RemoteOpen:
        """Open the file to read it, or only to write to it, because then the exporter does not read the device."""
        name = self._latest().name
        return await session.ask(
            lambda channel: open_file(
                channel,
                tree,
                name,
                readable=not writable,
                writable=writable,
                deadline=deadline,
                late=functools.partial(self._close_later, session),
            )
        )

    def _close_later(self, session: InitiatorSession, file: RemoteOpen) -> None:
        """Close an open in the background. The CLOSE has the deadline of any other call."""
        deadline = trio.current_time() + self.exporter.io_timeout_s
        self._spawn(functools.partial(session.close_late, file, deadline))

    async def _read_once(self, session: InitiatorSession, tree: TreeConnect, deadline: float) -> bytes:
        file = await self._create(session, tree, deadline, writable=False)
        try:
            if file.size_bytes > limits.ENCLOSURE_FILE_MAX_BYTES:
                raise OSError(errno.EFBIG, f"{self._name}: its file has {file.size_bytes} bytes")
            content = bytearray()
            while len(content) < file.size_bytes:
                content += await self._piece(session, file, len(content), deadline)
            return bytes(content)
        finally:
            self._close_later(session, file)

    async def _piece(self, session: InitiatorSession, file: RemoteOpen, start: int, deadline: float) -> bytes:
        size = min(session.credentials.settled.max_read_bytes, limits.CREDIT_BYTES, file.size_bytes - start)
        data = await session.ask(
            lambda channel: channel.start_read(file.tree.tree_id, file.file_id, start, size, deadline)
        )
        if not data:
            raise OSError(errno.EIO, f"{self._name}: its file ends at {start} of {file.size_bytes} bytes")
        return bytes(data)

    async def _control_once(
        self, page: ControlPage, session: InitiatorSession, tree: TreeConnect, deadline: float
    ) -> None:
        page.begin(session)
        file = await self._create(session, tree, deadline, writable=True)
        try:
            await page.send(session, file, deadline)
        except ChannelLost:
            # The session has ended. The error differs if the page may have been carried out.
            page.begin(None)
            raise
        finally:
            if not page.unanswered:
                self._close_later(session, file)
            elif not session.why:
                page.keeps_turn = True
                self._spawn(functools.partial(self._fence, session, file))

    async def _fence(self, session: InitiatorSession, file: RemoteOpen) -> None:
        """Close the open of a page that was given up, and then let the next page be sent."""
        logger.warning("%s: a control page was given up; no other page is sent before its open is closed", self._name)
        try:
            await session.close_surely(file, self.exporter.io_timeout_s)
        except ChannelLost:
            # With the session, the exporter has ended the open.
            return
        except StatusError as error:
            # Only the end of its session ends an open that cannot be closed.
            session.fail(f"CLOSE was refused: {error}")
        finally:
            self._turn.release()
