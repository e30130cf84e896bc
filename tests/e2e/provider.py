"""A small OpenID provider on loopback: one button a person, authorization code with PKCE, RS256."""

import base64
import hashlib
import secrets
import threading
import time
from typing import Any
from urllib.parse import parse_qsl, urlencode

import uvicorn
from joserfc import jwt
from joserfc.jwk import RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.e2e.vet_server import free_port

PEOPLE: dict[str, dict[str, Any]] = {
    "anna": {"email": "anna@clinic.example", "email_verified": True},
    "unproved": {"email": "anna@clinic.example", "email_verified": False},
    "unsaid": {"email": "anna@clinic.example"},
    "stranger": {"email": "stranger@clinic.example", "email_verified": True},
    "other-audience": {"email": "anna@clinic.example", "email_verified": True, "aud": "another"},
    "other-issuer": {"email": "anna@clinic.example", "email_verified": True, "iss": "http://evil.example"},
    "late": {"email": "anna@clinic.example", "email_verified": True, "exp": 1},
    "replayed": {"email": "anna@clinic.example", "email_verified": True, "nonce": "another"},
}
"""Who logs in, and what the provider says of them; only the first proves an account."""


class IdentityProvider:
    """Serves in a thread until `end`."""

    def __init__(self) -> None:
        self.port = free_port()
        self.issuer = f"http://127.0.0.1:{self.port}"
        self.key = RSAKey.generate_key(2048, {"kid": "k", "use": "sig", "alg": "RS256"})
        self.codes: dict[str, dict[str, str]] = {}
        routes = [
            Route("/.well-known/openid-configuration", self.discovery),
            Route("/authorize", self.authorize),
            Route("/token", self.token, methods=["POST"]),
            Route("/keys", self.keys),
        ]
        config = uvicorn.Config(
            Starlette(routes=routes), host="127.0.0.1", port=self.port, log_level="error", ws="none"
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.02)

    def end(self) -> None:
        self.server.should_exit = True
        self.thread.join()

    async def discovery(self, request: Request) -> Response:
        return JSONResponse(
            {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/keys",
                "id_token_signing_alg_values_supported": ["RS256"],
            }
        )

    async def keys(self, request: Request) -> Response:
        return JSONResponse({"keys": [self.key.as_dict(private=False)]})

    async def authorize(self, request: Request) -> Response:
        asked = dict(request.query_params)
        who = asked.pop("who", None)
        if who is None:
            links = [f"<a id='{n}' href='?{urlencode({**asked, 'who': n})}'>{n}</a>" for n in PEOPLE]
            return HTMLResponse(" ".join(links))
        code = secrets.token_hex(8)
        self.codes[code] = {**asked, "who": who}
        back = urlencode({"code": code, "state": asked["state"]})
        return RedirectResponse(f"{asked['redirect_uri']}?{back}", status_code=302)

    async def token(self, request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode()))
        asked = self.codes.pop(form["code"])
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        basic = base64.b64encode(b"vet:a secret of the tests").decode()
        proved = asked["code_challenge_method"] == "S256" and asked["code_challenge"] == challenge
        if not proved or request.headers.get("authorization") != f"Basic {basic}":
            return JSONResponse({"error": "invalid_grant"}, status_code=400)
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": "vet",
            "sub": asked["who"],
            "iat": now,
            "exp": now + 300,
            "nonce": asked["nonce"],
            **PEOPLE[asked["who"]],
        }
        signed = jwt.encode({"alg": "RS256", "kid": "k"}, claims, self.key)
        return JSONResponse({"access_token": "x", "token_type": "Bearer", "id_token": signed})
