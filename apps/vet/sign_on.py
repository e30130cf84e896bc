"""Single sign-on: an identity proved by an OpenID provider opens a session of the account with that address.

The provider only says who somebody is. Who may come in, and as what, the accounts say; the session is the
same as after a password, so that it can be ended here. Why Streamlit's own log-in is not used is in
docs/decisions/0011-single-sign-on.md.
"""

import logging
import os
import secrets
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from ddeval.errors import InputError
from ddeval.vet.accounts import Account, account_by_email
from ddeval.vet.store import Store

SECRET = "DDEVAL_OIDC_SECRET"
"""Environment variable of the client secret: a command line can be read by every user of the machine."""

PATH, CALLBACK = "/login/oidc", "/login/callback"
MINUTES = 10
"""How long a log-in may take at the provider."""


@dataclass(frozen=True)
class SignOn:
    """One OpenID provider, and this server as it knows it."""

    issuer: str
    """Address the provider's `.well-known/openid-configuration` lies under; https but on this machine."""
    client_id: str
    client_secret: str = field(repr=False)

    def __post_init__(self) -> None:
        split = urlsplit(self.issuer)
        if split.scheme != "https" and not _is_this_machine(split.hostname or ""):
            raise InputError(
                f"--oidc-issuer {self.issuer}",
                "an address that is not https",
                expected="https://…, as the provider states its issuer",
                todo="Take it from the provider's openid-configuration.",
            )
        if not self.client_id or not self.client_secret:
            raise InputError(
                "--oidc-issuer",
                "no client id or no secret",
                expected=f"both: --oidc-client and the environment variable {SECRET}",
                todo="Register this server with the provider; docs/deploy.md says how.",
            )


def read_sign_on(issuer: str, client_id: str) -> SignOn | None:
    """The provider named on the command line, with its secret from the environment; None without one."""
    return SignOn(issuer.rstrip("/"), client_id, os.environ.get(SECRET, "")) if issuer else None


class Provider:
    """The exchange with one provider: authorization code with PKCE, state and nonce."""

    def __init__(self, sign_on: SignOn) -> None:
        from authlib.integrations.starlette_client import OAuth

        self.sign_on = sign_on
        self.client = OAuth().register(
            "provider",
            client_id=sign_on.client_id,
            client_secret=sign_on.client_secret,
            server_metadata_url=f"{sign_on.issuer}/.well-known/openid-configuration",
            client_kwargs={"scope": "openid email", "code_challenge_method": "S256"},
        )

    async def begin(self, request: Any, *, callback: str) -> Any:
        """The redirect to the provider."""
        return await self.client.authorize_redirect(request, callback)

    async def account(self, request: Any, store: Store) -> Account | None:
        """The account of whoever comes back from the provider; None when nothing proves one.

        The address must be one the provider has verified itself: elsewhere anyone may claim any.
        """
        claims_options = {
            "iss": {"essential": True, "values": [self.sign_on.issuer]},
            "aud": {"essential": True, "value": self.sign_on.client_id},
        }
        try:
            token = await self.client.authorize_access_token(request, claims_options=claims_options)
            claims = token["userinfo"]
        except Exception as error:  # whatever a provider or a forger sends, the browser learns nothing of it
            logging.getLogger("ddeval.vet").warning("single sign-on failed: %s", type(error).__name__)
            return None
        if claims.get("email_verified") is not True or not claims.get("email"):
            logging.getLogger("ddeval.vet").warning("single sign-on: no verified address in the answer")
            return None
        return account_by_email(store, str(claims["email"]))


def flow_cookie(*, prefix: str, is_https: bool) -> Any:
    """Middleware for the two routes: state, nonce and PKCE of one log-in, in a signed cookie of their own."""
    from starlette.middleware import Middleware
    from starlette.middleware.sessions import SessionMiddleware

    return Middleware(
        SessionMiddleware,
        secret_key=secrets.token_hex(32),
        session_cookie="ddeval_sign_on",
        path=f"{prefix}/login",
        max_age=MINUTES * 60,
        same_site="lax",
        https_only=is_https,
    )


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
