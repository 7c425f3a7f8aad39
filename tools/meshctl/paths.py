"""meshctl paths: by which channels each exporter is reached, and what waits for one."""

import argparse

from meshctl import output, table
from meshctl.main_types import Subparsers
from meshctl.sources import Answer, ask_mounts

_COLUMNS = (
    *("EXPORTER", "STATE", "TRANSPORT", "LOCAL", "REMOTE", "CHANNEL", "DIALECT", "SIGNING", "CIPHER"),
    *("FLYING", "FAILURES", "SENT", "RECEIVED", "RETRY", "WHY"),
)
_RIGHT = ("FLYING", "FAILURES", "SENT", "RECEIVED", "RETRY", "FOR", "LEFT")
_WAITING = ("EXPORTER", "DISK", "WAITS", "FOR", "LEFT")


def add_parser(verbs: Subparsers) -> None:
    parser = verbs.add_parser("paths", help="the channels to every exporter, and what waits for one")
    output.add_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    mounts = ask_mounts(arguments.mountpoint)
    problems = [line for mount in mounts for line in output.mount_problems(mount)]
    problems += [line for mount in mounts for line in channel_problems(mount)]
    if arguments.json:
        exporters = [
            {"mountpoint": mount.source, **exporter.raw}
            for mount in mounts
            for exporter in mount.fields.items("exporters")
        ]
        output.print_json({"exporters": exporters}, problems)
    else:
        output.print_blocks([block(mount, len(mounts) > 1) for mount in mounts], problems)
    return 1 if problems else 0


def channel_problems(answer: Answer) -> list[str]:
    """A channel that is not bound, of an exporter that is reached all the same."""
    return [
        f"channel {channel.text('remote')} of exporter {exporter.text('node')} is {channel.text('state')}"
        for exporter in answer.fields.items("exporters")
        if exporter.text("state") == "connected"
        for channel in exporter.items("channels")
        if channel.text("state") in ("connecting", "down")
    ]


def block(answer: Answer, named: bool) -> str:
    parts = [f"mount {table.printable(answer.source)}"] if named else []
    parts.append(table.render(_COLUMNS, channel_rows(answer), _RIGHT))
    waiting = waiting_rows(answer)
    if waiting:
        parts += ["", table.render(_WAITING, waiting, _RIGHT)]
    return "\n".join(parts)


def channel_rows(answer: Answer) -> list[list[str]]:
    """One row per channel; an exporter without any has one row that says why."""
    rows = []
    for exporter in answer.fields.items("exporters"):
        head = [exporter.text("node"), exporter.text("state")]
        retry = exporter.number("retry_in_s")
        tail = [table.duration(retry), exporter.text("why")]
        channels = list(exporter.items("channels"))
        if not channels:
            rows.append([*head, *[""] * (len(_COLUMNS) - 4), *tail])
        for channel in channels:
            texts = [channel.text(name) for name in ("transport", "local", "remote", "state", "dialect", "signing")]
            counts = [table.count(channel.integer(name)) for name in ("outstanding", "failures")]
            traffic = [table.size(channel.integer(name)) for name in ("sent_bytes", "received_bytes")]
            rows.append([*head, *texts, channel.text("cipher") or "none", *counts, *traffic, *tail])
    return rows


def waiting_rows(answer: Answer) -> list[list[str]]:
    return [
        [
            exporter.text("node"),
            item.text("disk"),
            item.text("op"),
            table.duration(item.number("for_s")),
            table.duration(item.number("left_s")),
        ]
        for exporter in answer.fields.items("exporters")
        for item in exporter.items("waiting")
    ]
