"""The page of a run: one file that says what stands in the tables, and lets nothing else in."""

import html
import re
import subprocess
import sys
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ddeval import io
from ddeval.errors import InputError
from ddeval.report import headline, measures, redraw
from ddeval.report.cells import estimates_table
from ddeval.report.html import write_run_report
from ddeval.report.inputs import Number, RunTables, read_run_tables
from tests.report_fixture import CLASSES, make_run

DATE = "2026-07-01"
PAYLOADS = (
    "<script>document.title='owned'</script>", "<img src=x onerror=\"document.title='owned'\">",
    "\"><svg onload=document.title='owned'>",
    "' onmouseover='document.title=1", "</style><script>alert(1)</script>",
    "{{ 7 * 7 }}", "{% include 'page.html' %}", "javascript:alert(1)", "&lt;b&gt;", "</title><h1>owned</h1>",
    "<iframe src='https://example.org'></iframe>", "]]><script>1</script>", "<a href='//example.org'>x</a>",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "gen2a_medsiglip-test-b41d09e7")


@pytest.fixture(scope="module")
def patients_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "real-test-0000", n_images=400, is_synthetic=False)


def page_of(run: Path, **options: object) -> str:
    out = run.parent / "page.html"
    write_run_report(run, out, date=DATE, **options)  # type: ignore[arg-type]
    return out.read_text()


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text outside style and script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.within: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("style", "script"):
            self.within.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.within and self.within[-1] == tag:
            self.within.pop()

    def handle_data(self, data: str) -> None:
        if not self.within:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def test_the_same_tables_give_the_same_bytes_in_another_process(run: Path, tmp_path: Path) -> None:
    """No clock, no random id, no order of a set: a report can be compared by its hash."""
    write_run_report(run, tmp_path / "a.html", date=DATE)
    again = (
        "from pathlib import Path; from ddeval.report.html import write_run_report; "
        f"write_run_report(Path({str(run)!r}), Path({str(tmp_path / 'b.html')!r}), date={DATE!r})"
    )
    subprocess.run([sys.executable, "-c", again], check=True, env={"PYTHONHASHSEED": "1"})
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_the_page_names_nothing_outside_itself(run: Path) -> None:
    """Every address in the page is an anchor of the page or an image written into it."""
    page = page_of(run)
    for name, attributes in Elements(page).elements:
        for key in ("src", "href", "action", "data", "poster", "srcset", "formaction"):
            value = attributes.get(key) or "#"
            assert value.startswith(("#", "data:image/webp;base64,")), f"<{name} {key}={value[:60]}>"
    assert not re.search(r"(?:https?:|wss?:)//|@import|url\(", page)


def test_every_anchor_of_the_page_leads_somewhere(run: Path) -> None:
    elements = Elements(page_of(run)).elements
    ids = [attributes["id"] for _, attributes in elements if attributes.get("id")]
    assert len(ids) == len(set(ids))
    links = {str(a["href"])[1:] for _, a in elements if str(a.get("href", "")).startswith("#")}
    assert links <= set(ids)
    used = {
        str(a[key]) for _, a in elements for key in ("for", "aria-labelledby", "data-filters") if key in a
    }
    assert used <= set(ids)


def test_no_handler_and_no_style_attribute_stands_in_the_page(run: Path) -> None:
    """The policy lets in one style and one script by their hashes; no attribute would run."""
    for name, attributes in Elements(page_of(run)).elements:
        forbidden = [key for key in attributes if key.startswith("on") or key == "style"]
        assert not forbidden, (name, attributes)


