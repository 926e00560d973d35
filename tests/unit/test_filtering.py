"""Which URIs pass, host forms and all (import.md 10), and what of a URL may be shown."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from kernel.errors import Invalid
from kernel.masking import mask_url, masked
from plugins.methods import _filtering as filtering
from plugins.methods._filtering import Address, FilterConfig, Target, canonical_host, judge, parse, resolve

OPEN: dict[str, Any] = {"allowed_ports": "[]", "disallowed_networks": "[]"}


def passes(uri: str, **options: Any) -> bool:
    """Whether the lists let a URI pass; names are not looked up."""
    try:
        judge(parse(uri), FilterConfig(**options))
    except Invalid:
        return False
    return True


# --- the six lists -----------------------------------------------------------------------


@pytest.mark.requirement("REQ-045", "REQ-050", "REQ-051")
@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        *((uri, True) for uri in ("http://h/x", "https://h/x", "http://h:80/x", "https://h:443/x", "http://h:443/x")),
        *((uri, False) for uri in ("http://h:8080/x", "ftp://h/x", "h/x", "http:///x", "file:///etc/passwd", "")),
        *((uri, True) for uri in ("HTTP://H/x", "http://h:/x", "http://h", "http://h?q", "http://[2001:db8::1]/x")),
        *((uri, False) for uri in ("http://", "http:", "//h/x", "://h/x", "http://:80/x", "gopher://h/x", "http://@/")),
    ],
)
def test_defaults(uri: str, expected: bool) -> None:
    assert passes(uri) is expected


@pytest.mark.requirement("REQ-046", "REQ-047", "REQ-048", "REQ-049")
@pytest.mark.parametrize(
    ("uri", "options", "expected"),
    [
        ("http://h/x", {"allowed_schemes": "[https]"}, False),
        ("https://h/x", {"allowed_schemes": "[HTTPS]", "disallowed_schemes": "[https]"}, True),
        ("http://h/x", {"allowed_schemes": "[]", "disallowed_schemes": "[HTTP]"}, False),
        ("https://h/x", {"allowed_schemes": "[]", "disallowed_schemes": "[http]"}, True),
        ("ftp://h/x", {"allowed_schemes": "[ftp]"}, False),
        ("http://a.example/x", {"allowed_hosts": "['A.Example.']"}, True),
        ("http://a.example./x", {"allowed_hosts": "[a.example]", "disallowed_hosts": "[a.example]"}, True),
        ("http://www.a.example/x", {"allowed_hosts": "[a.example]"}, False),
        ("http://www.a.example/x", {"disallowed_hosts": "[a.example]"}, True),
        ("http://A.example./x", {"disallowed_hosts": "[a.example]"}, False),
        ("http://bücher.example/x", {"disallowed_hosts": "[xn--bcher-kva.example]"}, False),
        ("http://[::ffff:10.0.0.1]/x", {"disallowed_hosts": "[10.0.0.1]"}, False),
        ("http://10.0.0.1/x", {"disallowed_hosts": "['::ffff:10.0.0.1']"}, False),
        ("http://[2001:DB8:0:0::1]/x", {"disallowed_hosts": "['2001:db8::1']"}, False),
        ("http://h:80/x", {"allowed_ports": "[]", "disallowed_ports": "[80]"}, False),
        ("http://h/x", {"allowed_ports": "[]", "disallowed_ports": "[80]"}, True),
        ("http://h/x", {"allowed_ports": "[8080]"}, True),
        ("http://h:8080/x", {"allowed_ports": "[8080]", "disallowed_ports": "[8080]"}, True),
        ("http://h:80/x", {"allowed_ports": "[8080]"}, False),
    ],
)
def test_an_allow_list_decides_alone(uri: str, options: dict[str, Any], expected: bool) -> None:
    assert passes(uri, **options) is expected


# --- hosts -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        *("2130706433", "0x7f000001", "0177.0.0.1", "127.1", "127.0.1", "0x7f.0.0.1", "127.0.0.01", "0", "1.2.3.4.5"),
        *("256.0.0.1", "127.0.0.1..", "a..b", "%31%32%37.0.0.1", "127%2e0.0.1", "a%00b", "h\u00ad\u200b%"),
        *("２１３０７０６４３３", "１２７.1", "0x7F000001", "[::1%25lo]", "[fe80::1%1]", "[::1", "[127.0.0.1]", "[]"),
        *("a b", "a\tb", "a\\b", "a\nb", "a\u00a0b", "a\u2003b", "a^b", "a|b", "a<b", "a" * 300),
    ],
)
def test_odd_spellings_of_hosts_are_refused(host: str) -> None:
    assert not passes(f"http://{host}/x", **OPEN)


@pytest.mark.parametrize(
    ("host", "canonical"),
    [
        ("H.Example.", "h.example"),
        ("127.0.0.1.", "127.0.0.1"),
        ("１２７.0.0.1", "127.0.0.1"),
        ("127。0。0。1", "127.0.0.1"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("a_b-c.example", "a_b-c.example"),
    ],
)
def test_one_spelling_for_every_host(host: str, canonical: str) -> None:
    assert canonical_host(host) == canonical


def test_what_is_too_long_is_refused_before_it_is_looked_at() -> None:
    """To bring a megabyte of another script into the spelling of the DNS takes seconds."""
    assert canonical_host("é" * 10_000_000) is None
    assert canonical_host(f"{'a.' * 126}a.") == f"{'a.' * 126}a"
    assert passes(f"http://h/{'x' * 8183}")
    assert not passes(f"http://h/{'x' * 8184}")


@pytest.mark.parametrize("port", ["0", "00", "65536", "99999", "abc", "-1", "8 0", "٣", "1e3", "+80"])
def test_what_is_no_port_is_refused(port: str) -> None:
    assert not passes(f"http://h:{port}/x", **OPEN)


def test_what_is_asked_for_is_put_together_anew() -> None:
    """Another parser must not find another host in it than the one that was judged."""
    target = parse("HTTP://us%40er:p%2Fw@EXAMPLE.org.:8080/a%2Fb/ü/../c?q=%zz&r=é#fragment")
    assert target.uri == "http://example.org:8080/a%2Fb/%C3%BC/../c?q=%zz&r=%C3%A9"
    assert (target.user, target.password) == ("us@er", "p/w")
    assert parse("http://[::ffff:127.0.0.1]/x").uri == "http://127.0.0.1/x"
    assert parse("http://a@b@c.example/x").host == "c.example"
    assert parse("http://h?x").uri == "http://h/?x"


# --- addresses ---------------------------------------------------------------------------


def names(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    async def look_up(target: Target) -> list[Address]:
        return [ipaddress.ip_address(address) for address in addresses]

    monkeypatch.setattr(filtering, "look_up", look_up)


DENIED = [
    *("127.0.0.1", "127.255.255.254", "::1", "169.254.169.254", "fe80::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1"),
    *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"),
    *("64:ff9b:1::7f00:1", "64:ff9b:1:2::a9fe:a9fe", "::ffff:0:127.0.0.1", "::ffff:0:a9fe:a9fe"),
    *("2002:7f00:1::", "2002:a9fe:a9fe::1", "2001:0:4136:e378:8000:63bf:80ff:fffe"),
]


@pytest.mark.parametrize("address", DENIED)
async def test_addresses_off_limits_by_default(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Also behind names, and wrapped in IPv6 in any way that a router may unwrap."""
    names(monkeypatch, address)
    with pytest.raises(Invalid):
        await resolve(parse("http://name.example/x"), FilterConfig())
    passed = await resolve(parse("http://name.example/x"), FilterConfig(allowed_hosts="[name.example]"))
    assert [str(item) for item in passed] == [str(ipaddress.ip_address(address))]
    assert await resolve(parse("http://name.example/x"), FilterConfig(disallowed_networks="[]"))


