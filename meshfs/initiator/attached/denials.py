"""ACCESS_DENIED to what an open was granted: a request that was changed on its way. Pure.

An exporter of meshfs ends the connection on which a wrong signature comes. Others (smbd, Windows) answer with
ACCESS_DENIED, signed well, which looks like a refusal (MS-SMB2 3.3.5.2.4). But the rights of an open are settled
when it is made. So a READ of an open that may read, or a WRITE of one that may write, is not refused for want of
them: the channel is given up, and the request goes again on another one. That is done a few times in a while, as
a server may have reasons of its own; then the status is believed.
"""

from collections import deque

from meshfs import limits


class Denials:
    """Those of one open."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=limits.DENIALS_MAX)

    def is_damage(self, now: float) -> bool:
        """Take a denial: whether to give up its channel rather than to believe it."""
        times = self._times
        if len(times) == times.maxlen and now - times[0] < limits.DENIALS_WINDOW_S:
            return False
        times.append(now)
        return True
