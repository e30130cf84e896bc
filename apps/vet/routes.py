"""Routes beside Streamlit's: log-in, photographs, and the reader's exchange with the store.

An answer is acknowledged here, by HTTP and after its commit, together with the next case; a lost
acknowledgement is asked for again under the same nonce. Everything but log-in stands behind the guard.
"""

import json
from collections.abc import Awaitable, Callable
from html import escape
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from apps.vet.desk import Desk
from apps.vet.guard import COOKIE, session_token
from apps.vet.sign_on import CALLBACK, PATH, Provider, SignOn, flow_cookie
from ddeval.errors import InputError
from ddeval.vet import accounts, reading
from ddeval.vet.accounts import Account, Action, LogInRefused
from ddeval.vet.adjudication import next_hearing, record_adjudication
from ddeval.vet.batches import Batch
from ddeval.vet.consensus import Answer
from ddeval.vet.pairs import next_pair
from ddeval.vet.reading import Refused

MOST_BYTES = 64 * 1024
"""An answer is small; a larger body is not read."""

MOST_NUMBERS = 16
"""Display settings are a handful of numbers; more is no display."""

Handler = Callable[[Request], Awaitable[Response]]


def routes(desk: Desk, *, prefix: str, public_url: str, sign_on: SignOn | None = None) -> list[Route]:
    """All routes under `prefix` ("" or "/vet"); `sign_on` adds those of an OpenID provider."""
    is_https = urlsplit(public_url).scheme == "https"
    has_sign_on = sign_on is not None

    async def log_in_page(request: Request) -> Response:
        return _page(prefix, "Log in", _log_in_form(prefix, has_sign_on=has_sign_on))

    async def log_in(request: Request) -> Response:
        form = await _form(request)
        try:
            token = await run_in_threadpool(
                accounts.log_in,
                desk.store,
                form.get("name", ""),
                form.get("password", ""),
                address=request.state.address,
            )
        except LogInRefused as refusal:
            body = _log_in_form(
                prefix, message=str(refusal), name=form.get("name", ""), has_sign_on=has_sign_on
            )
            return _page(prefix, "Log in", body, status=429 if refusal.is_limited else 401)
        response = RedirectResponse(f"{prefix}/", status_code=303)
        set_session(response, token, prefix=prefix, is_https=is_https)
        return response

    async def log_out(request: Request) -> Response:
        token = session_token(request.headers.get("cookie", ""))
        if token:
            await run_in_threadpool(accounts.log_out, desk.store, token)
        response = RedirectResponse(f"{prefix}/login", status_code=303)
        response.delete_cookie(COOKIE, path=f"{prefix}/")
        return response

    async def link_page(request: Request) -> Response:
        return _page(prefix, "Choose a password", _password_form(request.url.path))

    async def use_link(request: Request) -> Response:
        form = await _form(request)
        token = request.path_params["token"]
        try:
            if form.get("password") != form.get("again"):
                raise InputError(
                    "password", "two different ones", expected="the same twice", todo="Type it again."
                )
            await run_in_threadpool(accounts.use_link, desk.store, token, form.get("password", ""))
        except InputError as error:
            message = f"Found {error.found}; expected {error.expected}. {error.todo}"
            return _page(prefix, "Choose a password", _password_form(request.url.path, message), status=400)
        except LogInRefused:
            text = "<p>This link was used already or is too old. Ask your admin for a new one.</p>"
            return _page(prefix, "Link no longer valid", text, status=410)
        return RedirectResponse(f"{prefix}/login", status_code=303)

    async def diagnoses(request: Request) -> Response:
        return JSONResponse(desk.diagnoses())

    async def screen(request: Request) -> Response:
        account, batch = _reader(request, desk)
        return JSONResponse(await run_in_threadpool(_next, desk, batch, account))

    async def answer(request: Request) -> Response:
        account, batch = _reader(request, desk)
        body = await _json(request)
        parsed, details = _answer(body, desk)

        def commit() -> dict[str, Any]:
            _name_photographs(details, desk, str(body["nonce"]), account)
            event = reading.record_reading(
                desk.store,
                batch,
                account.code,
                str(body["nonce"]),
                parsed,
                details=details,
                role=account.role,
            )
            return {"saved": event["seq"], "next": _next(desk, batch, account)}

        return JSONResponse(await run_in_threadpool(commit))

    async def draft(request: Request) -> Response:
        account, _ = _reader(request, desk)
        body = await _json(request)
        kept = await run_in_threadpool(
            reading.save_draft, desk.store, str(body["nonce"]), account.code, dict(body.get("draft") or {})
        )
        return JSONResponse({"kept": kept})

    async def aside(request: Request) -> Response:
        account, batch = _reader(request, desk)
        body = await _json(request)

        def commit() -> dict[str, Any]:
            event = reading.set_aside(
                desk.store,
                batch,
                account.code,
                str(body["nonce"]),
                "report" if body.get("kind") == "report" else "skip",
                reason=str(body.get("reason") or ""),
            )
            return {"saved": event["seq"], "next": _next(desk, batch, account)}

        return JSONResponse(await run_in_threadpool(commit))

    async def undo(request: Request) -> Response:
        account, batch = _reader(request, desk)
        body = await _json(request)

        def commit() -> dict[str, Any]:
            shown = reading.undo(desk.store, batch, account.code, reason=str(body.get("reason") or "undone"))
            return {"next": desk.screen(shown, account, batch)}

        return JSONResponse(await run_in_threadpool(commit))

    async def hearing(request: Request) -> Response:
        account, batch = _reader(request, desk, action="adjudicate")
        return JSONResponse(await run_in_threadpool(_next_hearing, desk, batch, account))

    async def adjudicate(request: Request) -> Response:
        account, batch = _reader(request, desk, action="adjudicate")
        body = await _json(request)
        parsed, details = _answer(body, desk)

        def commit() -> dict[str, Any]:
            event = record_adjudication(
                desk.store, batch, account.code, str(body["nonce"]), parsed, details=details
            )
            return {"saved": event["seq"], "next": _next_hearing(desk, batch, account)}

        return JSONResponse(await run_in_threadpool(commit))

    async def log_out_page(request: Request) -> Response:
        if (
            request.headers.get("sec-fetch-site") == "same-origin"
        ):  # a link of our own page, not of another site
            return await log_out(request)
        body = f'<form method="post" action="{prefix}/logout"><button>Log out</button></form>'
        return _page(prefix, "Leave?", f"{body}<p><a href='{prefix}/'>Back to the cases</a></p>")

    async def photograph(request: Request) -> Response:
        account, batch = _reader(request, desk)
        nonce, number = request.path_params["nonce"], request.path_params["number"]

        def fetch() -> bytes:
            case_id = _case_on_screen(desk, batch, account, nonce)
            return desk.photograph(case_id, number, is_full=request.query_params.get("size") == "full")

        return Response(
            await run_in_threadpool(fetch),
            media_type="image/jpeg",
            background=BackgroundTask(desk.prepare, batch, account) if number == 0 else None,
        )

    async def paired(request: Request) -> Response:
        _, batch = _reader(request, desk, action="adjudicate")
        side = request.path_params["side"]

        def fetch() -> bytes:
            pair = next_pair(desk.store, batch)
            if pair is None or pair.pair != request.path_params["pair"] or side not in ("a", "b"):
                raise _Forbidden("This pair is not to be decided now.")
            return desk.picture(pair.image_id_a if side == "a" else pair.image_id_b, is_full=True)

        return Response(await run_in_threadpool(fetch), media_type="image/jpeg")

    table: list[tuple[str, str, Handler]] = [
        ("/login", "GET", log_in_page),
        ("/login", "POST", log_in),
        ("/logout", "GET", log_out_page),
        ("/logout", "POST", log_out),
        ("/link/{token}", "GET", link_page),
        ("/link/{token}", "POST", use_link),
        ("/api/diagnoses", "GET", diagnoses),
        ("/api/screen", "GET", screen),
        ("/api/answer", "POST", answer),
        ("/api/draft", "POST", draft),
        ("/api/aside", "POST", aside),
        ("/api/undo", "POST", undo),
        ("/api/hearing", "GET", hearing),
        ("/api/adjudicate", "POST", adjudicate),
        ("/api/photograph/{nonce}/{number:int}", "GET", photograph),
        ("/api/pair/{pair:int}/{side}", "GET", paired),
    ]
    made = [Route(prefix + path, _told(handler), methods=[method]) for path, method, handler in table]
    return made + (_sign_on_routes(desk, sign_on, prefix=prefix, public_url=public_url) if sign_on else [])


