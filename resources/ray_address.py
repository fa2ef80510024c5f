"""Whether the address of a cluster's job server may be used: Ray runs what anybody sends who reaches it."""

import ipaddress
import os
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

from rkd_pipeline.addresses import shown


def open_to_all(address: str) -> Iterator[str]:
    """What is wrong, with the fix: others can reach the server, and it asks for no token."""
    if os.environ.get("RAY_AUTH_MODE") == "token":
        return
    host = urlsplit(address).hostname or ""
    try:
        found = {ipaddress.ip_address(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except OSError:
        yield f"RKD_RAY={shown(address)}: {host or 'no host'} is no host that this machine knows"
        return
    if not all(ip.is_loopback for ip in found):
        yield (
            f"RKD_RAY={shown(address)} is no loopback address, and RAY_AUTH_MODE=token is not set: anybody could run "
            "code. Set it, and RAY_AUTH_TOKEN, on every machine (docs/how-to/cluster.md)"
        )
