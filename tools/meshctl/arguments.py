"""List the arguments and verbs of a parser of argparse, for manual pages and completion.

argparse has no public names for most of this, so all uses of its inner names are here.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Verb:
    """Describes a verb: its parser, and the help that the list of verbs shows."""

    parser: argparse.ArgumentParser
    help: str


def verbs_of(parser: argparse.ArgumentParser) -> dict[str, Verb]:
    """Return the verbs of a program by their names, in the order of its help. A name may have two words."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            return {name: Verb(verb, helps.get(name, "")) for name, verb in action.choices.items()}
    return {}


def arguments_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return the options and the positional arguments that the help shows, without the verbs."""
    return [
        action
        for action in parser._actions
        if action.help != argparse.SUPPRESS and not isinstance(action, argparse._SubParsersAction)
    ]


def positionals_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in arguments_of(parser) if not action.option_strings]


def options_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in arguments_of(parser) if action.option_strings]


def sections_of(parser: argparse.ArgumentParser) -> Iterator[tuple[str, Sequence[argparse.Action]]]:
    """Yield the groups of arguments. The title is empty for the two groups that every parser has."""
    shown = arguments_of(parser)
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action in shown]
        if actions:
            yield "" if group in (parser._positionals, parser._optionals) else group.title or "", actions


def text_of(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """Return the help of an argument, with its default and other values filled in."""
    return parser._get_formatter()._expand_help(action) if action.help else ""


def is_help(action: argparse.Action) -> bool:
    return isinstance(action, argparse._HelpAction)


def value_name(action: argparse.Action) -> str:
    """Return what the help calls the value of an argument."""
    if action.metavar is not None:
        return str(action.metavar)
    if action.choices is not None:
        return "|".join(map(str, action.choices))
    return action.dest.upper() if action.option_strings else action.dest


def keeps_lines(parser: argparse.ArgumentParser) -> bool:
    """Return whether the help shows the lines of its last text as they are."""
    return isinstance(parser._get_formatter(), argparse.RawDescriptionHelpFormatter)
