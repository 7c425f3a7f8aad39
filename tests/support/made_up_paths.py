"""Two interfaces of a mount, and an address of an exporter for each. MadeUpWays dials none of them for real."""

from ipaddress import ip_interface

from meshfs.initiator.session.address import Remote
from meshfs.linux.interfaces import Interface

G = 1_000_000_000
ETH0, ETH1 = (Interface(f"eth{n}", n + 1, ip_interface(f"10.0.{n}.1/24"), 10 * G) for n in (0, 1))
R0, R1 = (Remote(f"10.0.{n}.2", 10 * G, 1) for n in (0, 1))
