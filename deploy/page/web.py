"""The page over HTTP: addresses, headers, the stream; nothing of what is shown.

Every answer is for a request that names this page as its host, and every one but that of the door is for a browser that
was let in. A request that changes something must come from a form of this page: by its Origin (RFC 6454, 7), by the
token of the browser's own visit, and by a second click.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs

from jinja2 import Environment, FileSystemLoader, select_autoescape
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from deploy.page.gate import SESSION_SECONDS, Gate, Visit
from deploy.page.sheet import Face, Section, Sheet
from deploy.report.page import STYLE
from messages.ground.errors import KonsilError
from messages.ground.shown import escape_controls
from messages.ground.units import human_moment

HERE = Path(__file__).parent
COOKIE = "konsil-page"
MOST_BODY = 4096
LOOK_EVERY, PULSE_EVERY = 1.0, 3.0
"""Seconds: between two looks at what changed, and between two signs of life."""
MOST_STREAMS = 32
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
"""W3C CSP 3: nothing from elsewhere, and nothing inline."""
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
    "x-frame-options": "DENY",
}


class OrderDesk(Protocol):
    """Who carries out what the page's reader orders."""

    def describe_order(self, order: Mapping[str, str]) -> str:
        """What would be done, in words; RequestError: it is no order."""

    def carry_out(self, order: Mapping[str, str], login: str) -> str:
        """Do it, and say so; KonsilError: it was not done."""

    def list_orders(self) -> list[tuple[dict[str, str], str]]:
        """Orders that can be given now, with the words of their buttons."""


@dataclass
class WebSettings:
    """How a page is reached. `hosts`: what a request may name as its host; `scheme`: http or https."""

    hosts: frozenset[str]
    scheme: str = "http"
    port: int = 0
    """Browsers give a host's cookies to all its ports (RFC 6265, 8.5): each page has a cookie by its own port."""

    @property
    def cookie(self) -> str:
        """The cookie's name."""
        return f"{COOKIE}-{self.port}" if self.port else COOKIE


