"""When a disk was last written, as its owner tells it and as a mount shows it. Pure."""


class WrittenTime:
    """The time never goes back, and every write that the owner tells of moves it.

    The times that an exporter tells only rise while it runs. After a crash it may not know the latest any more, and
    its machine's clock may have been set back meanwhile: its times are then older than what is shown, and rise from
    there. So what counts is that a time differs from what the same session told before, not that it is the latest.
    """

    __slots__ = ("_session", "_told_ns", "shown_ns")

    def __init__(self, shown_ns: int) -> None:
        #: In ns of the epoch; 0 as long as nothing is known.
        self.shown_ns = shown_ns
        self._told_ns = shown_ns
        self._session: object = None

    def announced(self, ns: int) -> None:
        """The list of disks says so, which may be older than an answer."""
        if ns > self._told_ns:
            self._move(ns)

    def told(self, ns: int, session: object) -> None:
        """The owner answered in this session; 0 means that it does not know.

        Answers of one session may overtake each other, so an older one of the same session changes nothing. In a
        new session an older one counts as a write, as one may have happened since the owner's crash.
        """
        if not ns:
            return
        is_new, self._session = session is not self._session, session
        if ns > self._told_ns or (is_new and ns < self._told_ns):
            self._move(ns)

    def _move(self, ns: int) -> None:
        self._told_ns = ns
        self.shown_ns = max(self.shown_ns + 1, ns)
