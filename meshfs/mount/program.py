"""The command meshfs, which is also mount(8)'s helper: its command line, exit status, and the process that serves."""

import logging
import sys
from typing import Any

import trio

from meshfs.errors import ConfigError, MountFailed
from meshfs.fuse.pyfuse3_front.session import serve
from meshfs.initiator import Initiator
from meshfs.linux.background import Ready, run_in_background
from meshfs.linux.inherited import let_go_of_starter, open_standard_streams
from meshfs.linux.systemd import notify
from meshfs.mount.exit_status import EXIT_CONFIG, EXIT_FAILURE, EXIT_USAGE
from meshfs.mount.log import MountLog
from meshfs.mount.options import UsageError, answer_without_mounting, parse_arguments
from meshfs.mount.process import run
from meshfs.mount.remount import remount
from meshfs.mount.settings import Settings, prepare, with_absolute_log
from meshfs.mount.usage import USAGE
from meshfs.program.command import run_command

logger = logging.getLogger(__name__)


def main() -> int:
    """Run the command ``meshfs``. Under the name ``mount.meshfs``, it is mount(8)'s helper."""
    return run_command("meshfs", _main)


def _main() -> int:
    text = answer_without_mounting(sys.argv[0], sys.argv[1:])
    if text:
        print(text)
        return 0
    open_standard_streams()
    try:
        options = parse_arguments(sys.argv[0], sys.argv[1:])
        if options.remount:
            return 0 if options.fake else remount(with_absolute_log(options))
        settings = prepare(options)
    except UsageError as error:
        print(f"meshfs: {error}\n{USAGE.splitlines()[0]}", file=sys.stderr)
        return EXIT_USAGE
    except ConfigError as error:
        print(f"meshfs: {error}", file=sys.stderr)
        return EXIT_CONFIG
    except MountFailed as error:
        print(f"meshfs: {error}", file=sys.stderr)
        return EXIT_FAILURE
    if settings.options.fake:
        return 0
    let_go_of_starter()
    if settings.options.foreground:
        return _work(settings, lambda: notify("READY=1"))
    return run_in_background(lambda on_ready: _work(settings, on_ready), EXIT_FAILURE)


def _work(settings: Settings, on_ready: Ready) -> int:
    """Mount, serve, and return the exit status. This runs in the process that serves."""
    status = 0
    try:
        trio.run(run, settings, Initiator(settings), MountLog(settings.options), on_ready, serve)
    except* (MountFailed, OSError) as group:
        status = EXIT_FAILURE
        for error in _leaves(group):
            logger.error("%s", error)
            print(f"meshfs: {error}", file=sys.stderr)
    return status


def _leaves(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