class Web:
    """The application.

    Args:
        desk: carries out orders; None: the page only shows.
        wall: the clock, seconds since 1970.
    """

    def __init__(
        self, face: Face, gate: Gate, settings: WebSettings, wall: Callable[[], float], desk: OrderDesk | None = None
    ) -> None:
        self._face, self._gate, self._settings, self._wall, self._desk = face, gate, settings, wall, desk
        self._pages = Environment(
            loader=FileSystemLoader(HERE / "templates"), autoescape=select_autoescape(), trim_blocks=True
        )
        self._pages.filters["plain"] = escape_controls
        self._drawn: dict[tuple[str, tuple[str, ...]], tuple[float, Sheet | None]] = {}
        self._streams = 0  # open ones
        self.ending = False
        self._own = {
            "page.css": ("text/css", STYLE + (HERE / "static" / "page.css").read_text()),
            "page.js": ("text/javascript", (HERE / "static" / "page.js").read_text()),
            "icon.svg": ("image/svg+xml", (HERE / "static" / "icon.svg").read_text()),
        }
        routes = [
            Route("/static/{name}", self._give_own),
            Route("/open/{secret}", self._open_by_link),
            Route("/login", self._log_in, methods=["GET", "POST"]),
            Route("/order", self._propose_order, methods=["POST"]),
            Route("/order/confirm", self._carry_out, methods=["POST"]),
            Route("/stream{path:path}", self._stream),
            Route("/file{path:path}", self._give_file),
            Route("/{path:path}", self._show),
        ]
        self.app: ASGIApp = Guard(Starlette(routes=routes), settings)

    # who it is

    def _visit(self, request: Request) -> Visit | None:
        return self._gate.find_visit(request.cookies.get(self._settings.cookie))

    def _turn_away(self, status: int = 403) -> Response:
        if self._gate.logins is not None:
            return RedirectResponse("/login", 303)
        told = "Open this page by the link that its command printed. It works once: start the command again for another"
        return self._tell("Not let in", told, status)

    def _tell(self, title: str, lead: str, status: int, sections: tuple[Section, ...] = ()) -> Response:
        sheet = Sheet(title, lead, sections, None, links=(("/", "Overview"),))
        return HTMLResponse(self._render(sheet, ""), status)

    def _let_in(self, cookie: str) -> Response:
        # A page of its own, and no redirect: the browser sends a strict cookie only to where it came from itself.
        answer = HTMLResponse(
            '<!doctype html><html lang="en"><meta charset="utf-8"><title>Konsil</title>'
            '<meta http-equiv="refresh" content="0;url=/"><p><a href="/">To the page</a></p></html>'
        )
        answer.set_cookie(
            self._settings.cookie,
            cookie,
            max_age=int(SESSION_SECONDS),
            httponly=True,
            samesite="strict",
            secure=self._settings.scheme == "https",
        )
        return answer

    async def _open_by_link(self, request: Request) -> Response:
        cookie = self._gate.use_link(request.path_params["secret"])
        return self._turn_away() if cookie is None else self._let_in(cookie)

    async def _log_in(self, request: Request) -> Response:
        if self._gate.logins is None:
            return self._turn_away()
        if request.method == "GET":
            return self._ask_password()
        form = await _read_form(request)
        cookie = await run_in_threadpool(self._gate.try_password, form.get("name", ""), form.get("password", ""))
        return self._ask_password(401) if cookie is None else self._let_in(cookie)

    def _ask_password(self, status: int = 200) -> Response:
        form = (
            '<form method="post" action="/login"><label>Login <input name="name" autocomplete="username" required>'
            '</label><label>Password <input name="password" type="password" autocomplete="current-password" required>'
            "</label><button>Log in</button></form>"
        )
        lead = (
            "Login or password is wrong, or too many were wrong before" if status == 401 else "Log in to see this page"
        )
        return self._tell("Konsil", lead, status, (Section("Login", form),))

    # what is shown

    async def _show(self, request: Request) -> Response:
        visit = self._visit(request)
        if visit is None:
            return self._turn_away()
        path, chosen = request.url.path, tuple(request.query_params.getlist("id")[:16])
        sheet = await run_in_threadpool(self._find_sheet, path, chosen)
        if sheet is None:
            return self._tell("Not here", "There is no such page", 404)
        query = f"?{request.url.query}" if request.url.query else ""
        return HTMLResponse(self._render(self._with_orders(sheet, path, visit), f"/stream{path}{query}"))

    def _find_sheet(self, path: str, chosen: tuple[str, ...]) -> Sheet | None:
        """The sheet as it was a moment ago: several readers, and a stream beside its page, cost one."""
        now, key = self._wall(), (path, chosen)
        at, sheet = self._drawn.get(key, (0.0, None))
        if not 0 <= now - at < LOOK_EVERY / 2 or sheet is None:
            sheet = self._face.find_sheet(path, chosen, now)
            if len(self._drawn) > 64:
                self._drawn.clear()
            self._drawn[key] = (now, sheet)
        return sheet

    def _render(self, sheet: Sheet, stream: str) -> str:
        now = self._wall()
        plain = Sheet(
            escape_controls(sheet.title), escape_controls(sheet.lead), (), sheet.heard_at,
            tuple(map(escape_controls, sheet.trouble)),
            tuple((one, escape_controls(words)) for one, words in sheet.links),
        )  # fmt: skip
        return self._pages.get_template("page.html").render(
            sheet=plain,
            sections=sheet.shown_sections(),
            fresh=sheet.is_fresh(now) or not stream,
            age=sheet.tell_age(now),
            who=escape_controls(self._face.name),
            stream=stream,
            made=human_moment(now),
            orders=self._desk is not None,
        )

    async def _stream(self, request: Request) -> Response:
        visit = self._visit(request)
        path, chosen = request.path_params["path"], tuple(request.query_params.getlist("id")[:16])
        if visit is None:
            return PlainTextResponse("not let in", 403)
        if self._streams >= MOST_STREAMS:
            return PlainTextResponse("too many readers", 503)
        query = f"?{request.url.query}" if request.url.query else ""
        told = self._tell_changes(path, chosen, visit, f"/stream{path}{query}")
        return StreamingResponse(told, media_type="text/event-stream", headers={"x-accel-buffering": "no"})

    async def _tell_changes(self, path: str, chosen: tuple[str, ...], visit: Visit, stream: str) -> AsyncIterator[str]:
        """Server-sent events (WHATWG HTML, 9.2): the whole page where it changed, and a pulse."""
        self._streams += 1
        before, pulsed = "", 0.0
        loop = asyncio.get_running_loop()
        try:
            while not self.ending and visit.until > self._gate.now():
                sheet = await run_in_threadpool(self._find_sheet, path, chosen)
                if sheet is None:
                    return
                shown = self._with_orders(sheet, path, visit)
                mark = sha256(repr((shown.title, shown.lead, shown.trouble, shown.sections)).encode()).hexdigest()
                now = self._wall()
                if before not in ("", mark):
                    yield _event("sheet", self._render(shown, stream))
                if before != mark or loop.time() - pulsed >= PULSE_EVERY:
                    pulsed = loop.time()
                    yield _event("pulse", {"fresh": shown.is_fresh(now), "age": shown.tell_age(now)})
                before = mark
                await asyncio.sleep(LOOK_EVERY)
        finally:
            self._streams -= 1

    async def _give_file(self, request: Request) -> Response:
        if self._visit(request) is None:
            return self._turn_away()
        found = await run_in_threadpool(self._face.find_file, request.path_params["path"])
        if found is None:
            return self._tell("Not here", "There is no such file", 404)
        name, text = found
        # To be taken away, and not to be shown here: a report brings a style of its own.
        told = {"content-disposition": f'attachment; filename="{name}"'}
        return Response(text, media_type="application/octet-stream", headers=told)

    async def _give_own(self, request: Request) -> Response:
        found = self._own.get(request.path_params["name"])
        if found is None:
            return PlainTextResponse("not here", 404)
        return Response(found[1], media_type=found[0])

    # what is ordered

    def _with_orders(self, sheet: Sheet, path: str, visit: Visit) -> Sheet:
        if self._desk is None or path != "/":
            return sheet
        buttons = "".join(
            self._button({**order, "token": visit.token}, words, "/order") for order, words in self._desk.list_orders()
        )
        return Sheet(
            sheet.title, sheet.lead, (*sheet.sections[:1], Section("Orders", buttons), *sheet.sections[1:]),
            sheet.heard_at, sheet.trouble, sheet.links,
        )  # fmt: skip

    def _button(self, fields: Mapping[str, str], words: str, action: str) -> str:
        page = self._pages.from_string(
            '<form method="post" action="{{ action }}">{% for name, value in fields.items() %}'
            '<input type="hidden" name="{{ name }}" value="{{ value }}">{% endfor %}'
            '<button{% if grave %} class="grave"{% endif %}>{{ words }}</button></form>'
        )
        return page.render(action=action, fields=fields, words=words, grave=action != "/order")

    async def _read_order(self, request: Request) -> tuple[Visit, OrderDesk, dict[str, str]] | Response:
        visit = self._visit(request)
        if visit is None:
            return self._turn_away()
        if self._desk is None:
            return self._tell("Not allowed", "This page takes no orders: start it with --allow-orders", 403)
        form = await _read_form(request)
        if not _is_same(form.pop("token", ""), visit.token):
            return self._tell("Not done", "This order did not come from this page", 403)
        return visit, self._desk, form

    async def _propose_order(self, request: Request) -> Response:
        found = await self._read_order(request)
        if isinstance(found, Response):
            return found
        visit, desk, form = found
        try:
            words = await run_in_threadpool(desk.describe_order, form)
        except KonsilError as error:
            return self._tell("Not done", str(error), 400)
        name = visit.propose_order(form, self._wall())
        again = self._button({"order": name, "token": visit.token}, "Yes, do it", "/order/confirm")
        return self._tell(
            "Are you sure?", f"{words} It is logged under {visit.login}.", 200, (Section("Confirm", again),)
        )

    async def _carry_out(self, request: Request) -> Response:
        found = await self._read_order(request)
        if isinstance(found, Response):
            return found
        visit, desk, form = found
        order = visit.take_order(form.get("order", ""), self._wall())
        if order is None:
            return self._tell("Not done", "This order was given already, or is too old", 400)
        try:
            told = await run_in_threadpool(desk.carry_out, order, visit.login)
        except KonsilError as error:
            return self._tell("Not done", str(error), 409)
        return self._tell("Done", told, 200)


