"""Broker addresses in the forms that operators write."""

from __future__ import annotations

import pytest

from plugins.sinks._transport_url import Broker, parse


def broker(**given: object) -> Broker:
    usual = {"host": "localhost", "port": 5672, "user": "guest", "password": "guest", "vhost": "/", "tls": False}
    return Broker(**{**usual, **given})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("rabbit://", {}),
        ("rabbit:///", {}),
        ("rabbit://host", {"host": "host"}),
        (
            "rabbit://u:p@host:1234/vhost",
            {"user": "u", "password": "p", "host": "host", "port": 1234, "vhost": "vhost"},
        ),
        ("rabbit://u%40x:p%2F%3A%25@host/", {"user": "u@x", "password": "p/:%", "host": "host"}),
        ("rabbit://u:p:q@host", {"user": "u", "password": "p:q", "host": "host"}),
        ("rabbit://u@host", {"user": "u", "password": "", "host": "host"}),
        ("rabbit://host//", {"host": "host", "vhost": "/"}),
        ("rabbit://host/%2Fa", {"host": "host", "vhost": "/a"}),
        ("rabbit://[::1]:5673/", {"host": "::1", "port": 5673}),
        ("rabbit://[::1]", {"host": "::1"}),
        ("rabbit://host/?ssl=1", {"host": "host", "tls": True, "port": 5671}),
        ("rabbit://host:5672/v?ssl=0", {"host": "host", "vhost": "v"}),
        ("amqps://host", {"host": "host", "tls": True, "port": 5671}),
    ],
)
def test_one_broker(url: str, expected: dict[str, object]) -> None:
    assert parse(url) == (broker(**expected),)


def test_several_brokers_share_the_virtual_host() -> None:
    first, second = parse("rabbit://a:1@one:5000,b:2@two/v")
    assert first == broker(user="a", password="1", host="one", port=5000, vhost="v")
    assert second == broker(user="b", password="2", host="two", vhost="v")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host:5672",
        "http://host",
        "rabbit:/x",
        "rabbit://u:hidden@host:x",
        "rabbit://u:hidden@host:0",
        "rabbit://u:hidden/hidden@host:5672/",
    ],
)
def test_what_is_no_transport_url_is_refused_without_telling_the_password(url: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse(url)
    assert "transport_url" in str(refused.value)
    assert "hidden" not in str(refused.value)


def test_a_broker_is_named_without_its_password() -> None:
    assert [str(item) for item in parse("rabbit://u:hidden@host,u:hidden@[::1]:1/")] == ["host:5672", "[::1]:1"]
