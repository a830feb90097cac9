"""The address of the app's server: whether it can be had, before a server is started that would say so in its own words."""

from __future__ import annotations

import errno
import os
import socket

from ..checkpoints.errors import UnetscopeError

_TRIED = 20


def refuse_used_port(address: str, port: int) -> None:
    """Refuse an address or port that no server can have.

    Raises:
        UnetscopeError: another program listens there, it is not this machine's, or the system does not let it.
    """
    fault = _fault(address, port)
    if fault is None:
        return
    if fault == errno.EADDRINUSE:
        free = next((p for p in range(port + 1, min(port + _TRIED, 65536)) if _fault(address, p) is None), None)
        other = f", or take another: --port {free}" if free else ", or take another with --port"
        raise UnetscopeError(
            f"port {port} is in use, by a dashboard that still runs or another program; stop that{other}"
        )
    if fault in (errno.EACCES, errno.EPERM):
        raise UnetscopeError(f"port {port}: the system keeps it for itself; take one above 1023: --port 8501")
    raise UnetscopeError(f"{address}: is not an address of this machine; take localhost, or 0.0.0.0 for all it has")


def _fault(address: str, port: int) -> int | None:
    """Why a server cannot listen there, as the system numbers it; None where it can."""
    try:
        found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        return errno.EADDRNOTAVAIL
    faults = [fault for family, kind, _, _, place in found if (fault := _tried(family, kind, place))]
    # A name may stand for addresses that the machine lacks, as localhost does for one of IPv6.
    if errno.EADDRINUSE in faults:
        return errno.EADDRINUSE
    return faults[0] if len(faults) == len(found) else None


def _tried(family: int, kind: int, place: tuple) -> int | None:
    try:
        with socket.socket(family, kind) as one:
            if os.name == "posix":  # elsewhere it would let two programs have one port
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(place)
            one.listen(1)
    except OSError as error:
        return error.errno or errno.EADDRNOTAVAIL
    return None
