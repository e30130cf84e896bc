"""A page as one file: the template environment, the style and the script, and what the browser may do.

The file needs no network and is allowed none: its Content-Security-Policy lets nothing in but the style
and the script it carries, named by their hashes, and images written into the page. Every text is escaped
by the template; the only markup passed through is drawn by `ddeval.report.figures`.
"""

import base64
import hashlib
import re
from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from ddeval.report.components import Page


def render(page: Page) -> str:
    """The page as HTML; the same page gives the same text."""
    style, script = _asset("style.css"), _asset("page.js")
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        loader=FunctionLoader(_asset),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["breakable"] = breakable
    environment.filters["commands"] = commands
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_source_hash(style)}'; "
        f"script-src '{_source_hash(script)}'; base-uri 'none'; form-action 'none'"
    )
    html = environment.get_template("page.html").render(
        page=page, style=Markup(style), script=Markup(script), csp=policy
    )
    return html.rstrip() + "\n"


def breakable(text: str) -> Markup:
    """Text, escaped, that may break into lines where a sign joins two parts of a checkpoint's name.

    >>> breakable("gen2a_port+<b>")
    Markup('gen2a_<wbr>port+&lt;b&gt;')
    """
    parts = re.split(r"(?<=[_+/])(?=\w)", text)
    return Markup("<wbr>").join(parts)


def commands(text: str) -> Markup:
    """Text, escaped, whose options of a command line do not break after their dashes.

    >>> commands("Pass --gate <b>")
    Markup('Pass <code class="flag">--gate</code> &lt;b&gt;')
    """
    parts = re.split(r"((?<!\S)--[a-z][a-z-]*)", text)
    return Markup("").join(
        Markup('<code class="flag">%s</code>') % part if i % 2 else escape(part)
        for i, part in enumerate(parts)
    )


def _asset(name: str) -> str:
    return (resources.files("ddeval.report") / "templates" / name).read_text(encoding="utf-8")


def _source_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
