"""Keeps the time of a disk's last write, as its owner reports it and as a mount shows it. Pure."""


class WrittenTime:
    """Keeps the time that a mount shows. The time never goes back, and every write that the owner reports moves it.

    The times that an exporter reports only increase while it runs. After a crash it may not know the latest time any
    more, and its machine's clock may have been set back. Its times are then older than the shown one, and increase from
    there. In a new session, a time therefore counts as a write if it differs from the last reported one.
    """

    __slots__ = ("_session", "_told_ns", "shown_ns")

    def __init__(self, shown_ns: int) -> None:
        #: In ns since the epoch. It is 0 while nothing is known.
        self.shown_ns = shown_ns
        self._told_ns = shown_ns
        self._session: object = None

    def announced(self, ns: int) -> None:
        """Take a time from the list of disks, which may be older than an answer of the owner."""
        if ns > self._told_ns:
            self._move(ns)

    def told(self, ns: int, session: object) -> None:
        """Take a time that the owner answered in ``session``. 0 means that the owner does not know it.

        Answers of one session may overtake each other, so an older time of the same session changes nothing. In a new
        session, an older time counts as a write, because there may have been one since the owner's crash.
        """
        if not ns:
            return
        is_new, self._session = session is not self._session, session
        if ns > self._told_ns or (is_new and ns < self._told_ns):
            self._move(ns)

    def _move(self, ns: int) -> None:
        self._told_ns = ns
        self.shown_ns = max(self.shown_ns + 1, ns)
