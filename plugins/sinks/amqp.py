"""Notifications on RabbitMQ, in the form that consumers of OpenStack's notifications know.

    image A: m1 ──confirmed──▶ m2 ──confirmed──▶ m3
    image B: m1 ──confirmed──▶ m2                       side by side

A message counts as delivered when the broker has confirmed it for every topic and
form.  The next one of the same image goes out only then, so that whatever is sent
again after a failure cannot overtake.  The queues are declared here too: what is told
before the first consumer comes is not lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from ssl import PROTOCOL_TLS_CLIENT, SSLContext, create_default_context
from typing import Any, Final
from uuid import UUID

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from kernel.codec import encode
from kernel.errors import Unavailable
from kernel.extend import NotificationSink
from kernel.notifications import Notification, envelope
from kernel.options import IniBool, IniList
from plugins.sinks._transport_url import Broker, parse

log = structlog.get_logger(__name__)

_CONNECT: Final = 10.0
_CONFIRM: Final = 30.0
"""Seconds until a broker that does not answer counts as away."""
_MISSING: Final = None if importlib.util.find_spec("aio_pika") else "aio-pika is not installed (entrepot[amqp])"

V1, V2 = "messaging", "messagingv2"


class AmqpConfig(BaseModel):
    """What Glance reads from three sections; the options of [oslo_messaging_rabbit] are the section's own."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    transport_url: str | None = None
    control_exchange: str = "glance"
    topics: IniList = ("notifications",)
    drivers: IniList = ()
    publisher_id: str = "image.localhost"
    amqp_durable_queues: IniBool = Field(False, description="Whether exchange and queues outlive the broker.")
    rabbit_quorum_queue: IniBool = Field(False, description="Quorum queues; they are durable, and so is the exchange.")
    rabbit_quorum_delivery_limit: int = Field(0, ge=0, description="x-delivery-limit of quorum queues; 0 is none.")
    rabbit_quorum_max_memory_length: int = Field(
        0, ge=0, description="x-max-in-memory-length of quorum queues; 0 is none."
    )
    rabbit_quorum_max_memory_bytes: int = Field(
        0, ge=0, description="x-max-in-memory-bytes of quorum queues; 0 is none."
    )
    heartbeat_timeout_threshold: int = Field(60, ge=0, description="Seconds between heartbeats; 0 is none.")
    ssl: IniBool = Field(False, description="Speak TLS; the broker's certificate is verified.")
    ssl_ca_file: Path | None = Field(None, description="Authorities to trust; unset: those of the system.")
    ssl_cert_file: Path | None = Field(None, description="Our own certificate, for brokers that want one.")
    ssl_key_file: Path | None = Field(None, description="Its key; unset: in the same file.", validate_default=True)

    @field_validator("transport_url")
    @classmethod
    def _parses(cls, value: str | None) -> str | None:
        parse(value or "rabbit://")
        return value

    @field_validator("ssl_ca_file")
    @classmethod
    def _trusted(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and _encrypted(info.data):
            try:
                create_default_context(cafile=str(value))
            except OSError as error:
                raise ValueError(f"{value} holds no certificates: {error.strerror or error}") from None
        return value

    @field_validator("ssl_cert_file")
    @classmethod
    def _there(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and _encrypted(info.data) and not value.is_file():
            raise ValueError(f"there is no file {value}")
        return value

    @field_validator("ssl_key_file")
    @classmethod
    def _belongs(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        certificate = info.data.get("ssl_cert_file")
        if certificate is not None and _encrypted(info.data):
            try:
                SSLContext(PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, value)
            except OSError as error:
                what = f"{value} is not usable with" if value else "there is no usable key in"
                raise ValueError(f"{what} ssl_cert_file {certificate}: {error.strerror or error}") from None
        return value

    @property
    def brokers(self) -> tuple[Broker, ...]:
        return parse(self.transport_url or "rabbit://")

    @property
    def forms(self) -> tuple[str, ...]:
        """The drivers named; without one the newer form."""
        return tuple(name for name in (V1, V2) if name in self.drivers) or (V2,)

    @property
    def durable(self) -> bool:
        return self.amqp_durable_queues or self.rabbit_quorum_queue

    @property
    def queue_arguments(self) -> dict[str, str | int]:
        """Beside their names, what makes the queues those that oslo.messaging would declare."""
        if not self.rabbit_quorum_queue:
            return {}
        limits = {
            "x-delivery-limit": self.rabbit_quorum_delivery_limit,
            "x-max-in-memory-length": self.rabbit_quorum_max_memory_length,
            "x-max-in-memory-bytes": self.rabbit_quorum_max_memory_bytes,
        }
        return {"x-queue-type": "quorum", **{name: limit for name, limit in limits.items() if limit}}

    def context(self) -> SSLContext:
        context = create_default_context(cafile=str(self.ssl_ca_file) if self.ssl_ca_file else None)
        if self.ssl_cert_file:
            context.load_cert_chain(self.ssl_cert_file, self.ssl_key_file)
        return context


class AmqpSink:
    """Publishes to one exchange; connects when there is something to say, and again when the line was lost."""

    def __init__(self, config: AmqpConfig) -> None:
        self._config = config
        self._connection: Any = None
        self._exchange: Any = None

    @classmethod
    async def open(cls, config: AmqpConfig) -> AmqpSink:
        return cls(config)

    async def deliver(self, batch: Sequence[Notification]) -> None:
        from aiormq.exceptions import AMQPError

        streams: dict[UUID, list[Notification]] = {}
        for message in batch:
            streams.setdefault(message.stream, []).append(message)
        try:
            await self._connect()
            ends = await asyncio.gather(*map(self._publish_in_order, streams.values()), return_exceptions=True)
            for end in ends:
                if isinstance(end, BaseException):
                    raise end
        except (AMQPError, OSError, TimeoutError, RuntimeError) as error:
            await self.close()
            raise Unavailable(f"the message broker does not take notifications: {error or repr(error)}") from error
        except BaseException:
            await self.close()  # what is on its way may or may not arrive; the next attempt starts afresh
            raise

    async def close(self) -> None:
        connection, self._connection, self._exchange = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(5):
                    await connection.close()

    async def _publish_in_order(self, messages: Sequence[Notification]) -> None:
        import aio_pika

        for message in messages:
            for form in self._config.forms:
                body = aio_pika.Message(
                    written(message, self._config.publisher_id, form),
                    content_type="application/json",
                    content_encoding="utf-8",
                    delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                    message_id=str(message.id),
                )
                for topic in self._config.topics:
                    key = f"{topic}.{message.priority.lower()}"
                    await self._exchange.publish(body, key, mandatory=True, timeout=_CONFIRM)

    async def _connect(self) -> None:
        if self._connection is not None and not self._connection.is_closed and not self._exchange.channel.is_closed:
            return
        await self.close()
        fault: Exception | None = None
        for broker in self._config.brokers:
            try:
                await self._open(broker)
            except OSError as error:
                log.warning("broker_away", broker=str(broker), reason=str(error) or repr(error))
                fault = error
                await self.close()
            else:
                return
        assert fault is not None
        raise fault

    async def _open(self, broker: Broker) -> None:
        import aio_pika

        tls = broker.tls or self._config.ssl
        async with asyncio.timeout(_CONNECT):
            self._connection = await aio_pika.connect(
                host=broker.host,
                port=broker.port,
                login=broker.user,
                password=broker.password,
                virtualhost=broker.vhost,
                ssl=tls,
                ssl_context=await asyncio.to_thread(self._config.context) if tls else None,
                timeout=_CONNECT,
                client_properties={"connection_name": f"entrepot {self._config.publisher_id}"},
                heartbeat=self._config.heartbeat_timeout_threshold,
            )
            await self._declare()
            channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
            self._exchange = await channel.get_exchange(self._config.control_exchange, ensure=False)

    async def _declare(self) -> None:
        import aio_pika

        name, durable = self._config.control_exchange, self._config.durable
        kind, arguments = aio_pika.ExchangeType.TOPIC, self._config.queue_arguments
        await self._have(
            name, lambda channel, there: channel.declare_exchange(name, kind, durable=durable, passive=there)
        )
        for key in (f"{topic}.{priority}" for topic in self._config.topics for priority in ("info", "error")):
            queue = await self._have(key, _queue(key, durable, arguments))
            await queue.bind(name, routing_key=key)

    async def _have(self, name: str, declare: Callable[[Any, bool], Awaitable[Any]]) -> Any:
        """Declare something; what is there already, made by others in another way, will do as well."""
        from aiormq.exceptions import ChannelPreconditionFailed

        channel = await self._connection.channel()
        try:
            return await declare(channel, False)
        except ChannelPreconditionFailed as error:  # which has closed the channel
            log.warning("broker_has_it_otherwise", name=name, reason=str(error))
            return await declare(await self._connection.channel(), True)


def _queue(name: str, durable: bool, arguments: dict[str, str | int]) -> Callable[[Any, bool], Awaitable[Any]]:
    def declare(channel: Any, there: bool) -> Any:
        return channel.declare_queue(name, durable=durable, arguments=arguments, passive=there)

    return declare


def _encrypted(options: Mapping[str, Any]) -> bool:
    """Whether any broker is spoken to in TLS, by what is known of the options so far."""
    url = options.get("transport_url") or "rabbit://"
    return bool(options.get("ssl")) or any(broker.tls for broker in parse(url))


def written(message: Notification, publisher_id: str, form: str) -> bytes:
    """A message as it goes over the wire, in one of the two forms."""
    plain = encode({**envelope(message, publisher_id), "_unique_id": message.id.hex})
    return plain if form == V1 else encode({"oslo.version": "2.0", "oslo.message": plain.decode()})


EXTENSION = NotificationSink(
    name="amqp",
    config=AmqpConfig,
    connect=AmqpSink.open,
    section="oslo_messaging_rabbit",
    unavailable=_MISSING,
)
