"""The project's programs as forks of the running Python, which has imported them, instead of new interpreters.

In the emulated guest, a new interpreter needs ten seconds and more to import a program, and a fork needs none. After
the fork, the child does what the program does: Popen has set its standard streams, session and environment, and only
the memory of the caller is left.
"""

import faulthandler
import logging
import os
import random
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import meshctl.__main__
import meshfs.mount.program
import meshfsd.__main__

PROGRAMS: dict[str, Callable[[], int]] = {
    "meshctl": meshctl.__main__.main,
    "meshfs": meshfs.mount.program.main,
    "meshfsd": meshfsd.__main__.main,
}

FIRST_OTHER_FD = 3


class ForkingPopen(subprocess.Popen[Any]):
    """A Popen that runs the project's programs by a fork, and starts every other program as usual."""

    def __init__(self, args: Any, *more: Any, **settings: Any) -> None:
        words = [args] if isinstance(args, str | os.PathLike) else list(args)
        main = PROGRAMS.get(Path(words[0]).name)
        if main is not None:
            # The child calls this when all is set up, just before the exec. The call does not return to the child.
            settings["preexec_fn"] = lambda: _become(main, [str(word) for word in words])
        super().__init__(args, *more, **settings)


def _become(main: Callable[[], int], words: Sequence[str]) -> None:
    """Become the program: drop what pytest has put in place, run main, and end with its exit status."""
    status = 1
    try:
        faulthandler.disable()
        # The parent's Popen waits until the descriptor that would report a failed exec is closed.
        os.closerange(FIRST_OTHER_FD, os.sysconf("SC_OPEN_MAX"))
        sys.stdin = os.fdopen(0, "r", closefd=False)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        logging.root.handlers.clear()
        warnings.resetwarnings()
        random.seed()
        sys.argv = list(words)
        status = main()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                status = status or 1
        os._exit(status)
