"""RabbitMQ as operators have set it up: other kinds of queues, what is there already, certificates."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import aio_pika
import pytest
from pydantic import ValidationError

from kernel.notifications import Notification
from plugins.sinks.amqp import AmqpConfig, AmqpSink
from tests.support.amqp import Exchange, exchange, opened
from tests.support.tls import self_signed


@pytest.fixture
async def made() -> AsyncIterator[Exchange]:
    async with exchange() as there:
        yield there


def config(made: Exchange, **options: Any) -> AmqpConfig:
    given = {"transport_url": made.url, "control_exchange": made.exchange, "topics": made.topic}
    return AmqpConfig.model_validate({**given, **options})


def message() -> Notification:
    return Notification(
        id=uuid4(),
        event_type="image.update",
        priority="INFO",
        payload={"id": "x"},
        at=datetime(2026, 1, 2, tzinfo=UTC),
        position=1,
        stream=uuid4(),
    )


async def told(made: Exchange, **options: Any) -> None:
    """Deliver one message, and find it in the queue."""
    sink, sent = await AmqpSink.open(config(made, **options)), message()
    try:
        await sink.deliver([sent])
    finally:
        await sink.close()
    (found,) = await made.take(1)
    assert opened(found)["message_id"] == str(sent.id)


@pytest.mark.amqp
async def test_queues_may_be_quorum_queues(made: Exchange) -> None:
    await told(made, rabbit_quorum_queue="true", rabbit_quorum_delivery_limit="5")
    arguments = {"x-queue-type": "quorum", "x-delivery-limit": 5}
    await made.channel.declare_queue(made.queue("info"), durable=True, arguments=arguments)
    await made.channel.declare_exchange(made.exchange, aio_pika.ExchangeType.TOPIC, durable=True)


@pytest.mark.amqp
async def test_queues_and_exchange_that_are_there_already_are_taken_as_they_are(made: Exchange) -> None:
    """A consumer that came first may have declared them otherwise."""
    await made.channel.declare_exchange(made.exchange, aio_pika.ExchangeType.TOPIC, durable=True)
    await made.channel.declare_queue(made.queue("info"), durable=True, arguments={"x-queue-type": "quorum"})
    await made.channel.declare_queue(made.queue("error"), arguments={"x-max-length": 1000})
    await told(made)


@pytest.mark.parametrize("option", ["ssl_ca_file", "ssl_cert_file", "ssl_key_file"])
def test_certificates_that_cannot_be_read_are_refused_where_they_are_used(tmp_path: Path, option: str) -> None:
    certificate, key = self_signed(tmp_path)
    files = {"ssl_ca_file": certificate, "ssl_cert_file": certificate, "ssl_key_file": key}
    AmqpConfig.model_validate({"ssl": "true", **files})
    files[option] = tmp_path / "absent.pem"
    AmqpConfig.model_validate({"ssl": "false", **files})
    for used in ({"ssl": "true"}, {"transport_url": "rabbits://h/"}):
        with pytest.raises(ValidationError, match=re.escape(str(files[option]))) as refused:
            AmqpConfig.model_validate({**used, **files})
        assert [error["loc"] for error in refused.value.errors()] == [(option,)]


def test_a_key_may_lie_with_its_certificate_and_must_be_its_own(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    both = tmp_path / "both.pem"
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    AmqpConfig.model_validate({"ssl": "true", "ssl_cert_file": both})
    with pytest.raises(ValidationError, match="ssl_cert_file"):
        AmqpConfig.model_validate({"ssl": "true", "ssl_cert_file": certificate, "ssl_key_file": certificate})
