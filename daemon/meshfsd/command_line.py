"""The command line of meshfsd. The manual page and the completion of shells are made from it."""

import argparse
from pathlib import Path

from meshfs.disk.engines.choice import ENGINE_NAMES
from meshfs.program.command import version_text

_LEVELS = ("debug", "info", "warning", "error")
_EPILOG = (
    "Exit status: 0 after SIGTERM or SIGINT; 1 an internal error; "
    "2 a mistake that the administrator has to correct (config, keys, disks, addresses)."
)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="meshfsd", description="Serve a node's disks to the cluster over SMB 3.", epilog=_EPILOG
    )
    parser.add_argument("--version", action="version", version=version_text("meshfsd"))
    parser.add_argument("--config", type=Path, required=True, help="the cluster's config file")
    parser.add_argument(
        "--node",
        metavar="NODE",
        help="the node of the config that this host is (default: the node with the host's name)",
    )
    parser.add_argument(
        "--log-level",
        choices=_LEVELS,
        default="info",
        help="log messages of this level and above (default: %(default)s)",
    )
    parser.add_argument(
        "--engine", choices=ENGINE_NAMES, default="auto", help="the engine for disk I/O (default: %(default)s)"
    )
    return parser
