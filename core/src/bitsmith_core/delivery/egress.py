"""Where webhooks may go: out, never in. Pure.

Whoever may register a webhook makes a process of ours send a request to an address of their choice. Inside a cluster
that process reaches what its people must not (SSRF): databases, other pods, and the cloud's metadata service, which
gives credentials to whoever asks. So only public addresses are sent to, except those of networks that whoever runs the
installation allows by name.

A name is resolved once and what it resolved to is judged and then connected to: a name that answers first with a public
address and then with ours (DNS rebinding) gains nothing.

Ranges: https://www.iana.org/assignments/iana-ipv4-special-registry and iana-ipv6-special-registry.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from bitsmith_core.errors import Invalid, Problem

Address = IPv4Address | IPv6Address
Networks = Sequence[IPv4Network | IPv6Network]

MAX_URL_LENGTH = 2048

# Public by their numbers, and yet not out: Azure's agent, Oracle's metadata service, tunnels to IPv4 addresses.
_NOT_OUT = tuple(ip_network(text) for text in ("168.63.129.16/32", "192.0.0.0/24", "2002::/16", "2001::/32"))
_NAT64 = ip_network("64:ff9b::/96")  # where a gateway makes IPv4 of it: an IPv6-only cluster's way to the world


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An address people gave, taken apart."""

    scheme: str
    host: str  # a name, or an IP address without brackets
    port: int
    path: str  # with the query

    @property
    def is_plain(self) -> bool:
        return self.scheme == "http"

    @property
    def authority(self) -> str:
        """For the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


_PORTS = {"https": 443, "http": 80}


def target(url: str, *, allowed: Networks = ()) -> Target:
    """
    Args:
        allowed: networks that are not public and may be reached nevertheless. Where there are some, plain http is not
            refused here; it is refused when the name turns out to lie elsewhere.

    Raises:
        Invalid: it is not an address that anything will ever be sent to.
    """
    if len(url) > MAX_URL_LENGTH or not re.fullmatch(r"[\x21-\x7e]+", url):
        raise _bad(f"write it in at most {MAX_URL_LENGTH} ASCII characters, others percent-encoded")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _bad(f"{url!r} is not a URL: {error}") from error
    if parts.scheme not in _PORTS or not parts.hostname or port == 0:
        raise _bad(f"{url!r} is not a URL of the form https://host/path")
    if "@" in parts.netloc:
        raise _bad("a URL with a name and password in it is not accepted; the signature proves who sends")
    if parts.scheme == "http" and not allowed:
        raise _bad("use https: what is sent over http can be read and changed on its way")

    host = parts.hostname
    literal = _as_address(host)
    if literal is not None and not may_reach(literal, allowed=allowed, is_plain=parts.scheme == "http"):
        raise _bad(f"{host} is not a public address{'' if parts.scheme == 'https' else ' that plain http may reach'}")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(scheme=parts.scheme, host=host, port=port or _PORTS[parts.scheme], path=path)


def may_reach(address: Address, *, allowed: Networks = (), is_plain: bool = False) -> bool:
    """Whether something may be sent to this address. What is allowed by name is, the rest must be public and https."""
    if any(address in network for network in allowed):
        return True
    return not is_plain and _is_public(_meant(address))


def _meant(address: Address) -> Address:
    """The IPv4 address that an IPv6 address may stand for."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _is_public(address: Address) -> bool:
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not (isinstance(address, IPv6Address) and address.is_site_local)
        and not any(address in network for network in _NOT_OUT)
    )


def _as_address(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _bad(detail: str) -> Invalid:
    return Invalid(f"url: {detail}", [Problem(pointer="/url", code="bad_url", detail=detail)])
