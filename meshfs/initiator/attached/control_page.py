"""Sends one control page of an enclosure, and knows what has become of its attempts.

A control page is one CREATE, one WRITE and one CLOSE. What becomes of the page if its WRITE is not answered:

    the WRITE was not sent, or the exporter      The page is sent again until the deadline, as it was not carried out.
    refused it for now
    its channel was lost, the session lasts      The WRITE is sent again in the same open, marked as a replay. The
                                                 exporter lets the first one end, and refuses it if it comes later.
    its session was lost                         The caller gets EIO. The page may have been carried out.
    the deadline passed                          The caller gets ETIMEDOUT. No other page is sent before the exporter
                                                 has closed the open, so an old page never lands over a newer one.

A page that is carried out twice within one session does no harm. A page gives states ("the locate lamp of slot 7 is
on") and not changes. The second time directly follows the first, and asks for the same states. The page has the
generation of the configuration, so it cannot change other slots than it was made for. A new session may begin much
later. Then somebody else may have changed the lamps, or an administrator the disks, so nothing is repeated by itself.
"""

import errno

import trio

from meshfs import limits
from meshfs.errors import ChannelLost, StatusError
from meshfs.initiator.channel.slots import Slot
from meshfs.initiator.session.commands import RemoteOpen
from meshfs.initiator.session.session import InitiatorSession
from meshfs.smb.constants import NtStatus


class ControlPage:
    """Holds a control page on its way, and what is known of its attempts."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        #: The session in which the page may have been carried out. It is None while that is impossible.
        self._maybe_in: InitiatorSession | None = None
        #: Is set while an attempt has no answer, so that the exporter may still carry it out.
        self.unanswered = False
        #: Is set if the next page has to wait even after the call has ended.
        self.keeps_turn = False

    def begin(self, session: InitiatorSession | None) -> None:
        """Begin an attempt in ``session``. Raises OSError EIO if another session may have carried out the page."""
        if self._maybe_in is not None and self._maybe_in is not session:
            raise OSError(
                errno.EIO, "the session was lost before the answer; the control page may have been carried out"
            )

    async def send(self, session: InitiatorSession, file: RemoteOpen, deadline: float) -> None:
        """Send the page until it is answered. Raises StatusError, TimeoutError, or ChannelLost at the session's end."""
        while True:
            channel = session.any_channel()
            if channel is None:
                raise ChannelLost(session.why)
            slot: Slot | None = None
            try:
                slot = channel.start_write(
                    *(file.tree.tree_id, file.file_id, 0, self._data, deadline),
                    write_through=False,
                    replay=self.unanswered,
                )
                count: int = await slot
            except StatusError as error:
                if error.status == NtStatus.FILE_NOT_AVAILABLE:
                    # A request with a later channel sequence has overtaken this one.
                    await trio.sleep(limits.RETRY_DELAY_MAX_S)
                    continue
                # An answer to a replay comes when the earlier attempts have ended.
                self.unanswered = False
                raise
            except BaseException as error:
                if slot is not None and slot.sent:
                    self.unanswered, self._maybe_in = True, session
                if isinstance(error, ChannelLost) and not session.why:
                    continue
                raise
            self.unanswered, self._maybe_in = False, None
            if count != len(self._data):
                raise OSError(errno.EIO, f"the exporter took {count} of {len(self._data)} bytes of a control page")
            return
