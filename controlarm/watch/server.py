"""The page, served: one look at the folder for all who watch, each part made once and sent as the same bytes to everybody.

Whoever asks for the page gets a frame without a word of the folder; what is in the folder comes by ``/updates``, behind the
token where there is one. No other page can read it, be it by its scripts or by a name that it lets point here.
"""

import asyncio
import hmac
import ipaddress
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from controlarm.analysis.folder import FolderError
from controlarm.markup import Markup, element
from controlarm.protocol import ProtocolError
from controlarm.report.view import missing
from controlarm.watch.page import FOOT, PARTS, Part, Sight, frame, values

PERIOD = 1.0
"""Seconds between two looks, at least."""
SHARE = 0.035
"""Of a core that looking and drawing may take: where a look costs more, the next one waits."""
DRAWING = 0.025
"""Processor seconds of a look that go into charts; those left over come first at the next."""
ALIVE = 15.0
"""Seconds after which a viewer is told that there is nothing new."""
SHORTEST_TOKEN = 16
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})

POLICY = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


class Stage:
    """What there is to see now, for any number of viewers.

    A viewer that is slow misses versions, never a part: it is sent what is newer than what it has.
    """

    def __init__(self, sight: Sight) -> None:
        self.sight = sight
        self.version = 0
        self._parts: dict[str, tuple[int, Markup]] = {}
        """Version at which a part last changed, and the part."""
        self._made_of: dict[str, tuple[Any, ...]] = {}
        self._last_drawn: dict[str, int] = {}
        self._title = ""
        self._looks = 0
        self._messages: dict[int, bytes] = {}
        self._changed = asyncio.Event()

    def look(self, now: float) -> dict[str, Markup]:
        """Look at the folder and make what may have changed; cheap parts always, charts for a while.

        Args:
            now: seconds since the epoch.
        """
        self._looks += 1
        try:
            self.sight.look(now)
        except (FolderError, ProtocolError, OSError) as error:
            return {"facts": missing("Not readable", str(error))}
        made: dict[str, Markup] = {}
        drawn = 0.0
        for part in sorted(PARTS, key=self._turn):
            of = values(self.sight, part)
            if self._made_of.get(part.ident) == of and "now" not in part.of:
                continue
            if drawn > DRAWING and part.ident in self._parts:
                continue
            began = time.thread_time()
            made[part.ident] = part.build(self.sight)
            self._made_of[part.ident], self._last_drawn[part.ident] = of, self._looks
            drawn += time.thread_time() - began if _is_chart(part) else 0.0
        return made

    def _turn(self, part: Part) -> tuple[bool, int]:
        """Charts come last, and of them the one that has waited longest first."""
        return _is_chart(part), self._last_drawn.get(part.ident, 0)

    def publish(self, made: dict[str, Markup]) -> None:
        """Show parts to all viewers; those that say what they said before are not sent again."""
        new = {i: m for i, m in made.items() if self._parts.get(i, (0, None))[1] != m}
        if not new and self.sight.title == self._title and self.version:
            return
        self.version += 1
        self._title = self.sight.title
        self._parts |= {ident: (self.version, markup) for ident, markup in new.items()}
        self._messages.clear()
        self._changed.set()
        self._changed = asyncio.Event()

    def message(self, since: int) -> bytes:
        """One line of JSON with all that is newer than a version; made once, however many ask."""
        if since not in self._messages:
            parts = {i: markup for i, (version, markup) in self._parts.items() if version > since}
            whole = {"title": self._title, "parts": parts}
            self._messages[since] = json.dumps(whole).encode() + b"\n"
        return self._messages[since]

    async def follow(self) -> None:
        """Look again and again, for as long as anybody may watch."""
        while True:
            began, cost = time.monotonic(), time.process_time()
            self.publish(await asyncio.to_thread(self.look, time.time()))
            cost = time.process_time() - cost
            await asyncio.sleep(max(PERIOD, cost / SHARE) - (time.monotonic() - began))

    async def updates(self) -> AsyncIterator[bytes]:
        """What one viewer is sent."""
        seen = 0
        while True:
            changed = self._changed
            if seen < self.version:
                message, seen = self.message(seen), self.version
                yield message
                continue
            try:
                await asyncio.wait_for(changed.wait(), ALIVE)
            except TimeoutError:
                yield b"\n"


def _is_chart(part: Part) -> bool:
    return part.ident.startswith("curve-")


def page() -> bytes:
    """The frame of the page: the same for every folder."""
    header, sections = frame({}, element("p", "reading the folder", id="live", class_="over", role="status"))  # fmt: skip
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", "controlarm watch"),
        element("link", rel="stylesheet", href="page.css"),
        element("script", src="page.js", defer=True),
        element("script", src="watch.js", defer=True),
    )
    body = element(
        "body",
        header,
        element("main", *sections),
        element("footer", element("p", FOOT)),
        element("noscript", element("p", "The page needs scripts. `controlarm watch FOLDER --export FILE` makes one that does not.")),
    )  # fmt: skip
    return f'<!doctype html>\n<html lang="en">{head}{body}</html>\n'.encode()


