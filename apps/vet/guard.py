"""The guard in front of everything: no session, no page, no photograph, no websocket.

Pure ASGI, so that it stands before Streamlit's own routes too. It also checks where a request that
changes something came from, and puts the security headers on every answer.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import SimpleCookie
from ipaddress import ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

from apps.vet.sign_on import CALLBACK, PATH
from ddeval.vet.accounts import account_of
from ddeval.vet.store import Store

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "ddeval_session"

CSP = (
    "default-src 'none'; script-src 'self' blob: 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "manifest-src 'self'; frame-ancestors 'none'; base-uri 'self'; form-action 'self'"
)
"""Streamlit needs inline scripts; nothing may be fetched from, or sent to, any other host."""


class Guard:
    """ASGI middleware that lets nothing through without a live session but log-in and health."""

    def __init__(
        self, app: App, *, store: Store, prefix: str, public_url: str, trusted_proxies: tuple[str, ...] = ()
    ) -> None:
        self.app = app
        self.store = store
        self.prefix = prefix
        self.public = urlsplit(public_url)
        self.proxies = tuple(ip_network(proxy) for proxy in trusted_proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        state = scope.setdefault("state", {})
        state["address"] = self._address(scope, headers)
        state["account"] = account_of(self.store, session_token(headers.get("cookie", "")))
        is_change = scope["type"] == "websocket" or scope.get("method") not in ("GET", "HEAD")
        if is_change and not self._is_same_origin(headers):
            await _refuse(scope, send, 403, "This request came from another site.")
            return
        if state["account"] is None and not self._is_public(scope["path"]):
            await self._ask_to_log_in(scope, send)
            return
        await self.app(scope, receive, self._with_headers(send))

    def _is_public(self, path: str) -> bool:
        own = path.removeprefix(self.prefix)
        return own in ("/login", PATH, CALLBACK, "/_stcore/health") or own.startswith("/link/")

    def _is_same_origin(self, headers: dict[str, str]) -> bool:
        """Browsers name the origin of a change; a client that is no browser has only its cookie."""
        origin = headers.get("origin")
        if origin is None:
            return headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")
        split = urlsplit(origin)
        if self.public.netloc:
            return (split.scheme, split.netloc) == (self.public.scheme, self.public.netloc)
        return split.netloc == headers.get("host")

    def _address(self, scope: Scope, headers: dict[str, str]) -> str:
        """Where the request came from; a forwarded address counts only from a proxy that was named."""
        peer = (scope.get("client") or ("unknown", 0))[0]
        forwarded = [part.strip() for part in headers.get("x-forwarded-for", "").split(",") if part.strip()]
        while forwarded and self._is_trusted(peer):
            peer = forwarded.pop()
        return str(peer)

    def _is_trusted(self, address: str) -> bool:
        try:
            return any(ip_address(address) in network for network in self.proxies)
        except ValueError:
            return False

    async def _ask_to_log_in(self, scope: Scope, send: Send) -> None:
        own = scope["path"].removeprefix(self.prefix)
        if scope["type"] == "http" and scope["method"] == "GET" and own in ("", "/"):
            location = f"{self.prefix}/login".encode()
            start = {"type": "http.response.start", "status": 303, "headers": [(b"location", location)]}
            await self._with_headers(send)(start)
            await send({"type": "http.response.body", "body": b""})
            return
        await _refuse(scope, send, 401, "Log in first.")

    def _with_headers(self, send: Send) -> Send:
        async def wrapped(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message.get("headers", [])}
                extra = [
                    (name, value)
                    for name, value in security_headers(self.public.scheme)
                    if name not in present
                ]
                message = {**message, "headers": [*message.get("headers", []), *extra]}
            await send(message)

        return wrapped


def security_headers(scheme: str) -> list[tuple[bytes, bytes]]:
    """Headers of every answer; the strict transport rule only where the public address is https."""
    headers = [
        (b"content-security-policy", CSP.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"x-frame-options", b"DENY"),
        (b"referrer-policy", b"same-origin"),
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"cross-origin-resource-policy", b"same-origin"),
        (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
        (b"cache-control", b"no-store"),
    ]
    if scheme == "https":
        headers.append((b"strict-transport-security", b"max-age=31536000"))
    return headers


def session_token(cookie_header: str) -> str | None:
    """The session token in a Cookie header."""
    cookies: SimpleCookie = SimpleCookie()
    for part in cookie_header.split(";"):  # one bad cookie of another site must not hide ours
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            cookies[COOKIE] = value
    return cookies[COOKIE].value if COOKIE in cookies else None


async def _refuse(scope: Scope, send: Send, status: int, text: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": text})
        return
    body = text.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        *security_headers(""),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