def _sign_on_routes(desk: Desk, sign_on: SignOn, *, prefix: str, public_url: str) -> list[Route]:
    """To the provider and back; whoever comes back with a known, active account has a session of ours."""
    provider = Provider(sign_on)
    is_https = urlsplit(public_url).scheme == "https"

    async def begin(request: Request) -> Response:
        own = public_url.rstrip("/") or f"{request.url.scheme}://{request.url.netloc}"
        try:
            return await provider.begin(request, callback=own + CALLBACK)  # type: ignore[no-any-return]
        except Exception:  # the provider is away
            text = "<p>The sign-on service does not answer. Log in with your password, or try again.</p>"
            return _page(prefix, "Not now", f"{text}{_back_to_log_in(prefix)}", status=502)

    async def callback(request: Request) -> Response:
        account = await provider.account(request, desk.store)
        if account is None:
            text = "<p>The sign-on service did not name an account of this server. Ask your admin.</p>"
            return _page(prefix, "Not logged in", f"{text}{_back_to_log_in(prefix)}", status=403)
        token = await run_in_threadpool(accounts.open_session, desk.store, account.code)
        response = RedirectResponse(f"{prefix}/", status_code=303)
        set_session(response, token, prefix=prefix, is_https=is_https)
        return response

    flow = [flow_cookie(prefix=prefix, is_https=is_https)]
    return [
        Route(prefix + PATH, begin, methods=["GET"], middleware=flow),
        Route(prefix + CALLBACK, callback, methods=["GET"], middleware=flow),
    ]


