"""meshfsd serves a node's disks to the cluster.

The exit status is 0 after SIGTERM or SIGINT. It is 2 for a mistake that the administrator has to correct (config, keys,
disks, addresses). It is 1 for any other error.
"""

import faulthandler
import logging
import sys
from collections.abc import Sequence
from functools import partial

import trio

from meshfs.buffers import keep_freed_memory
from meshfs.errors import ConfigError
from meshfs.linux.inherited import open_standard_streams
from meshfs.program.command import run_command
from meshfsd.command_line import build_parser
from meshfsd.node import run

logger = logging.getLogger("meshfsd")


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command("meshfsd", partial(_run, arguments))


def _run(arguments: Sequence[str] | None) -> int:
    open_standard_streams()
    options = build_parser().parse_args(arguments)
    logging.basicConfig(
        stream=sys.stderr,
        level=options.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    # systemd's watchdog ends a process that hangs by SIGABRT. The tracebacks in the log then show where it hung.
    faulthandler.enable(sys.stderr)
    keep_freed_memory()
    try:
        trio.run(run, options.config, options.node, options.engine)
    except ConfigError as error:
        logger.error("%s", error)
        return 2
    except Exception:
        logger.exception("ended by an internal error")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
