"""meshctl keygen makes the key pairs of nodes that have none."""

import argparse
from pathlib import Path

from meshctl import output
from meshctl.subparsers import Subparsers
from meshfs.cluster import config as cluster_config
from meshfs.cluster import keys
from meshfs.cluster.keys import Generated


def add_parser(verbs: Subparsers) -> None:
    parser = verbs.add_parser("keygen", help="make the missing key pairs of nodes; never overwrite a key")
    parser.add_argument("config", type=Path, help="the cluster's config file")
    parser.add_argument("--node", action="append", metavar="NAME", help="make keys only for this node; may be repeated")
    parser.add_argument("--json", action="store_true", help="print JSON with what was done for each node, for programs")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    config = cluster_config.load(arguments.config)
    nodes = [config.node(name) for name in arguments.node] if arguments.node else config.nodes
    folder = config.cluster.keys
    done = []
    for node in nodes:
        if node.public_key is not None and not keys.has_private_key(folder, node.name):
            made = Generated.ELSEWHERE
        else:
            made = keys.generate(folder, node.name)
        done.append({"node": node.name, "made": made.name.lower(), "path": str(keys.private_path(folder, node.name))})
        if not arguments.json:
            print(f"{node.name}: {made.value} ({keys.private_path(folder, node.name).with_suffix('.*')})")
    if arguments.json:
        output.print_json({"nodes": done}, [])
    return 0