def test_a_payload_in_any_text_stays_text(tmp_path: Path) -> None:
    """Class names, ids, reasons, checks, versions, the ledger and the checkpoint's name hold payloads."""
    names = (*PAYLOADS, "other")
    plain, run = (
        make_run(tmp_path / name, class_names=classes, name=title, n_images=80, n_resamples=3, n_gallery=13)
        for name, classes, title in (("plain", (*"abcdefghijklm", "other"), "x"), ("run", names, PAYLOADS[0]))
    )
    gallery = run / "labels-v0" / "curves" / "gallery.parquet"
    frame, _ = io.read_parquet(gallery)
    io.write_parquet(gallery, frame.assign(image_id=[PAYLOADS[i % 13] + str(i) for i in range(len(frame))]))
    io.write_json(
        run / "labels-v0" / "checks.json",
        [{"code": p, "title": p, "status": p, "message": p} for p in PAYLOADS],
    )
    io.write_parquet(run / "quarantine.parquet", pd.DataFrame({"image_id": PAYLOADS, "reason": PAYLOADS}))
    facts = io.read_json(run / "run.json")
    io.write_json(run / "run.json", {**facts, **{p: {p: [p]} for p in PAYLOADS}})
    looks = [{"time": p, "run": p, "labels": p} for p in PAYLOADS]

    write_run_report(run, tmp_path / "hostile.html", date=PAYLOADS[2], looks=looks)
    write_run_report(
        plain, tmp_path / "plain.html", date=DATE, looks=[{"time": "t", "run": "r", "labels": "v0"}]
    )

    hostile, harmless = (Elements((tmp_path / f"{name}.html").read_text()) for name in ("hostile", "plain"))
    assert {name for name, _ in hostile.elements} == {name for name, _ in harmless.elements}
    assert {key for _, a in hostile.elements for key in a} == {key for _, a in harmless.elements for key in a}
    assert [name for name, _ in hostile.elements].count("script") == 1
    for payload in PAYLOADS:
        assert " ".join(payload.split()) in hostile.text  # shown as it is


