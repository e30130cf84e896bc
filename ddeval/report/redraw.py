"""Is a page still what its tables say? It is drawn again and compared, text by text.

This finds what was changed in the page. Whether the tables follow from the predictions is another
question, asked by whoever can compute.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from html.parser import HTMLParser
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ddeval import io
from ddeval.errors import InputError
from ddeval.report.compare_page import compare_page, read_comparison
from ddeval.report.components import Page
from ddeval.report.html import run_page
from ddeval.report.inputs import read_run_tables
from ddeval.report.page import render


def provenance(page: Path) -> dict[str, Any]:
    """What a page says it was drawn from: `page`, `run`, `labels`, `date`, `photos`, `n_looks`."""
    found = _Texts(io.read_text(page)).provenance
    if not found:
        raise InputError(
            str(page),
            "no note of what it was drawn from",
            expected="a page of ddeval",
            todo="Check the path.",
        )
    return found


def changes(page: Path, run_folder: Path, *, looks: Sequence[Mapping[str, Any]] = ()) -> list[str]:
    """Every text of a run's page that is not what its tables say, one line each; [] when all is equal.

    Parameters
    ----------
    run_folder : Path
        The run the page names.
    looks : sequence of mappings
        The ledger as it is now; the page is compared with as many looks as it was drawn with.
    """
    told = provenance(page)
    if told["page"] != "run" or told["run"] != run_folder.name:
        raise InputError(
            str(page),
            f"a page of {told['run']}",
            expected=f"one of {run_folder.name}",
            todo="Pass the run folder the page names.",
        )
    run = read_run_tables(run_folder, label_version=told["labels"])
    return _changed(
        page, run_page(run, date=told["date"], photos=told["photos"], looks=looks[: told["n_looks"]])
    )


def comparison_changes(page: Path, folder: Path) -> list[str]:
    """As `changes`, of the page of the comparison in `folder`."""
    told = provenance(page)
    if told["page"] != "comparison":
        raise InputError(
            str(page),
            f"a page of a {told['page']}",
            expected="a page of a comparison",
            todo="Check the path.",
        )
    return _changed(page, compare_page(read_comparison(folder), date=told["date"], photos=told["photos"]))


def _changed(page: Path, again: Page) -> list[str]:
    drawn, found = render(again), io.read_text(page)
    lines = list(_differences(_Texts(found).texts, _Texts(drawn).texts))
    if not lines and found != drawn:
        lines.append("marks, drawings or photographs differ, but no text")
    return lines


def _differences(found: Sequence[tuple[str, str]], drawn: Sequence[tuple[str, str]]) -> Iterator[str]:
    for ours, theirs in zip_longest(found, drawn, fillvalue=("at the end", "")):
        if ours[1] != theirs[1]:
            yield f"{theirs[0]}: found {ours[1]!r}, the tables say {theirs[1]!r}"


class _Texts(HTMLParser):
    """Every text of a page with where it stands, and the page's own note of what it was drawn from."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[tuple[str, str]] = []
        self.provenance: dict[str, Any] = {}
        self._within, self._row, self._is_row_name = "head", "", False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        held = dict(attrs)
        if tag == "meta" and held.get("name") == "ddeval":
            self.provenance = json.loads(held.get("content") or "{}")
        if held.get("id"):
            self._within, self._row = str(held["id"]), ""
        self._is_row_name = False
        if held.get("title"):
            self.handle_data(str(held["title"]))
        self._is_row_name = tag == "th" and held.get("scope") == "row"

    def handle_data(self, data: str) -> None:
        text = " ".join(data.split())
        if text:
            if self._is_row_name:
                self._row, self._is_row_name = text, False
            where = f"{self._within}, row {self._row}" if self._row else self._within
            self.texts.append((where, text))
