"""The part of argparse's subparsers that the verbs use. argparse has no public name for their class."""

import argparse
from typing import Protocol


class Subparsers(Protocol):
    """Takes one parser for each verb."""

    def add_parser(
        self,
        name: str,
        *,
        help: str | None = None,
        epilog: str | None = None,
        formatter_class: type[argparse.HelpFormatter] = argparse.HelpFormatter,
    ) -> argparse.ArgumentParser: ...