def test_the_policy_lets_in_only_the_style_and_the_script_of_the_page(run: Path) -> None:
    page = page_of(run)
    policy = next(
        a["content"] for n, a in Elements(page).elements if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy


def test_the_numbers_of_the_page_are_those_of_the_table(run: Path) -> None:
    """Each headline value stands in the page as its table says it, to the digit."""
    metrics, _ = io.read_parquet(run / "labels-v0" / "metrics.parquet")
    text = Elements(page_of(run)).text.replace("\N{NO-BREAK SPACE}", " ")
    of_run = metrics[metrics["class_name"].isna() & (metrics["subset"] == "all")].set_index("metric")
    for name in ("top_1_accuracy", "top_3_accuracy", "balanced_accuracy", "other_sensitivity"):
        row = of_run.loc[name]
        assert f"{100 * row['value']:.1f} %" in text
        assert f"[{100 * row['ci_low']:.1f}, {100 * row['ci_high']:.1f}]" in text
    for name in ("auroc_macro", "macro_f1", "ece", "nll"):
        assert f"{of_run.loc[name, 'value']:.3f}" in text


def test_every_class_stands_in_the_dot_plot_with_its_n(run: Path) -> None:
    text = Elements(page_of(run)).text
    metrics, _ = io.read_parquet(run / "labels-v0" / "metrics.parquet")
    rows = metrics[(metrics["metric"] == "sensitivity") & (metrics["subset"] == "all")]
    assert set(rows["class_name"]) == set(CLASSES) - {"other"}
    for row in rows.to_dict("records"):
        assert f"{row['class_name']}{row['n_images']:,}" in text


def test_a_cell_of_the_confusion_holds_the_percent_and_says_its_counts(run: Path) -> None:
    confusion, _ = io.read_parquet(run / "labels-v0" / "curves" / "confusion.parquet")
    counts = confusion.pivot_table(index="label", columns="predicted", values="n")
    label, answer = "Acne", "Eczema"
    n, total = int(counts.loc[label, answer]), int(counts.loc[label].sum())
    assert n > 0
    title = f"{label} answered as {answer}: {n} of {total} ({100 * n / total:.1f}\N{NO-BREAK SPACE}%)"
    cell = re.search(rf'<td class="number[^"]*" title="{re.escape(title)}">([^<]*)</td>', page_of(run))
    assert cell is not None
    assert cell[1] == f"{100 * n / total:.1f}"


def test_an_absent_class_is_named_and_shown_as_undefined(tmp_path: Path) -> None:
    """Undefined is n/a with its n, never 0, and its class is in no mean."""
    run = make_run(tmp_path / "run", n_images=300, absent=("Scabies",))
    text = Elements(page_of(run)).text
    assert re.search(r"Without a photograph here, and so in no mean over classes: [^.]*Scabies", text)
    assert "Scabies0n/a (n = 0)" in text


def test_photographs_of_patients_are_left_out_unless_asked_for(patients_run: Path) -> None:
    page = page_of(patients_run)
    assert "data:image" not in page.replace("img-src data:", "")
    assert "Photographs in this fileleft out" in Elements(page).text
    assert "Patients’ photographs are left out of this file. Add --photos" in Elements(page).text
    gallery, _ = io.read_parquet(patients_run / "labels-v0" / "curves" / "gallery.parquet")
    assert f"{gallery['label'][0]} → {gallery['predicted'][0]}" in Elements(page).text  # the list stays
    assert "SYNTHETIC" not in page


def test_photographs_of_patients_are_in_the_file_when_asked_for(patients_run: Path) -> None:
    page = page_of(patients_run, photos=True)
    assert page.count("data:image/webp;base64,") == 12
    assert "Photographs in this fileshown" in Elements(page).text


def test_synthetic_photographs_are_always_shown_and_stamped(run: Path) -> None:
    page = page_of(run)
    assert page.count("data:image/webp;base64,") == 12
    assert '<p class="stamp">SYNTHETIC</p>' in page
    assert "No number on this page says anything about patients." in page


def test_every_photograph_says_what_it_is_to_those_who_cannot_see_it(run: Path) -> None:
    images = [a for name, a in Elements(page_of(run)).elements if name == "img"]
    assert all(re.fullmatch(r"img-\d+: labelled .+, answered .+", str(a["alt"])) for a in images)


def test_a_thumbnail_outside_the_run_folder_is_refused(tmp_path: Path) -> None:
    """A path in a table is no reason to read a file."""
    run = make_run(tmp_path / "run", n_images=100, n_resamples=5)
    gallery = run / "labels-v0" / "curves" / "gallery.parquet"
    frame, _ = io.read_parquet(gallery)
    io.write_parquet(gallery, frame.assign(thumbnail="../../../etc/passwd"))
    with pytest.raises(InputError, match="thumbnail"):
        page_of(run)


def test_a_model_without_other_has_no_open_set(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run", n_images=200, class_names=("a", "b", "c"), other_class=None, n_resamples=5
    )
    assert "closed and open set are one" in page_of(run)


@pytest.mark.parametrize("n_images", [1, 2])
def test_one_or_two_photographs_make_a_page(n_images: int, tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "run", n_images=n_images, n_resamples=3, class_names=("a", "b"), other_class=None
    )
    assert "n/a (n = 0)" in Elements(page_of(run)).text


def test_a_section_without_data_is_one_line_that_says_what_to_supply(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", n_images=100, n_resamples=3)
    for curve in (run / "labels-v0" / "curves").iterdir():
        curve.unlink()
    (run / "labels-v0" / "checks.json").unlink()
    (run / "quarantine.parquet").unlink()
    page = page_of(run)
    sections = re.findall(r'<section id="(\w+)"[^>]* class="missingdata">(.*?)</section>', page, flags=re.S)
    assert [name for name, _ in sections] == [
        "harm", "confusion", "calibration", "abstaining", "decisions", "subgroups", "errors",
    ]  # fmt: skip
    assert all(body.count("<p") == 1 for _, body in sections)
    assert "Data checks: not run." in page


def test_a_page_tells_no_place_on_the_machine_and_no_name_of_a_file(tmp_path: Path) -> None:
    """A report is passed on; where the photographs lie, and how they are called, stays behind."""
    run = make_run(tmp_path / "run", n_images=60, n_resamples=3, class_names=("a", "b"), other_class=None)
    facts = io.read_json(run / "run.json")
    facts["manifest"]["path"] = "/home/jane/study/manifest.csv"
    places = {
        "image_roots": ["/home/jane/a", "/mnt/jane/b"],
        "conditions": "/home/jane/conditions.yaml",
        "overlays": {"v1": "/home/jane/labels/test-v1.parquet"},
        "abstain": "s3://jane/rule.json",
    }
    io.write_json(run / "run.json", {**facts, **places})
    quarantine = {
        "image_id": ["i1"],
        "image": ["jane_doe_1971.jpg"],
        "code": ["truncated"],
        "reason": ["cut off"],
    }
    io.write_parquet(run / "quarantine.parquet", pd.DataFrame(quarantine))
    page = page_of(run)
    assert "jane" not in page
    for kept in ("manifest.csv", "conditions.yaml", "test-v1.parquet", "rule.json"):
        assert kept in page
    assert "cut off" in page


def test_many_classes_are_listed_as_pairs_without_a_matrix(tmp_path: Path) -> None:
    names = tuple(f"c{i}" for i in range(61))
    run = make_run(tmp_path / "run", n_images=300, n_resamples=3, class_names=names, other_class=None)
    page = page_of(run)
    assert "61 classes are too many for a matrix." in page
    assert 'id="confusion-heat"' not in page
    assert 'id="pairs"' in page


def test_the_ledger_is_shown_with_its_count(run: Path) -> None:
    looks = [{"time": f"2026-06-0{i}", "run": "gen2a_port", "labels": "v0"} for i in (2, 1)]
    text = Elements(page_of(run, looks=looks)).text
    assert "Looks at this split: 2." in text
    assert text.index("2026-06-01") < text.index("2026-06-02")


def test_a_check_that_does_not_apply_is_not_called_passed(run: Path) -> None:
    rows = re.findall(r"<small>(DD\d+)</small></th><td[^>]*>([^<]*)</td>", page_of(run))
    assert dict(rows) == {
        "DD001": "✓ passed",
        "DD003": "✓ passed",
        "DD005": "✕ failed",
        "DD007": "not applicable",
    }


def test_a_folder_that_is_no_run_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"no run\.json; expected a run folder\. Make one with: ddeval score"
    ):
        write_run_report(tmp_path, tmp_path / "x.html", date=DATE)


def test_a_label_version_without_numbers_names_those_there_are(run: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"no numbers under the labels 'v3'; expected one of v0\. Make them with"
    ):
        write_run_report(run, tmp_path / "x.html", date=DATE, label_version="v3")


def test_a_page_of_fifteen_thousand_images_is_drawn_in_two_seconds(tmp_path: Path) -> None:
    """The tables do not grow with the images; the time is that of 26 classes and 60 photographs."""
    run = make_run(tmp_path / "run", n_images=15_561, n_resamples=2, n_gallery=60)
    started = time.process_time()  # of this process: other work on the machine is not counted
    write_run_report(run, tmp_path / "page.html", date=DATE)
    assert time.process_time() - started < 2
    assert (tmp_path / "page.html").stat().st_size < 1_500_000


def test_the_report_needs_neither_torch_nor_sklearn_nor_the_metrics(run: Path, tmp_path: Path) -> None:
    check = (
        "import sys; from pathlib import Path; from ddeval.report.html import write_run_report; "
        f"write_run_report(Path({str(run)!r}), Path({str(tmp_path / 'x.html')!r}), date='d'); "
        "heavy = ('torch', 'sklearn', 'matplotlib', 'cleanlab', 'scipy'); "
        "layers = ('ddeval.metrics', 'ddeval.score', 'ddeval.data', 'ddeval.audit'); "
        "bad = {m for m in sys.modules if m.split('.')[0] in heavy or m.startswith(layers)}; "
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", check], check=True)


def test_a_page_drawn_again_is_equal(run: Path, tmp_path: Path) -> None:
    """As many looks as the page was drawn with: a look taken since does not make it wrong."""
    looks = [{"time": "1", "run": "a", "labels": "v0"}, {"time": "2", "run": "b", "labels": "v0"}]
    write_run_report(run, tmp_path / "page.html", date=DATE, looks=looks[:1])
    assert redraw.changes(tmp_path / "page.html", run, looks=looks) == []


def test_a_changed_digit_is_found_and_its_cell_named(run: Path, tmp_path: Path) -> None:
    page = page_of(run)
    old = re.search(r"<th scope=\"row\">Acne</th>(?:<td.*?</td>)(<td[^>]*>)([\d.]+)", page)
    assert old is not None
    digit = "1" if old[2][-1] != "1" else "2"
    changed = page[: old.end(2) - 1] + digit + page[old.end(2) :]
    (tmp_path / "page.html").write_text(changed)
    (line,) = redraw.changes(tmp_path / "page.html", run)
    assert line.startswith("class-table, row Acne: found '")
    assert f"the tables say '{old[2]}" in line


def test_a_changed_table_is_found_in_the_page_drawn_from_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", n_images=200, n_resamples=3)
    page_of(run)
    file = run / "labels-v0" / "metrics.parquet"
    metrics, _ = io.read_parquet(file)
    is_top_1 = (metrics["metric"] == "top_1_accuracy") & (metrics["subset"] == "all")
    metrics.loc[is_top_1, "value"] += 0.01
    io.write_parquet(file, metrics)
    lines = redraw.changes(run.parent / "page.html", run)
    assert any(line.startswith("headline-table, row Top-1 accuracy") for line in lines)


def test_a_changed_drawing_is_found_too(run: Path, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(page_of(run).replace('cx="', 'cx="1', 1))
    assert redraw.changes(tmp_path / "page.html", run) == [
        "marks, drawings or photographs differ, but no text"
    ]


def test_a_page_of_another_run_or_of_none_is_refused(run: Path, patients_run: Path, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(page_of(run))
    with pytest.raises(
        InputError, match=r"found a page of gen2a_medsiglip-test-b41d09e7; expected one of real"
    ):
        redraw.changes(tmp_path / "page.html", patients_run)
    (tmp_path / "other.html").write_text("<p>hello</p>")
    with pytest.raises(InputError, match="no note of what it was drawn from"):
        redraw.provenance(tmp_path / "other.html")


@pytest.mark.parametrize("name", ["demo", "comparison"])
def test_a_sample_in_git_is_small_synthetic_and_closed(name: str) -> None:
    sample = (Path(__file__).parents[1] / "reports" / "sample" / f"{name}.html").read_text()
    assert len(sample) < 1_000_000
    assert not re.search(r">/(?:home|tmp|root|work|usr)/", sample)
    assert '<p class="stamp">SYNTHETIC</p>' in sample
    assert not re.search(r"(?:https?:|wss?:)//|@import|url\(", sample)


def number(value: float, low: float, high: float) -> Number:
    return Number(value, low, high, 100, 50)


@pytest.mark.parametrize(
    ("gap", "words"),
    [
        ((0.03, 0.02, 0.04), "the model claims 2.0 to 4.0 points more confidence than it earns"),
        ((-0.03, -0.04, -0.02), "the model claims 2.0 to 4.0 points less confidence than it earns"),
        ((0.001, -0.004, 0.006), "its mean confidence is true to within 0.6 points"),
    ],
)
def test_the_verdict_is_written_from_the_interval(
    gap: tuple[float, float, float], words: str, run: Path
) -> None:
    """An interval that holds 0 never becomes a claim in one direction."""
    tables = read_run_tables(run, label_version="v0")
    numbers = {
        ("top_1_accuracy", "all", None): number(0.736, 0.728, 0.744),
        ("calibration_gap", "all", None): number(*gap),
    }
    told = RunTables(**{**vars(tables), "numbers": numbers})
    assert headline.verdict(told).replace("\N{NO-BREAK SPACE}", " ") == (
        f"The first answer matches the given label for 72.8 to 74.4 % of photographs; {words}."
    )


def test_the_verdict_says_when_nothing_can_be_said(run: Path) -> None:
    tables = read_run_tables(run, label_version="v0")
    told = RunTables(**{**vars(tables), "numbers": {("top_1_accuracy", "all", None): number(*[np.nan] * 3)}})
    assert headline.verdict(told).startswith("Nothing can be said")


def test_every_measure_of_a_run_has_a_name_and_a_definition(run: Path) -> None:
    """No number on the page under a raw column name."""
    metrics, _ = io.read_parquet(run / "labels-v0" / "metrics.parquet")
    bands = re.compile(r"_(floor_low|floor_high|p_value)$")
    names = {bands.sub("", name).removeprefix("open_") for name in metrics["metric"]}
    assert names <= set(measures.MEASURES), names - set(measures.MEASURES)


def test_docs_define_every_measure_and_only_those() -> None:
    docs = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
    defined = re.findall(r"^\*\*`(\w+)`", docs, flags=re.M)
    assert len(defined) == len(set(defined))
    assert set(measures.MEASURES) <= set(defined), set(measures.MEASURES) - set(defined)


def test_the_head_says_how_many_photographs_the_headline_is_over(run: Path) -> None:
    """628 at the head and 573 in the table look like an error, unless the 573 are named."""
    text = Elements(page_of(run)).text
    tables = read_run_tables(run, label_version="v0")
    top_1 = tables.number("top_1_accuracy")
    assert top_1 is not None
    assert top_1.n_images < tables.summary["n_images"]
    assert f"{top_1.n_images:,} of a target class" in text


def test_cases_have_no_column_where_no_number_is_of_cases(run: Path) -> None:
    tables = read_run_tables(run, label_version="v0")
    by_both = estimates_table(tables, ("top_1_accuracy",), id="a", caption="a")
    kept = {key: number for key, number in tables.numbers.items() if key[:2] != ("ece", "cases")}
    by_image = estimates_table(replace(tables, numbers=kept), ("ece",), id="b", caption="b")
    assert [title for title, _ in by_both.groups] == ["", "Photographs", "Cases"]
    assert [title for title, _ in by_image.groups] == ["", "Photographs"]
    assert {len(row) for row in by_image.rows} == {len(by_image.columns)} == {4}


def test_no_template_passes_data_through_unescaped() -> None:
    """`|safe` and hand-made Markup of data are how a class name becomes a script."""
    folder = Path(headline.__file__).parent
    for path in [*folder.rglob("*.html"), *folder.rglob("*.py")]:
        text = path.read_text()
        assert "|safe" not in text.replace(" ", ""), path
        allowed = {"figures.py", "page.py"}
        assert "Markup(" not in text or path.name in allowed, path


def test_only_one_module_rounds() -> None:
    folder = Path(headline.__file__).parent
    formatting = re.compile(r"\{[^{}]*:[.,+]?\d*[.,]?\d*[f%eg]\}|\bround\(|\|\s*round|format\(")
    for path in [*folder.rglob("*.html"), *folder.rglob("*.py")]:
        lines = [line for line in path.read_text().splitlines() if formatting.search(line)]
        if path.name == "figures.py":  # coordinates, which nobody reads
            assert all("def pct" in line or "strip" in line or "10 * x" in line for line in lines), lines
        elif path.name == "classes.py":  # a step of the colour scale
            assert all("HEAT_LEVELS" in line for line in lines), lines
        elif path.name != "rounding.py":
            assert not lines, (path.name, lines)


def test_the_text_of_the_page_is_escaped_once(tmp_path: Path) -> None:
    """An ampersand in a class name is one ampersand on the page."""
    run = make_run(
        tmp_path / "run", n_images=60, class_names=("cuts & bites", "b"), other_class=None, n_resamples=3
    )
    page = page_of(run)
    assert "cuts &amp; bites" in page
    assert "&amp;amp;" not in page
    assert html.unescape("cuts &amp; bites") in Elements(page).text