Scope = MutableMapping[str, Any]
Send = Callable[[Scope], Awaitable[None]]
App = Callable[[Scope, Any, Send], Awaitable[None]]


class Guard:
    """Answers only whom the address is meant for, and tells the browser what the page may do."""

    def __init__(self, app: App, hosts: frozenset[str] | None) -> None:
        """Take the names that the server may be called by; None: any, since a token guards it."""
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:  # noqa: ANN401  as ASGI has it
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"])
        host = _without_port(given.get(b"host", b"").decode("latin-1"))
        site = given.get(b"sec-fetch-site", b"none")
        if self.hosts is not None and host not in self.hosts:
            app: App = PlainTextResponse(f"this server is not called so; it is called {', '.join(sorted(self.hosts))}\n", 421)  # fmt: skip
        elif site not in (b"none", b"same-origin") and scope["path"] != "/":
            app = PlainTextResponse("asked for by another page\n", 403)
        else:
            app = self.app

        async def sent(message: Scope) -> None:
            if message["type"] == "http.response.start":
                own = {name.encode(): value.encode() for name, value in HEADERS.items()}
                kept = [(k, v) for k, v in message["headers"] if k not in own]
                message["headers"] = [*kept, *own.items()]
            await send(message)

        await app(scope, receive, sent)


def _without_port(host: str) -> str:
    """The name in a Host header.

    >>> _without_port("LOCALHOST:8765"), _without_port("[::1]:80"), _without_port("[::1]")
    ('localhost', '[::1]', '[::1]')
    """
    if host.startswith("["):
        return host.partition("]")[0].lower() + "]"
    return host.partition(":")[0].lower()


def application(stage: Stage, host: str, token: str | None) -> App:
    """The server of one folder.

    Args:
        stage: what there is to see.
        host: the address that it listens on.
        token: what ``/updates`` must be asked with, as ``Authorization: Bearer …``; None: nothing.
    """
    source = {
        "page.css": ("controlarm.report", "text/css"),
        "page.js": ("controlarm.report", "text/javascript"),
        "watch.js": ("controlarm.watch", "text/javascript"),
    }
    fixed = {"/": (page(), "text/html")} | {
        f"/{name}": (resources.files(package).joinpath(name).read_bytes(), kind)
        for name, (package, kind) in source.items()
    }

    def answer(request: Request) -> Response:
        content, kind = fixed[request.url.path]
        return Response(content, media_type=kind)

    def updates(request: Request) -> Response:
        given = request.headers.get("authorization", "").encode("latin-1", "replace")
        if token is not None and not hmac.compare_digest(given, b"Bearer " + token.encode()):
            return PlainTextResponse("a token is needed: open the page as …/#token=TOKEN\n", 401)
        return StreamingResponse(stage.updates(), media_type="application/x-ndjson")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(stage.follow())
        try:
            yield
        finally:
            task.cancel()

    routes = [*(Route(path, answer) for path in fixed), Route("/updates", updates)]
    anywhere = host in ("0.0.0.0", "::")
    named = f"[{host}]" if ":" in host else host.lower()
    return Guard(
        Starlette(routes=routes, lifespan=lifespan),
        None if anywhere else LOOPBACK | {named},
    )


class AddressError(ValueError):
    """The page cannot be shown at that address; the message says why and what instead."""


def check_address(host: str, token: str | None) -> None:
    """Refuse to show a folder to strangers.

    Raises:
        AddressError: the address can be reached from elsewhere and there is no token, or it is too short to be one.
    """
    if token is not None and (len(token) < SHORTEST_TOKEN or not token.isascii()):
        raise AddressError(
            f"--token: has {len(token)} characters; give {SHORTEST_TOKEN} or more of ASCII that nobody can guess, as "
            "`python -c 'import secrets; print(secrets.token_urlsafe())'` prints them"
        )
    if token is None and not _is_loopback(host):
        raise AddressError(
            f"--host: {host} can be reached from other machines; give a --token too, or leave --host out and forward the "
            "port (ssh -L)"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """A socket at an address; port 0 is any that is free.

    Raises:
        AddressError: it cannot be had.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise AddressError(
            f"{host}:{port}: {error.strerror or error}; choose another --port or --host"
        ) from None


def server(app: App) -> uvicorn.Server:
    """What answers, and says nothing of it anywhere: ``run(sockets=[…])``."""
    return uvicorn.Server(
        uvicorn.Config(
            app, log_level="critical", access_log=False, server_header=False, date_header=False, ws="none",
            timeout_graceful_shutdown=1,
        )
    )  # fmt: skip
