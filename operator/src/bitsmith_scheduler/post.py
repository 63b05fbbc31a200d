"""One POST to an address that a stranger chose: checked, pinned, short, and without a look at what comes back.

The name is resolved here and the connection goes to what was judged, not to what a second look-up might say. Redirects
are not followed: they would lead past the check. The answer's body is not read: it could be megabytes, or something
inside that nobody outside should see through us. No proxy of the environment is used: it would resolve the name again.
"""

import http.client
import socket
import ssl
import threading
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import ip_address
from types import TracebackType
from typing import Self

from bitsmith_core.delivery.egress import Address, Networks, Target, may_reach


class NotSent(Exception):
    """Nobody heard it, as far as we know; the message is for the webhook's owner."""


def post(
    target: Target, body: bytes, headers: Mapping[str, str], *, allowed: Networks, within_s: float, tls: ssl.SSLContext
) -> int:
    """Send it and answer the status.

    Args:
        allowed: networks that may be reached although they are not public.
        within_s: for all of it but the look-up of the name, however slowly the other side talks.

    Raises:
        NotSent: with the reason.
    """
    addresses = [each for each in _resolve(target) if may_reach(each, allowed=allowed, is_plain=target.is_plain)]
    if not addresses:
        raise NotSent(f"{target.host} is not at a public address{' that plain http may reach' * target.is_plain}")
    # The first only: a host with several addresses is tried at the next attempt in whatever order it then gives.
    connection = _Pinned(target, addresses[0], tls, timeout_s=within_s)
    with _Deadline(connection, within_s) as deadline:
        try:
            connection.connect()
            connection.request("POST", target.path, body=body, headers={"Host": target.authority, **headers})
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise NotSent(_reason(error, within_s, is_late=deadline.is_over)) from error
    if deadline.is_over:  # http.client takes a connection that was cut among the headers for their end
        raise NotSent(_late(within_s))
    return status


def _resolve(target: Target) -> list[Address]:
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NotSent(f"{target.host} cannot be resolved: {error}") from error
    # A scope ("%eth0") names a link of this machine; such an address is never public.
    return [ip_address(str(sockaddr[0]).partition("%")[0]) for *_, sockaddr in found]


class _Pinned(http.client.HTTPConnection):
    """To this address, under the target's name."""

    def __init__(self, target: Target, address: Address, tls: ssl.SSLContext, *, timeout_s: float) -> None:
        super().__init__(str(address), target.port, timeout=timeout_s)
        self._tls, self._target = tls, target
        self.auto_open = 0

    def connect(self) -> None:
        super().connect()
        if not self._target.is_plain:
            # The handshake comes when self.sock is the one to cut.
            self.sock = self._tls.wrap_socket(
                self.sock, server_hostname=self._target.host, do_handshake_on_connect=False
            )
            self.sock.do_handshake()


class _Deadline:
    """Cuts the connection when time is up: a socket's timeout starts anew with every byte that trickles in."""

    def __init__(self, connection: _Pinned, within_s: float) -> None:
        self.is_over = False
        self._connection = connection
        self._timer = threading.Timer(within_s, self._cut)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self._connection.close()

    def _cut(self) -> None:
        self.is_over = True
        connected = self._connection.sock
        if connected is not None:
            with suppress(OSError):  # closed already
                socket.socket.shutdown(connected, socket.SHUT_RDWR)  # below TLS, which another thread is using


def _reason(error: Exception, within_s: float, *, is_late: bool) -> str:
    if is_late or isinstance(error, TimeoutError):
        return _late(within_s)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    return f"{type(error).__name__}: {error}"


def _late(within_s: float) -> str:
    return f"no answer within {within_s:g} s"
