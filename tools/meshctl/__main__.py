"""The command line of meshctl."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from meshctl import (
    admin,
    check,
    complete,
    discard,
    disks,
    enclosures,
    flows,
    flows_set,
    install,
    keygen,
    lamps,
    password,
    paths,
    reload,
    status,
    top,
    wait,
)
from meshfs.errors import ConfigError
from meshfs.program.command import run_command, version_text

_EPILOG = (
    "Exit status: 0 all is well; 1 something is degraded or does not answer, or the output cannot be written; "
    "2 the command line, the config or a key is wrong; 130 the user interrupted the command."
)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="meshctl", description="Look after a mesh of disks.", epilog=_EPILOG, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=version_text("meshctl"))
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for module in (
        *(status, disks, enclosures, paths, flows, flows_set, lamps, admin),
        *(top, check, wait, reload, discard, keygen, password),
    ):
        module.add_parser(verbs)
    # These two know the whole command line, also the verbs that are added after them.
    for about_all in (install, complete):
        about_all.add_parser(verbs, parser)
    return parser


def words(arguments: Sequence[str]) -> list[str]:
    """Join the two words of "flows set" and "flows reset", because a verb of argparse is one word."""
    if arguments[:1] == ["flows"] and len(arguments) > 1 and arguments[1] in ("set", "reset"):
        return [" ".join(arguments[:2]), *arguments[2:]]
    return list(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    return run_command("meshctl", partial(_run, sys.argv[1:] if arguments is None else arguments))


def _run(arguments: Sequence[str]) -> int:
    parsed = build_parser().parse_args(words(arguments))
    try:
        code: int = parsed.run(parsed)
    except ConfigError as error:
        print(f"meshctl: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main())
