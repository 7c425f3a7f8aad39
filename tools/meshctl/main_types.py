"""What the verbs need of argparse's subparsers, whose class has no public name."""

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
