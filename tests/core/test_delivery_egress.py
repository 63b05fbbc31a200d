"""Webhooks go out, never in: not to this machine, its network, its cloud's metadata service, by whatever spelling."""

from ipaddress import ip_address, ip_network

import pytest
from bitsmith_core.delivery import egress
from bitsmith_core.errors import Invalid

INSIDE = [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1",
    "169.254.169.254",  # AWS, GCP, Azure: credentials for whoever asks
    "100.100.100.200",  # Alibaba
    "192.0.0.192",  # Oracle
    "168.63.129.16",  # Azure's agent
    "100.64.0.1", "198.18.0.1", "203.0.113.5", "224.0.0.1", "255.255.255.255",
    "::", "::1", "fe80::1", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "ff0e::1", "2001:db8::1",
    "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.0.0.1", "::127.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::1", "2002:a9fe:a9fe::1", "2001:0:7f00:1::1",
]  # fmt: skip
OUTSIDE = ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]


@pytest.mark.parametrize("address", INSIDE)
def test_nothing_inside_is_reached(address: str) -> None:
    assert not egress.may_reach(ip_address(address))


@pytest.mark.parametrize("address", OUTSIDE)
def test_everything_outside_is_reached_by_https_only(address: str) -> None:
    assert egress.may_reach(ip_address(address))
    assert not egress.may_reach(ip_address(address), is_plain=True)


def test_what_is_allowed_by_name_is_reached_and_its_neighbours_are_not() -> None:
    allowed = [ip_network("10.1.0.0/16"), ip_network("fd00::/64")]
    assert egress.may_reach(ip_address("10.1.9.9"), allowed=allowed, is_plain=True)
    assert egress.may_reach(ip_address("fd00::9"), allowed=allowed)
    assert not egress.may_reach(ip_address("10.2.0.1"), allowed=allowed)
    assert not egress.may_reach(ip_address("169.254.169.254"), allowed=allowed)


@pytest.mark.parametrize(
    "url",
    [
        "", "example.org", "//example.org/x", "ftp://example.org/", "file:///etc/passwd", "gopher://example.org/",
        "https://", "https:///path", "https://example.org:0/", "https://example.org:99999/", "https://[::1/",
        "http://example.org/", "https://user:word@example.org/", "https://example.org@10.0.0.1/",
        "https://127.0.0.1/", "https://[::1]/", "https://[::ffff:10.0.0.1]/", "https://169.254.169.254/latest",
        "https://exa mple.org/", "https://example.org/\r\nX-Evil: 1", "https://example.org/\0", "https://exämple.org/",
        "https://example.org/" + "a" * 2048,
    ],
)  # fmt: skip
def test_no_other_address_is_taken(url: str) -> None:
    with pytest.raises(Invalid) as refused:
        egress.target(url)
    assert [problem.pointer for problem in refused.value.problems] == ["/url"]


def test_an_address_is_taken_apart() -> None:
    target = egress.target("https://Hooks.Example.org:8443/a/b?c=d")
    assert (target.host, target.port, target.path) == ("hooks.example.org", 8443, "/a/b?c=d")
    assert target.authority == "hooks.example.org:8443"
    assert egress.target("https://example.org").path == "/"
    assert egress.target("https://example.org:443/").authority == "example.org"
    assert egress.target("https://[2606:4700::1111]/").authority == "[2606:4700::1111]"


def test_plain_http_may_be_named_where_some_network_is_allowed() -> None:
    allowed = [ip_network("10.0.0.0/8")]
    assert egress.target("http://receiver.internal/", allowed=allowed).is_plain
    assert egress.target("http://10.0.0.7/", allowed=allowed).port == 80
    with pytest.raises(Invalid):
        egress.target("http://8.8.8.8/", allowed=allowed)


@pytest.mark.parametrize("spelling", ["2130706433", "0x7f.1", "0177.0.0.1", "127.1"])
def test_odd_spellings_of_an_address_are_names_and_judged_when_resolved(spelling: str) -> None:
    # The resolver knows these spellings; what it makes of them is judged then.
    assert egress.target(f"https://{spelling}/").host == spelling
