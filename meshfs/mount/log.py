"""Where a mount's process logs, and whether that works.

A log file is opened again when it was moved away (logrotate) and at SIGHUP. One that cannot be
written ends nothing: what went wrong is kept for the status document, and writing is tried with
each further line.
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
    """A log file. ``error`` says why the last line could not be written, and is empty when it could."""

    def __init__(self, path: str) -> None:
        """Raises OSError."""
        self.error = ""
        super().__init__(path)

    def emit(self, record: logging.LogRecord) -> None:
        self.error = ""
        try:
            super().emit(record)
        except OSError as error:
            # The handler's own check whether the file was moved raises where the folder is gone.
            self.error = error.strerror or str(error)

    def handleError(self, record: logging.LogRecord) -> None:  # the library's name
        self.error = str(sys.exc_info()[1])

    def reopen(self) -> None:
        """Close the file and open it again by its name. Keeps what is wrong in ``error``."""
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
    """Sets up where this process logs. There is one at a time."""

    def __init__(self, options: MountOptions) -> None:
        """Raises OSError when the log file cannot be opened."""
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
        """Log there from now on. Raises OSError, and then nothing has changed."""
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
            print(f"meshfs: there is no {_SYSLOG}: nothing will be logged (-o log=FILE)", file=sys.stderr)
            handler = logging.NullHandler()
        syslog = isinstance(handler, logging.handlers.SysLogHandler)
        handler.setFormatter(logging.Formatter(_SYSLOG_FORMAT if syslog else _LOG_FORMAT))
        return handler
