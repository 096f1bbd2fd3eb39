"""Ports to listen on later, or again.

They are for servers that cannot bind port 0 and report which port they got, because they must come back on the same
one.

A port that the system picks (bind to 0) and that is closed again is anybody's: the next outgoing connection on the
machine may get it. So these lie outside of the range that the system picks from, and each is reserved for as long as
the process lives that took it.
"""

from __future__ import annotations

import os
import socket
from itertools import chain
from pathlib import Path

EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST, HIGHEST = 20_000, 65_535  # what lies below are ports that programs have by name

_reservations: list[socket.socket] = []  # open, and with that reserved, until this process ends


def reserve_port() -> int:
    """A TCP port of the loopback on which nobody listens.

    No other caller in any process gets it until this process ends.

    Linux only: the reservation is a name in the abstract namespace of unix sockets, which each network namespace has
    one of, like its ports, and which vanishes with the process.

    Raises:
        OSError: all ports outside of the ephemeral range are taken.
    """
    ports = candidates()
    start = (
        7919 * os.getpid() % max(1, len(ports))
    )  # processes begin at different places, or each would try what the others hold
    for port in chain(ports[start:], ports[:start]):
        if _reserve(port) and _nobody_listens(port):
            return port
    raise OSError(f"no port between {LOWEST} and {HIGHEST} and outside of {EPHEMERAL} is free")


def candidates() -> list[int]:
    """The ports that the system never picks by itself."""
    low, high = map(int, EPHEMERAL.read_text().split())
    return [port for port in range(LOWEST, HIGHEST + 1) if not low <= port <= high]


def _reserve(port: int) -> bool:
    holder = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        holder.bind(f"\0varl-port-{port}")
    except OSError:
        holder.close()
        return False
    _reservations.append(holder)
    return True


def _nobody_listens(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
