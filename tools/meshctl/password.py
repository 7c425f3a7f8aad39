"""meshctl password prints the password with which one node logs in to another, for smbclient."""

import argparse
from pathlib import Path

from meshctl.subparsers import Subparsers
from meshfs.cluster import config as cluster_config
from meshfs.cluster.keys import Keyring, has_private_key


def add_parser(verbs: Subparsers) -> None:
    parser = verbs.add_parser("password", help="print the password with which one node logs in to another")
    parser.add_argument("config", type=Path, help="the cluster's config file")
    parser.add_argument("--node", required=True, metavar="A", help="the node that logs in")
    parser.add_argument("--to", required=True, metavar="B", help="the node whose exporter it logs in to")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the password. The private key of either node is enough, because both derive the same password."""
    config = cluster_config.load(arguments.config)
    initiator, exporter = config.node(arguments.node).name, config.node(arguments.to).name
    folder = config.cluster.keys
    if has_private_key(folder, initiator) or not has_private_key(folder, exporter):
        print(Keyring(config, initiator).password_to(exporter))
    else:
        print(Keyring(config, exporter).password_from(initiator))
    return 0
