"""The log of a mount's process, and the reason if it cannot be written.

A log file is opened again at SIGHUP, and after it has been moved away (logrotate). If it cannot be written, the process
goes on. It keeps the error for the status document, and tries again with each further line.
"""

import logging
import logging.handlers
import os
import sys
from typing import Final

from meshfs.mount.options import MountOptions
from meshfs.telemetry.documents import LogState

_SYSLOG: Final = "/dev/log"
_LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_SYSLOG_FORMAT: Final = "meshfs[%(process)d]: %(levelname)s %(name)s: %(message)s"


class LogFile(logging.handlers.WatchedFileHandler):
    """Writes a log file. ``error`` says why the last line could not be written, and is empty if it was written."""

    def __init__(self, path: str) -> None:
        """Open the file. Raises OSError."""
        self.error = ""
        super().__init__(path)

    def emit(self, record: logging.LogRecord) -> None:
        self.error = ""
        try:
            super().emit(record)
        except OSError as error:
            # The base class looks whether the file was moved. That raises if the folder no longer exists.
            self.error = error.strerror or str(error)

    def handleError(self, record: logging.LogRecord) -> None:
        self.error = str(sys.exc_info()[1])

    def reopen(self) -> None:
        """Open the file again by its name, and close the old one. If that fails, keep the reason in ``error``."""
        self.acquire()
        try:
            stream = self._open()
            old, self.stream = self.stream, stream
            self._statstream()
            if old is not None:
                old.close()
        except OSError as error:
            self.error = error.strerror or str(error)
        finally:
            self.release()


class MountLog:
    """Sets up the log of this process. Only one may exist at a time."""

    def __init__(self, options: MountOptions) -> None:
        """Open the log. Raises OSError if the log file cannot be opened."""
        self._path = options.log_path
        self._foreground = options.foreground
        self._handler = self._make(options.log_path)
        logging.basicConfig(handlers=[self._handler])
        self.set_debug(options.debug)

    def set_debug(self, debug: bool) -> None:
        logging.getLogger().setLevel(logging.DEBUG if debug else logging.INFO)

    def reopen(self) -> None:
        if isinstance(self._handler, LogFile):
            self._handler.reopen()

    def move_to(self, path: str | None) -> None:
        """Log to the file ``path`` from now on, or to the default log if it is None.

        Raises OSError if the file cannot be opened. Then nothing has changed.
        """
        if path == self._path:
            return
        handler = self._make(path)
        root = logging.getLogger()
        root.addHandler(handler)
        root.removeHandler(self._handler)
        self._handler.close()
        self._handler, self._path = handler, path

    def state(self) -> LogState:
        """Return the status document's "log"."""
        handler = self._handler
        return {"path": self._path or "", "error": handler.error if isinstance(handler, LogFile) else ""}

    def _make(self, path: str | None) -> logging.Handler:
        handler: logging.Handler
        if path is not None:
            handler = LogFile(path)
        elif self._foreground:
            handler = logging.StreamHandler()
        elif os.path.exists(_SYSLOG):
            handler = logging.handlers.SysLogHandler(_SYSLOG, logging.handlers.SysLogHandler.LOG_DAEMON)
            handler.append_nul = False
        else:
            text = f"there is no {_SYSLOG}, so nothing is logged; name a log file with -o log=FILE"
            print(f"meshfs: {text}", file=sys.stderr)
            handler = logging.NullHandler()
        syslog = isinstance(handler, logging.handlers.SysLogHandler)
        handler.setFormatter(logging.Formatter(_SYSLOG_FORMAT if syslog else _LOG_FORMAT))
        return handler
