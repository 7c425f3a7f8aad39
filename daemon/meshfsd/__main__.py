"""meshfsd serves a node's disks to the cluster.

The exit status is 0 after SIGTERM or SIGINT. It is 2 for a mistake that the administrator has to correct (config, keys,
disks, addresses). It is 1 for any other error.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import trio

from meshfs.buffers import keep_freed_memory
from meshfs.disk.engines.choice import ENGINE_NAMES
from meshfs.errors import ConfigError
from meshfs.linux.inherited import open_standard_streams
from meshfs.program.command import run_command, version_text
from meshfsd.node import run

logger = logging.getLogger("meshfsd")

_LEVELS = ("debug", "info", "warning", "error")


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command("meshfsd", partial(_run, arguments))


def _run(arguments: Sequence[str] | None) -> int:
    open_standard_streams()
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        stream=sys.stderr,
        level=options.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="meshfsd", description="Serve a node's disks to the cluster over SMB 3.")
    parser.add_argument("--version", action="version", version=version_text("meshfsd"))
    parser.add_argument("--config", type=Path, required=True, help="the cluster's config file")
    parser.add_argument(
        "--node", help="the node of the config that this host is (default: the node with the host's name)"
    )
    parser.add_argument("--log-level", choices=_LEVELS, default="info")
    parser.add_argument("--engine", choices=ENGINE_NAMES, default="auto", help="the engine for disk I/O")
    return parser


if __name__ == "__main__":
    sys.exit(main())