def set_session(response: Response, token: str, *, prefix: str, is_https: bool) -> None:
    """The session cookie: unreadable to scripts, kept to this site, and to https where there is https."""
    response.set_cookie(
        COOKIE,
        token,
        max_age=int(accounts.SESSION_MOST.total_seconds()),
        path=f"{prefix}/",
        secure=is_https,
        httponly=True,
        samesite="lax",
    )


class _Forbidden(Exception):
    """The account may not do this, or the batch is not open."""


def _told(handler: Handler) -> Handler:
    """The handler with every refusal as JSON a person can read, and nothing else about what went wrong."""

    async def told(request: Request) -> Response:
        try:
            return await handler(request)
        except Refused as refusal:
            return JSONResponse({"code": refusal.code, "message": str(refusal)}, status_code=409)
        except _Forbidden as refusal:
            return JSONResponse({"code": "forbidden", "message": str(refusal)}, status_code=403)
        except InputError as error:
            return JSONResponse(
                {"code": "bad_answer", "message": f"{error.found}. {error.todo}"}, status_code=400
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            return JSONResponse(
                {"code": "bad_answer", "message": "The request was not understood. Nothing was saved."},
                status_code=400,
            )

    return told


def _reader(request: Request, desk: Desk, *, action: Action = "read") -> tuple[Account, Batch]:
    """The account behind a request, if it may do that, and the batch it asks for."""
    account: Account | None = getattr(request.state, "account", None)
    if account is None or not account.may(action):
        raise _Forbidden(f"Your account does not {action} cases.")
    batch = desk.batch_of(request.query_params.get("batch"))
    if batch is not None and action == "read" and not batch.is_assigned_to(account.code):
        raise _Forbidden("This batch is not assigned to you.")
    if batch is None:
        raise Refused("closed", "There is no open batch to read. Nothing was saved.")
    return account, batch


def _next(desk: Desk, batch: Batch, account: Account) -> dict[str, Any] | None:
    shown = reading.next_case(desk.store, batch, account.code)
    return None if shown is None else desk.screen(shown, account, batch)


def _next_hearing(desk: Desk, batch: Batch, account: Account) -> dict[str, Any] | None:
    heard = next_hearing(desk.store, batch, account.code, class_of=desk.class_of, at_hand=desk.photographs)
    return None if heard is None else desk.hearing(heard, batch)


def _case_on_screen(desk: Desk, batch: Batch, account: Account, nonce: str) -> str:
    """The case behind a nonce, if it is on this account's screen: a photograph is shown to no one else."""
    case_id = reading.case_on_screen(desk.store, nonce, account.code)
    if case_id is None:
        raise _Forbidden("This photograph is not on your screen.")
    return case_id


def _answer(body: dict[str, Any], desk: Desk) -> tuple[Answer, dict[str, Any]]:
    """The answer in a request; names must be diagnoses of the conditions file."""
    names = tuple(desk.conditions.find(str(name)).name for name in body.get("diagnoses") or ())
    if len(names) > 3 or len(set(names)) < len(names):
        raise Refused("bad_answer", "Give up to three different diagnoses. Nothing was saved.")
    confidences = tuple(int(c) for c in body.get("confidences") or ())
    if not all(1 <= c <= 5 for c in confidences):
        raise Refused("bad_answer", "Confidence has five bands. Nothing was saved.")
    answer = Answer(names, confidences, body.get("exit"), bool(body.get("more_than_one_disease")))
    return answer, _details(body)


def _details(body: dict[str, Any]) -> dict[str, Any]:
    """What may be stored beside the diagnoses; anything else in a request is left out or refused."""
    gradable, sure, display = body.get("gradable"), body.get("sure"), body.get("display") or {}
    if gradable not in (None, "", "yes", "partly", "no") or sure not in (None, 1, 2, 3, 4, 5):
        raise Refused("bad_answer", "The request was not understood. Nothing was saved.")
    numbers = {str(k)[:32]: round(float(v), 3) for k, v in display.items()}
    details = {
        "gradable": gradable,
        "note": str(body.get("note") or ""),
        "sure": sure,
        "poor_photographs": [int(n) for n in body.get("poor_photographs") or ()],
        "display": numbers if len(numbers) <= MOST_NUMBERS else {},
    }
    return {name: value for name, value in details.items() if value not in (None, "", [], {})}


def _name_photographs(details: dict[str, Any], desk: Desk, nonce: str, account: Account) -> None:
    """Marks of single photographs by image id: a browser knows them by number, a manifest by id."""
    case_id = reading.case_on_screen(desk.store, nonce, account.code)
    case_id = case_id or reading.case_answered(desk.store, nonce, account.code)  # sent again after its commit
    ids = desk.photographs.get(case_id or "", [])
    if marked := [ids[n] for n in details.pop("poor_photographs", ()) if 0 <= n < len(ids)]:
        details["poor_photographs"] = marked


async def _json(request: Request) -> dict[str, Any]:
    content = await _body(request)
    value = json.loads(content)
    if not isinstance(value, dict):
        raise TypeError("a JSON object is expected")
    return value


async def _body(request: Request) -> bytes:
    content = b""
    async for chunk in request.stream():
        content += chunk
        if len(content) > MOST_BYTES:
            raise Refused("bad_answer", "That is more than an answer can hold. Nothing was saved.")
    return content


async def _form(request: Request) -> dict[str, str]:
    return dict(parse_qsl((await _body(request)).decode("utf-8", "replace"), keep_blank_values=True))


def _log_in_form(prefix: str, *, message: str = "", name: str = "", has_sign_on: bool = False) -> str:
    link = f'<p><a href="{prefix}{PATH}">Log in with your organisation</a></p>' if has_sign_on else ""
    return f"""<form method="post" action="{prefix}/login">
{_alert(message)}
<label for="name">Reader code or e-mail</label>
<input id="name" name="name" autocomplete="username" required autofocus value="{escape(name)}">
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required>
<button>Log in</button>
{link}</form>"""


def _back_to_log_in(prefix: str) -> str:
    return f'<p><a href="{prefix}/login">Back to log-in</a></p>'


def _password_form(action: str, message: str = "") -> str:
    return f"""<form method="post" action="{escape(action)}">
{_alert(message)}
<p>At least 12 characters. Three or four unrelated words do well.</p>
<label for="password">New password</label>
<input id="password" name="password" type="password" autocomplete="new-password" minlength="12"
 required autofocus>
<label for="again">The same again</label>
<input id="again" name="again" type="password" autocomplete="new-password" minlength="12" required>
<button>Set password</button>
</form>"""


def _alert(message: str) -> str:
    return f'<p role="alert">{escape(message)}</p>' if message else ""


STYLE = """
:root { color-scheme: light dark; --ink: #1c2126; --paper: #f6f7f8; --card: #fff; --line: #8a949e;
  --accent: #0b5c8f; --bad: #a3261b }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ecf0; --paper: #14181c; --card: #1d2329;
  --line: #7c8792; --accent: #7cc0ee; --bad: #ff9d92 } }
* { box-sizing: border-box } body { margin: 0; min-height: 100vh; display: grid; place-items: center;
  background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
main { width: min(24rem, 92vw); padding: 2rem; background: var(--card); border-radius: .75rem;
  box-shadow: 0 1px 3px #0003 }
h1 { margin: 0 0 1rem; font-size: 1.35rem } label { display: block; margin: 1rem 0 .4rem; font-weight: 600 }
.mark { margin: 0 0 .25rem; font-size: .9rem; opacity: .8 }
input { width: 100%; min-height: 44px; padding: .5rem .75rem; font: inherit; color: inherit;
  background: transparent; border: 1px solid var(--line); border-radius: .4rem }
button { width: 100%; min-height: 44px; margin-top: 1.5rem; border: 0; border-radius: .4rem; font: inherit;
  font-weight: 600; color: var(--card); background: var(--accent); cursor: pointer }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px }
a { color: var(--accent) }
[role=alert] { color: var(--bad); font-weight: 600 }
"""


def _page(prefix: str, title: str, body: str, *, status: int = 200) -> HTMLResponse:
    """A page of ours, without a script: its policy is stricter than Streamlit's."""
    html = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)} · ddeval vet</title><style>{STYLE}</style></head>
<body><main><p class="mark">ddeval vet</p><h1>{escape(title)}</h1>{body}</main></body></html>"""
    policy = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
    return HTMLResponse(html, status_code=status, headers={"content-security-policy": policy})
