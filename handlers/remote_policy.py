"""Rules that another server decides: the `http:` and `https:` checks of oslo.policy.

Rules are judged in the middle of decisions, so a check never waits.  One whose answer is
not known yet breaks off; the edge then asks, keeps the answer for this request alone,
and has the request begin anew:

    handler ─▶ rule ─▶ check ─▶ answered: passes or not
       ▲                 └────▶ Unanswered ─▶ POST ─┐
       └───────── answers of this request ◀─────────┘

A question holds the whole target: an image that somebody has changed before the decision
is asked about once more.  Once something is recorded the request cannot begin anew: what
its answer needs to be rendered is therefore asked at the beginning (`App`), and anything
else counts as not answered.

A server that gives no answer permits nothing.  Its check counts as whatever keeps the
rule from passing: false, and under a `not` true.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Final, TypeVar
from urllib.parse import quote

import aiohttp
import orjson
import structlog
from msgspec import Struct, field
from oslo_policy._checks import NotCheck
from yarl import URL

from kernel.errors import ConfigError, Forbidden
from kernel.settings import OsloPolicy

log = structlog.get_logger(__name__)

T = TypeVar("T")
R = TypeVar("R")

_AT_ONCE: Final = 20
"""Questions of one request that are under way together; a list asks one for each of its images."""

_MOST_ROUNDS: Final = 100

_LONGEST: Final = 64
"""Bytes of an answer that are looked at; `True` has four."""


class Question(Struct, frozen=True):
    """What a server is asked; all but the URL as JSON."""

    url: str
    rule: bytes
    target: bytes
    credentials: bytes


class Unanswered(Exception):
    """A rule cannot be judged before these are answered."""

    def __init__(self, questions: Sequence[Question]) -> None:
        super().__init__()
        self.questions = questions


class Answers(Struct):
    """What the servers said in one request; None is no answer."""

    known: dict[Question, bool | None] = field(default_factory=dict)
    silent: set[URL] = field(default_factory=set)
    """Servers that failed already and are not waited for again."""
    final: bool = False
    """Whether the request has recorded something."""


_ANSWERS: ContextVar[Answers | None] = ContextVar("policy answers", default=None)


def recorded(*_: object) -> None:
    """The request at hand has changed an image."""
    answers = _ANSWERS.get()
    if answers is not None:
        answers.final = True


def together(judge: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Judge one item after the other; what that leaves unanswered is asked in one go."""
    judged: list[R] = []
    questions: list[Question] = []
    for item in items:
        try:
            judged.append(judge(item))
        except Unanswered as unanswered:
            questions += unanswered.questions
    if questions:
        raise Unanswered(questions)
    return judged


# --- checks ------------------------------------------------------------------------------


class RemoteCheck:
    """A check in a rule, in the form that oslo.policy calls."""

    def __init__(self, kind: str, match: str) -> None:
        self.kind = kind
        self.match = match

    def __call__(self, target: Any, creds: Any, enforcer: Any, current_rule: str | None = None) -> bool:
        no_answer = bool(enforcer.negated)
        answers = _ANSWERS.get()
        if answers is None:  # outside a request, or in one that began before there was such a rule
            return no_answer
        try:
            url = f"{self.kind}:{self.match}" % _Quoted(target)
            parts = (orjson.dumps(part, default=str) for part in (current_rule, target, creds))
            question = Question(url, *parts)
        except (KeyError, ValueError, TypeError) as error:
            log.warning("policy_question_senseless", rule=current_rule, reason=repr(error))
            return no_answer
        if question not in answers.known and not answers.final:
            raise Unanswered([question])
        answer = answers.known.get(question)
        return no_answer if answer is None else answer


class _Not:
    """oslo.policy's `not`, telling the checks inside that they are turned round."""

    def __init__(self, check: NotCheck) -> None:
        self.rule = adopted(check.rule)
        self._check = NotCheck(self.rule)

    def __call__(self, target: Any, creds: Any, enforcer: Any, current_rule: str | None = None) -> bool:
        enforcer.negated = not enforcer.negated
        try:
            return bool(self._check(target, creds, enforcer, current_rule))
        finally:
            enforcer.negated = not enforcer.negated


def is_remote(check: Any) -> bool:
    """Whether another server decides."""
    return getattr(check, "kind", None) in ("http", "https")