async def test_only_the_addresses_that_pass_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, "127.0.0.1", "10.0.0.7", "::1", "192.0.2.1", "2001:db8::1")
    found = await resolve(parse("http://name.example/x"), FilterConfig(disallowed_hosts="[192.0.2.1]"))
    assert [str(address) for address in found] == ["10.0.0.7", "2001:db8::1"]
    everything = FilterConfig(disallowed_networks="0.0.0.0/0, ::/0")
    with pytest.raises(Invalid):
        await resolve(parse("http://name.example/x"), everything)


async def test_names_that_resolve_to_nothing_are_refused() -> None:
    with pytest.raises(Invalid, match="does not pass filtering"):
        await resolve(parse("http://does-not.exist/x"), FilterConfig())


# --- what may be shown -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://h/x", "http://h/x"),
        ("http://user:pw@h:80/x", "http://user:***@h:80/x"),
        ("http://user@name:pw@h/x", "http://***@h/x"),
        ("http://ghp_token@h/x", "http://***@h/x"),
        ("http://:pw@h/x", "http://:***@h/x"),
        ("http://user:pa/s:s@h/x", "http://user:***@h/x"),
        ("http://user:p?a#s@h/x", "http://user:***@h/x"),
        ("http://h:8080/a@b", "http://h:8080/a@b"),
        ("http://[::1]:80/a@b", "http://[::1]:80/a@b"),
        ("http://u:pw@h/a@b", "http://u:***@h/a@b"),
        ("http://h/x?a=1&X-Amz-Signature=abc&b=2", "http://h/x?a=1&X-Amz-Signature=***&b=2"),
        ("http://h/x?temp_url_sig=abc;password=pw", "http://h/x?temp_url_sig=***;password=***"),
        ("two http://a:b@c and ftp://d:e@f", "two http://a:***@c and ftp://d:***@f"),
    ],
)
def test_credentials_in_urls_are_masked(url: str, shown: str) -> None:
    assert mask_url(url) == shown
    assert masked({"method": {"uri": url, "more": [url, 1, None]}}) == {
        "method": {"uri": shown, "more": [shown, 1, None]}
    }


def test_a_refusal_shows_no_password() -> None:
    for uri in (
        "http://user:se cret@h/x",
        "http://user:sec\tret@h:0/x",
        "ftp://user:secret@h/x",
        "http://u:secret@h:0/",
    ):
        with pytest.raises(Invalid) as refused:
            judge(parse(uri), FilterConfig())
        assert "cret" not in str(refused.value)


@pytest.mark.parametrize(
    "piece",
    [
        *("a", "?", "?sig", "sig", "&token", "http://", "http://a:b/", "@://a:b:", "://a:b/@", "a@", "1", "@"),
        *("?sig=x?", "http://a:b@c/?sig=d&", "://"),
    ],
)
@pytest.mark.parametrize("start", ["", "http://", "http://u:", "?"])
def test_masking_takes_no_longer_than_the_text(start: str, piece: str) -> None:
    """Once more than a few passes over it, this would not end within the life of the machine."""
    assert mask_url(start + piece * (1 << 16))
