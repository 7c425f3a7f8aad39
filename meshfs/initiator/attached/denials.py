"""Takes ACCESS_DENIED for something that an open may do as a sign of a request that was changed on its way. Pure.

An exporter of meshfs ends the connection on which a wrong signature arrives. Others (smbd, Windows) answer
ACCESS_DENIED with a right signature, which looks like a refusal (MS-SMB2 3.3.5.2.4). But the rights of an open are
settled when it is made. So if a READ is refused although the open may read, or a WRITE although it may write, the
channel is ended, and the request is sent again on another one. That is done DENIALS_MAX times within DENIALS_WINDOW_S.
After that the status is believed, because a server may have other reasons for it.
"""

from collections import deque

from meshfs import limits


class Denials:
    """Counts the denials of one open."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=limits.DENIALS_MAX)

    def is_damage(self, now: float) -> bool:
        """Count a denial, and return whether to end its channel instead of believing it."""
        times = self._times
        if len(times) == times.maxlen and now - times[0] < limits.DENIALS_WINDOW_S:
            return False
        times.append(now)
        return True
