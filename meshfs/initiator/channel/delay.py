"""Limit the credits that a channel has in use, by the time that an ECHO takes. Pure; time is an argument.

Nobody can change the order of requests that wait in a socket or in the exporter's receive loop, nor of replies that
wait in the sockets on the way back. Requests that wait in a lane (credits.py) leave in the order of their class. So no
more requests should be on the way than keep the exporter and the link busy. The others should wait in the lanes.

An ECHO measures how much waits on the way. A channel with load sends one every WINDOW_ECHO_EVERY_S. The ECHO passes the
same sockets and the same receive loop as a READ, and no disk. So a slow processor or a slow link increases its delay,
and a slow disk does not. Requests that wait for a disk have to wait at the exporter, because its scheduler can share
the disk only between flows whose requests it has.

    queue     the ECHO's delay less the smallest of the last WINDOW_DELAY_LEAST_S to 2 * WINDOW_DELAY_LEAST_S
    target    WINDOW_DELAY_S; for the class system WINDOW_DELAY_BESIDE_APP_S while an application uses the channel
    above     room -= room * 0.8 * (queue - target) / queue, at most half of the room
    below     room += an eighth of it, at least WINDOW_ROOM_STEP_CREDITS

The first ECHO is sent before there is any load, so that the delay of the empty path is known. The rule comes from
Swift (G. Kumar et al., "Swift: Delay is Simple and Effective for Congestion Control in the Datacenter", SIGCOMM 2020).
To take the smallest delay of a period as the delay of the empty path comes from BBR (N. Cardwell et al., ACM Queue
14(5), 2016).

Room is the number of credits that all lanes of a class may use together on this channel (credits.py). It never falls
below WINDOW_ROOM_APP_MIN_CREDITS or WINDOW_ROOM_SYSTEM_MIN_CREDITS. A lane that has nothing in flight may always send
one request of any size.
"""

from math import inf
from typing import Final

from meshfs import limits

# The part of the excess that one measurement takes back, and the most that it may take (Swift's beta and max_mdf).
_DECREASE: Final = 0.8
_DECREASE_MAX: Final = 0.5
_INCREASE: Final = 0.125
#: With fewer requests in flight, and none in a lane, the channel causes no queue. If a request waits in a lane, an
#: ECHO is due at any depth: the class may have little room, and only an ECHO gives it more.
_REQUESTS_MIN: Final = 4
#: An application that sent nothing between this many ECHOs in a row does not use the channel.
_APP_UNUSED_ECHOES: Final = 5


class DelayControl:
    """Controls one channel. All lanes of a class may together use ``app_credits`` or ``system_credits``."""

    __slots__ = (
        "_app_unused",
        "_before_s",
        "_least_s",
        "_period_end_s",
        "app_credits",
        "next_s",
        "requests_min",
        "system_credits",
    )

    def __init__(self, now: float) -> None:
        self.app_credits: float = limits.WINDOW_ROOM_MAX_CREDITS
        self.system_credits: float = limits.WINDOW_ROOM_MAX_CREDITS
        #: An ECHO is due from ``next_s`` on, if ``requests_min`` requests are in flight, or one waits in a lane.
        self.next_s = now
        self.requests_min = 0
        # The smallest delay of the current period, and of the one before it.
        self._least_s = self._before_s = inf
        self._period_end_s = now + limits.WINDOW_DELAY_LEAST_S
        self._app_unused = _APP_UNUSED_ECHOES

    def sent(self, now: float) -> None:
        """Note that an ECHO was sent. The next one is due WINDOW_ECHO_EVERY_S later."""
        self.next_s = now + limits.WINDOW_ECHO_EVERY_S
        self.requests_min = _REQUESTS_MIN

    def answered(self, delay_s: float, now: float, *, app_used: bool) -> None:
        """Give the classes the room that follows from an ECHO that took ``delay_s``.

        ``app_used`` says that requests of class app came since the last ECHO.
        """
        if now >= self._period_end_s:
            self._before_s, self._least_s = self._least_s, inf
            self._period_end_s = now + limits.WINDOW_DELAY_LEAST_S
        self._least_s = min(self._least_s, delay_s)
        queue_s = delay_s - min(self._least_s, self._before_s)
        self._app_unused = 0 if app_used else self._app_unused + 1
        beside_app = self._app_unused < _APP_UNUSED_ECHOES
        system_target_s = limits.WINDOW_DELAY_BESIDE_APP_S if beside_app else limits.WINDOW_DELAY_S
        self.app_credits = _next_room(
            self.app_credits, queue_s, limits.WINDOW_DELAY_S, limits.WINDOW_ROOM_APP_MIN_CREDITS
        )
        # If no application uses the channel, the system gets the room that an application gets otherwise.
        least = limits.WINDOW_ROOM_SYSTEM_MIN_CREDITS if beside_app else limits.WINDOW_ROOM_SYSTEM_ALONE_MIN_CREDITS
        self.system_credits = _next_room(self.system_credits, queue_s, system_target_s, least)


def _next_room(room: float, queue_s: float, target_s: float, least: float) -> float:
    if queue_s <= target_s:
        room = max(room, least)
        return min(room + max(room * _INCREASE, limits.WINDOW_ROOM_STEP_CREDITS), limits.WINDOW_ROOM_MAX_CREDITS)
    kept = max(1.0 - _DECREASE * (queue_s - target_s) / queue_s, _DECREASE_MAX)
    return max(room * kept, least)
