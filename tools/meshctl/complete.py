"""meshctl complete prints the words that may follow on a command line. The completion scripts of the shells call it.

A line of the output is a word, a tab, and the help of the word. The line ":files" says that the name of a file may
follow.
"""

import argparse
from contextlib import suppress
from functools import partial

from meshctl.completing import mount, parsed
from meshctl.completing.candidates import Candidates
from meshctl.completing.mesh import KnownHere
from meshctl.subparsers import Subparsers
from meshfs.errors import MeshfsError
from meshfsd.command_line import build_parser as meshfsd_parser

FILES = ":files"
_MOUNT = ("meshfs", "mount.meshfs", "mount.fuse.meshfs")


def add_parser(verbs: Subparsers, meshctl: argparse.ArgumentParser) -> None:
    parser = verbs.add_parser("complete", help="print the words that may follow on a command line, for shells")
    parser.add_argument(
        "program", choices=("meshctl", "meshfsd", *_MOUNT), metavar="PROGRAM", help="the program of the command line"
    )
    parser.add_argument(
        "words",
        nargs=argparse.REMAINDER,
        metavar="-- WORD",
        help="the words after the program; the last one, which may be empty, is completed",
    )
    parser.set_defaults(run=partial(run, meshctl))


def run(meshctl: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    words = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
    found = Candidates()
    # A message would appear in the middle of the line that the user types.
    with suppress(MeshfsError, OSError):
        found = words_after(meshctl, arguments.program, words or [""])
    for each in found.words:
        print(f"{each.word}\t{' '.join(each.help.split())}")
    if found.files:
        print(FILES)
    return 0


def words_after(meshctl: argparse.ArgumentParser, program: str, words: list[str]) -> Candidates:
    if program in _MOUNT:
        return mount.complete(words, KnownHere())
    return parsed.complete(meshctl if program == "meshctl" else meshfsd_parser(), words, KnownHere())