class Guard:
    """Hears only who names this page as its host, and takes changes from its own pages alone; sets every header."""

    def __init__(self, app: ASGIApp, settings: WebSettings) -> None:
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # a WebSocket: there is none here
            return

        async def send_guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                known = [(name, value) for name, value in message.get("headers", []) if name.decode() not in HEADERS]
                message = {**message, "headers": known + [(n.encode(), v.encode()) for n, v in HEADERS.items()]}
            await send(message)

        refusal = self._judge(scope)
        answer: Callable[[Scope, Receive, Send], Awaitable[None]] = refusal or self._app
        await answer(scope, receive, send_guarded)

    def _judge(self, scope: Scope) -> Response | None:
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        hosts = headers.get("host", [])
        if len(hosts) != 1 or hosts[0].lower() not in self._settings.hosts:
            return PlainTextResponse("this page is not that host", 421)
        origin = headers.get("origin", [])
        own = f"{self._settings.scheme}://{hosts[0].lower()}"
        if origin and [one.lower() for one in origin] != [own]:
            return PlainTextResponse("a request of another page", 403)
        if scope["method"] not in ("GET", "HEAD") and not origin:
            return PlainTextResponse("a request that does not say where it comes from", 403)
        return None


def _is_same(one: str, other: str) -> bool:
    import hmac

    return hmac.compare_digest(one.encode(), other.encode())


def _event(name: str, value: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(value)}\n\n"


async def _read_form(request: Request) -> dict[str, str]:
    """Fields of a form; empty where it is none, or too long. Of a field that comes twice the first counts."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_BODY:
            return {}
    try:
        found = parse_qs(body.decode("ascii"), strict_parsing=True, max_num_fields=8, encoding="utf-8", errors="strict")
    except ValueError:
        return {}
    return {name: values[0] for name, values in found.items()}