def adopted(check: Any) -> Any:
    """A parsed rule with remote checks of ours in place of oslo.policy's, which would block."""
    if is_remote(check):
        return RemoteCheck(check.kind, check.match)
    if isinstance(check, NotCheck):
        return _Not(check)
    if hasattr(check, "rules"):
        check.rules = [adopted(inner) for inner in check.rules]
    return check


class _Quoted(Mapping[str, Any]):
    """A target whose values cannot lead a URL elsewhere: names and properties are what users like."""

    def __init__(self, target: Mapping[str, Any]) -> None:
        self._target = target

    def __getitem__(self, name: str) -> Any:
        value = self._target[name]
        if value is None or isinstance(value, int):
            return value
        if value in (".", ".."):
            raise ValueError(f"{name} is '{value}', which means something else in a URL")
        return quote(str(value), safe="")

    def __iter__(self) -> Iterator[str]:
        return iter(self._target)

    def __len__(self) -> int:
        return len(self._target)


# --- asking ------------------------------------------------------------------------------


class Servers:
    """Asks the servers that rules name, as `[oslo_policy] remote_…` has it."""

    def __init__(self, options: OsloPolicy) -> None:
        self._options = options
        self._trust: ssl.SSLContext | bool = True
        self._session: aiohttp.ClientSession | None = None

    def prepare(self) -> None:
        """Read the certificates; `ConfigError` when one is faulty.  Blocking, for a moment."""
        options = self._options
        try:
            trust = ssl.create_default_context(cafile=options.remote_ssl_ca_crt_file)
            if options.remote_ssl_client_crt_file is not None:
                trust.load_cert_chain(options.remote_ssl_client_crt_file, options.remote_ssl_client_key_file)
        except OSError as error:  # ssl's own errors among them
            raise ConfigError(f"[oslo_policy] remote_ssl_…: a certificate cannot be used: {error}") from None
        if not options.remote_ssl_verify_server_crt:
            trust.check_hostname = False
            trust.verify_mode = ssl.CERT_NONE
        self._trust = trust

    async def attempt(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do the work, again and again, until nothing that its rules ask is unanswered."""
        answers = Answers()
        token = _ANSWERS.set(answers)
        try:
            for _ in range(_MOST_ROUNDS):
                try:
                    return await work()
                except Unanswered as unanswered:
                    questions = unanswered.questions
                await self._answer(questions, answers)
        finally:
            _ANSWERS.reset(token)
        log.warning("policy_questions_without_end")
        raise Forbidden("What you may do could not be found out")

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _answer(self, questions: Sequence[Question], answers: Answers) -> None:
        room = asyncio.Semaphore(_AT_ONCE)

        async def one(question: Question) -> None:
            async with room:
                answers.known[question] = await self._ask(question, answers.silent)

        async with asyncio.TaskGroup() as group:
            for question in dict.fromkeys(questions):
                group.create_task(one(question))

    async def _ask(self, question: Question, silent: set[URL]) -> bool | None:
        """Whether the server says `True`; None if it says nothing."""
        server = None
        try:
            url = URL(question.url, encoded=True)
            server = url.origin()
            if server in silent:
                return None
            async with self._opened().post(url, ssl=self._trust, **self._body(question)) as response:
                if response.status < 500:
                    return await _text(response) == b"True"
                reason = f"status {response.status}"
        except (aiohttp.ClientError, OSError, ValueError) as error:  # TimeoutError is an OSError
            reason = repr(error)
        log.warning("policy_server_failed", server=str(server), rule=question.rule.decode(), reason=reason)
        if server is not None:
            silent.add(server)
        return None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self._options.remote_timeout),
                connector=aiohttp.TCPConnector(limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    def _body(self, question: Question) -> dict[str, Any]:
        parts = {"rule": question.rule, "target": question.target, "credentials": question.credentials}
        content_type = self._options.remote_content_type
        if content_type == "application/json":
            data = orjson.dumps({name: orjson.Fragment(part) for name, part in parts.items()})
            return {"data": data, "headers": {"Content-Type": content_type}}
        return {"data": {name: part.decode() for name, part in parts.items()}}


async def _text(response: aiohttp.ClientResponse) -> bytes:
    """The beginning of an answer, without the quotes that JSON puts around it."""
    text = b""
    async for chunk in response.content.iter_any():
        text += chunk
        if len(text) > _LONGEST:
            break
    return text.strip(b'"')
