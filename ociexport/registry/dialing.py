"""Making a connection: the name lookup has a timeout, and a host's addresses are tried in parallel.

The system's lookup can't be interrupted and may take half a minute, so it runs in a thread that is abandoned after the
timeout. If a host's first address does not answer, as IPv6 on many networks, the next one is tried a moment later.

Spec: RFC 8305, "Happy Eyeballs", 4 and 5.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from queue import Empty, SimpleQueue
from typing import TypeAlias

from ociexport.registry.addresses import ForbiddenAddressError, Nearness, nearness_of
from ociexport.system.threads import start_thread

# The next address is tried after this delay, while the earlier ones may still answer (RFC 8305, 5).
_HEAD_START_SECONDS = 0.25

# What `socket.getaddrinfo` returns: family, kind, protocol, canonical name, address.
AddressInfo: TypeAlias = tuple[
    socket.AddressFamily, socket.SocketKind, int, str, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
]
# The arguments of `socket.setsockopt`: level, name, value.
SocketOption: TypeAlias = tuple[int, int, int | bytes]


def look_up(host: str, port: int, timeout_seconds: float) -> Sequence[AddressInfo]:
    """Return the addresses of ``host``, in the system's order.

    Raises:
        socket.gaierror: it has none, or the name service did not answer in time.
    """
    if _is_address(host):  # nothing is asked, so no thread is needed
        # Given as text, it would be converted by a codec that takes two milliseconds to import.
        return socket.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    answers: SimpleQueue[Sequence[AddressInfo] | Exception] = SimpleQueue()

    def ask() -> None:
        try:
            answers.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as error:
            answers.put(error)
        except UnicodeError:
            answers.put(socket.gaierror(socket.EAI_NONAME, "not a valid host name"))

    start_thread(ask, name=f"look up {host}")
    try:
        answer = answers.get(timeout=timeout_seconds)
    except Empty as error:
        raise socket.gaierror(socket.EAI_AGAIN, "no answer from the name service in time") from error
    if isinstance(answer, Exception):
        raise answer
    return answer


def _is_address(host: str) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return bool(socket.inet_pton(family, host))
    except (OSError, UnicodeError, ValueError):
        return False


def open_connection(
    host: str,
    port: int,
    *,
    timeout_seconds: float,
    options: Iterable[SocketOption] = (),
    nearest: Nearness = Nearness.MULTICAST,
) -> socket.socket:
    """Return a socket that is connected to ``host`` (a name or an address), in blocking mode.

    Args:
        timeout_seconds: for the lookup, and again for the connection.
        options: set before connecting.
        nearest: addresses that are nearer to this machine are skipped.

    Raises:
        ForbiddenAddressError: all addresses of ``host`` are nearer than ``nearest``.
        socket.gaierror: see `look_up`.
        TimeoutError: no address answered.
        OSError: the error of the last address.
    """
    waiting = deque(_interleaved(_allowed(look_up(host, port, timeout_seconds), nearest)))
    deadline = time.monotonic() + timeout_seconds
    failure = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    trying: dict[int, socket.socket] = {}
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or trying:
                if waiting:
                    try:
                        begun = _begin(waiting.popleft(), options)
                    except OSError as error:
                        failure = error
                        continue
                    trying[begun.fileno()] = begun
                    selector.register(begun, selectors.EVENT_WRITE)
                remaining = max(deadline - time.monotonic(), 0)
                ended = selector.select(min(remaining, _HEAD_START_SECONDS) if waiting else remaining)
                for key, _ in ended:
                    selector.unregister(key.fileobj)
                    begun = trying.pop(key.fd)
                    code = begun.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if code == 0:
                        begun.setblocking(True)
                        return begun
                    begun.close()
                    failure = OSError(code, os.strerror(code))
                if not ended and time.monotonic() >= deadline:
                    raise TimeoutError("timed out")
            raise failure
        finally:
            for other in trying.values():
                other.close()


def _begin(info: AddressInfo, options: Iterable[SocketOption]) -> socket.socket:
    """Return a socket whose connection to an address has been started."""
    family, kind, protocol, _, address = info
    begun = socket.socket(family, kind, protocol)
    try:
        for option in options:
            begun.setsockopt(*option)
        begun.setblocking(False)
        code = begun.connect_ex(address)
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))
    except BaseException:
        begun.close()
        raise
    return begun


def _allowed(infos: Sequence[AddressInfo], nearest: Nearness) -> Sequence[AddressInfo]:
    allowed = [info for info in infos if nearness_of(str(info[4][0])) <= nearest]
    if infos and not allowed:
        raise ForbiddenAddressError(str(infos[0][4][0]))
    return allowed


def _interleaved(infos: Sequence[AddressInfo]) -> list[AddressInfo]:
    """Return the addresses with alternating families, starting with the family of the first (RFC 8305, 4)."""
    of_first = [info for info in infos if info[0] == infos[0][0]]
    others = [info for info in infos if info[0] != infos[0][0]]
    pairs = zip_longest(of_first, others)
    return [info for pair in pairs for info in pair if info is not None]
