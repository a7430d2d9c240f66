"""The server: one session, one answer at a time, by default for this computer alone."""

from __future__ import annotations

import hmac
import ipaddress
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio
import uvicorn
from anyio.to_thread import run_sync
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from slmkit.errors import SlmkitError, UsageError
from slmkit.inference.answer import Answer
from slmkit.inference.generate import check_prompt
from slmkit.inference.session import Session
from slmkit.serving.replies import Reply, refusal
from slmkit.serving.requests import Asked, ChatRequest, TextRequest

LARGEST = 1 << 20  # bytes of a request
WAITING = 16  # requests that wait for the one that is answered
CONNECTIONS = 64
KEEP_ALIVE = 5  # seconds
Kind = TypeVar("Kind", bound=Asked)
HOSTS = ["localhost", "127.0.0.1", "[::1]"]


class Refused(Exception):
    """An answer of the server that is an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class Server:
    """Answers the requests of a session's clients."""

    def __init__(self, session: Session, token: str | None = None) -> None:
        self.session, self.token = session.continued(), token
        self.lock, self.waiting = anyio.Lock(), 0

    def application(self, hosts: list[str]) -> Starlette:
        """The ASGI application; requests for other ``hosts`` are refused, so that no web page can
        reach it under a name of its own."""
        routes = [
            Route("/health", self.health),
            Route("/v1/models", self.models),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/completions", self.text, methods=["POST"]),
        ]
        trusted = Middleware(TrustedHostMiddleware, allowed_hosts=hosts)
        handlers: Any = {Refused: _refused}
        return Starlette(routes=routes, middleware=[trusted], exception_handlers=handlers)

    async def health(self, request: Request) -> Response:
        """Whether it runs."""
        return JSONResponse({"status": "ok"})

    async def models(self, request: Request) -> Response:
        """The one model that there is."""
        self._check_token(request)
        known = {"id": self.session.name, "object": "model", "created": 0, "owned_by": "slmkit"}
        return JSONResponse({"object": "list", "data": [known]})

    async def chat(self, request: Request) -> Response:
        """Messages, and the assistant's next one."""
        asked = await self._read(request, ChatRequest)
        return await self._reply(request, asked, asked.prompt(), raw=False)

    async def text(self, request: Request) -> Response:
        """A text that goes on."""
        asked = await self._read(request, TextRequest)
        return await self._reply(request, asked, asked.prompt, raw=True)

    async def _read(self, request: Request, kind: type[Kind]) -> Kind:
        self._check_token(request)
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            raise Refused(415, "send application/json")  # a web page cannot, without asking first
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > LARGEST:
                raise Refused(413, f"the request has more than {LARGEST} bytes")
        try:
            asked = kind.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise Refused(400, f"{place}: {first['msg']}" if place else first["msg"]) from None
        if asked.model != self.session.name:
            raise Refused(404, f"there is no model {asked.model!r}, only {self.session.name!r}")
        return asked

    def _check_token(self, request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self.token and not hmac.compare_digest(given.encode(), self.token.encode()):
            raise Refused(401, "the API key is missing or wrong")

    async def _reply(self, request: Request, asked: Asked, prompt: Any, raw: bool) -> Response:
        reply = Reply(self.session.name, chat=not raw)
        try:
            arguments = asked.arguments()
            tools = arguments.get("tools")
            ids = await run_sync(lambda: self.session.prompt_ids(prompt, raw, tools=tools))
            check_prompt(ids, self.session.runner.context_length)
        except SlmkitError as error:
            raise Refused(400, str(error.message)) from None
        if self.waiting >= WAITING:
            raise Refused(429, f"{WAITING} requests are waiting already")

        def start() -> Answer:
            return self.session.stream(prompt, raw=raw, **arguments)

        if asked.stream:
            events = self._events(reply, start, asked.stream_options.include_usage)
            return StreamingResponse(events, media_type="text/event-stream")
        async with self._turn(start) as answer:
            async for _ in _pieces(answer):
                if await request.is_disconnected():
                    break
        return JSONResponse(reply.whole(answer))

    @asynccontextmanager
    async def _turn(self, start: Callable[[], Answer]) -> AsyncIterator[Answer]:
        """The answer, when those before it are done."""
        self.waiting += 1
        try:
            await self.lock.acquire()
        finally:
            self.waiting -= 1
        try:
            answer = await run_sync(start)
            try:
                yield answer
            finally:
                answer.close()
        except SlmkitError as error:
            raise Refused(400, str(error.message)) from None
        finally:
            self.lock.release()

    async def _events(
        self, reply: Reply, start: Callable[[], Answer], with_usage: bool
    ) -> AsyncIterator[str]:
        """Server-sent events: pieces, why it ended, what was used, the end."""
        try:
            async with self._turn(start) as answer:
                async for piece in _pieces(answer):
                    yield _event(reply.piece(piece))
                yield _event(reply.piece(None, answer.finish))
                if with_usage:
                    yield _event(reply.last(answer))
        except Refused as error:
            yield _event(refusal(error.message))
        yield "data: [DONE]\n\n"


async def _pieces(answer: Answer) -> AsyncIterator[str]:
    """The pieces of an answer, each computed in a thread beside the server's."""
    while (piece := await run_sync(next, answer, None)) is not None:
        yield piece


def _event(values: dict[str, Any]) -> str:
    return f"data: {json.dumps(values, ensure_ascii=False)}\n\n"


async def _refused(request: Request, error: Refused) -> Response:
    return JSONResponse(refusal(error.message), error.status)


def serve(
    session: Session, host: str, port: int, token: str | None, announce: Callable[[str], None]
) -> None:
    """Serve until it is interrupted. ``announce`` is told the address.

    Raises UsageError for an address that others reach, without a token, or one that is in use.
    """
    if not (token or _is_loopback(host)):
        raise UsageError(
            f"others can reach {host}", "give a --token, which clients send as their API key"
        )
    try:
        listening = socket.create_server((host, port), family=_family(host))
    except OSError as error:
        raise UsageError(f"{host}:{port} cannot be listened at: {error}", "try --port 0") from None
    place = f"[{host}]" if ":" in host else host
    announce(f"{session.about}: http://{place}:{listening.getsockname()[1]}/v1")
    hosts = [*HOSTS, place] if _is_loopback(host) else ["*"]
    config = uvicorn.Config(
        Server(session, token).application(hosts),
        log_level="warning",
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE,
    )
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:
        return


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
