"""Parts of the comparison's and the audit's pages: what they say of the tables they are given."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ddeval.metrics.arrays import softmax
from ddeval.metrics.paired import Comparison, compare
from ddeval.report import comparison, decisions, doubts, figures, subgroups
from ddeval.report.components import Block, DotPlot, Figure, Page, Section, Table
from ddeval.report.page import render
from tests.report_fixture import skin_patch

RUNS = ("gen2a_port", "convnextv2_base", "gen2a_medsiglip")


@pytest.fixture(scope="module")
def compared() -> Comparison:
    rng = np.random.default_rng(3)
    labels = rng.integers(5, size=800)
    shared = rng.normal(size=(800, 5))
    probs = {
        run: softmax(gain * np.eye(5)[labels] + shared + rng.normal(size=(800, 5)))
        for run, gain in zip(RUNS, (1.6, 1.7, 2.6), strict=True)
    }
    return compare(labels, probs, groups=np.arange(800) // 2, rng=rng, baseline="gen2a_port", n_resamples=200)


def by_image(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["subset"] == "all"]


def html_of(*blocks: Block) -> str:
    return render(Page("eyebrow", "title", "verdict", (), (Section("s", "Section", blocks),)))


def difference(low: float, high: float, metric: str = "top_1_accuracy") -> dict[Any, Any]:
    row = {"run": "B", "baseline": "A", "metric": metric, "n_images": 3}
    return row | {"difference": (low + high) / 2, "ci_low": low, "ci_high": high}


@pytest.mark.parametrize(
    ("low", "high", "metric", "sentence"),
    [
        (0.02, 0.05, "top_1_accuracy", "B: top-1 accuracy 2.0 to 5.0 points higher than A (better)."),
        (-0.05, -0.02, "top_1_accuracy", "B: top-1 accuracy 2.0 to 5.0 points lower than A (worse)."),
        (-0.05, -0.02, "ece", "B: ECE, 15 bins 0.020 to 0.050 lower than A (better)."),
        (0.02, 0.05, "nll", "B: NLL 0.020 to 0.050 higher than A (worse)."),
        (0.02, 0.05, "calibration_gap", "B: confidence − accuracy 2.0 to 5.0 points higher than A."),
        (-0.012, 0.009, "top_1_accuracy",
         "B and A: no difference in top-1 accuracy larger than 1.2 points either way."),
        (0.0, 0.009, "top_1_accuracy",
         "B and A: no difference in top-1 accuracy larger than 0.9 points either way."),
        (np.nan, np.nan, "mcc", "B and A: MCC could not be compared (n = 3)."),
    ],
)  # fmt: skip
def test_words_come_from_the_interval(low: float, high: float, metric: str, sentence: str) -> None:
    told = comparison.difference_sentence(difference(low, high, metric))
    assert told.replace("\N{NO-BREAK SPACE}", " ") == sentence


def test_the_round_1_table_has_a_row_a_checkpoint_with_intervals(compared: Comparison) -> None:
    table = comparison.round_1_table(
        by_image(compared.values),
        by_image(compared.differences),
        by_image(compared.best),
        baseline="gen2a_port",
    )
    assert [row[0].text for row in table.rows] == list(RUNS)
    assert table.rows[0][0].sub == "baseline"
    assert table.rows[2][0].sub == "best"
    assert [row[0].series for row in table.rows] == [1, 2, 3]
    values = by_image(compared.values).set_index(["run", "metric"])
    top_1 = values.loc[("gen2a_medsiglip", "top_1_accuracy")]
    assert table.rows[2][1].text == f"{100 * top_1['value']:.1f}\N{NO-BREAK SPACE}%"
    assert table.rows[2][1].sub == f"[{100 * top_1['ci_low']:.1f}, {100 * top_1['ci_high']:.1f}]"
    assert table.rows[0][3].text == "–"
    assert table.rows[2][3].text.startswith("+")


def test_checkpoints_that_cannot_be_told_apart_are_not_called_best(compared: Comparison) -> None:
    best = by_image(compared.best).assign(is_in_best_set=True)
    table = comparison.round_1_table(
        by_image(compared.values), by_image(compared.differences), best, baseline="gen2a_port"
    )
    assert table.rows[0][0].sub == "baseline, not told from the best"
    assert [row[0].sub for row in table.rows[1:]] == ["not told from the best"] * 2


def test_a_reported_row_has_neither_interval_nor_difference(compared: Comparison) -> None:
    reported = pd.DataFrame(
        {"run": ["medsiglip_frozen"] * 2, "metric": ["top_1_accuracy", "top_3_accuracy"],
         "value": [0.665, 0.888],
         "notes": ["Round 1 table", ""]}
    )  # fmt: skip
    about = pd.DataFrame(
        {"run": [RUNS[2]], "n_parameters": [430_000_000], "latency_p95_ms": [212.0], "notes": ["deployable"]}
    )
    table = comparison.round_1_table(
        by_image(compared.values), by_image(compared.differences), by_image(compared.best),
        baseline="gen2a_port", reported=reported, about=about,
    )  # fmt: skip
    row = table.rows[-1]
    assert [cell.text for cell in row] == [
        "medsiglip_frozen", "66.5\N{NO-BREAK SPACE}%", "88.8\N{NO-BREAK SPACE}%", "–", "–", "–", "–", "–",
        "Round 1 table",
    ]  # fmt: skip
    assert [cell.sub for cell in row] == ["reported, not rescored", *[""] * 8]
    assert [cell.text for cell in table.rows[2][6:]] == ["430.0\N{NO-BREAK SPACE}M", "212", "deployable"]


def test_the_forest_has_a_row_a_pair_and_the_margin_on_the_side_of_a_loss(compared: Comparison) -> None:
    plot = comparison.forest(by_image(compared.differences), "top_1_accuracy", margin=0.02)
    assert [row.name for row in plot.rows] == list(RUNS[1:])
    lines = re.findall(r'<line x1="([\d.]+)%"[^>]*class="(reference|margin)"', plot.rows[0].drawing)
    where = {mark: float(x) for x, mark in lines}
    assert where["reference"] == 50
    assert where["margin"] < 50
    assert "margin allowed beforehand, −2.0\N{NO-BREAK SPACE}points" in plot.keys[0][1]
    ece = comparison.forest(by_image(compared.differences).assign(metric="nll"), "nll", margin=0.02)
    assert float(re.findall(r'<line x1="([\d.]+)%"[^>]*class="margin"', ece.rows[0].drawing)[0]) > 50


def test_the_gate_shows_every_criterion_with_its_bound_and_n() -> None:
    gate = {
        "answer": "cannot tell", "sentence": "Too few melanomas to say.", "sha256": "ab12",
        "first_look": "2026-06-30",
        "criteria": [
            {"name": "melanoma sensitivity", "answer": "cannot tell", "metric": "sensitivity", "value": 0.8,
             "ci_low": 0.6, "ci_high": 0.92, "bound": 0.75, "n_images": 25, "n_groups": 20},
            {"name": "loss against the baseline", "answer": "pass", "metric": "top_1_accuracy", "value": 0.01,
             "ci_low": -0.002, "ci_high": 0.022, "bound": -0.01, "n_images": 1500, "n_groups": 900,
             "is_difference": True},
            {"name": "the same in words", "answer": "pass", "metric": "top_1_accuracy", "kind": "not_worse",
             "value": 0.01, "ci_low": -0.002, "ci_high": 0.022, "bound": 0.01, "n_images": 1500,
             "n_groups": 900, "is_difference": True},
        ],
    }  # fmt: skip
    block = decisions.gate_block(gate)
    first, second, third = block.criteria
    assert first.text.replace("\N{NO-BREAK SPACE}", " ") == "80.0 % [60.0, 92.0], asked: 75.0 %"
    assert second.text.replace("\N{NO-BREAK SPACE}", " ") == "+1.0 points [−0.2, +2.2], asked: −1.0 points"
    assert third.text.endswith("asked: worse by less than 1.0\N{NO-BREAK SPACE}points")
    page = html_of(block)
    assert page.count("cannot tell") == 2
    assert "sha256 ab12, first looked at 2026-06-30" in page


def criterion(name: str, answer: str, **more: Any) -> dict[str, Any]:
    of = {"metric": "top_1_accuracy", "kind": "at_least", "bound": 0.7, "n_images": 77, "n_groups": 60}
    return of | {"name": name, "answer": answer, "value": 0.7, "ci_low": 0.65, "ci_high": 0.75} | more


def test_the_gate_is_said_with_what_passed_and_what_not_and_why() -> None:
    enough, unsure = criterion("good enough", "pass"), criterion("for all", "cannot tell")
    unknown = criterion("fast", "cannot tell", ci_low=np.nan, ci_high=np.nan, note="no bench of B")
    failed = criterion("good", "fail", ci_high=0.69)
    said = {
        answer: decisions.gate_sentence({"answer": answer, "criteria": criteria})
        for answer, criteria in (
            ("pass", [enough, enough]),
            ("cannot tell", [enough, unsure, unknown]),
            ("fail", [failed, unsure]),
        )
    }
    assert said["pass"] == "The gate is passed: 2 of 2 criteria."
    assert said["cannot tell"].replace("\xa0", " ") == (
        "The gate cannot be answered yet: 1 of 3 criteria pass; cannot tell: “for all” (interval "
        "[65.0, 75.0] is on both sides of the bound, asked at least 70.0 %); cannot tell: “fast” has no "
        "interval, asked at least 70.0 % (no bench of B)."
    )
    assert (
        said["fail"]
        .replace("\xa0", " ")
        .startswith(
            "The gate is failed: 0 of 2 criteria pass; failed: “good” (interval [65.0, 69.0], asked at least"
        )
    )


def test_of_many_criteria_that_are_not_met_the_gate_says_the_names() -> None:
    """Reasons of three would push the table that holds them off the first screen."""
    criteria = [criterion("A", "fail"), criterion("B", "cannot tell"), criterion("C", "cannot tell")]
    assert decisions.gate_sentence({"answer": "fail", "criteria": criteria}) == (
        "The gate is failed: 0 of 3 criteria pass; failed: “A”; cannot tell: “B”, “C”."
    )


@pytest.mark.parametrize("same", [0.0, 0.033])
def test_a_difference_that_every_resample_repeats_is_no_evidence(same: float) -> None:
    """One patient, or two models with the same answers: there is no interval, and the drawing says so."""
    row = difference(same, same) | {"ci_low": np.nan, "ci_high": np.nan}
    said = comparison.difference_sentence(row)
    assert said.endswith("in every resample (n = 3): not to be told.")
    assert "no difference" not in said
    assert "better" not in said
    drawn = comparison.forest(pd.DataFrame([row]), "top_1_accuracy").rows[0]
    assert drawn.sub == "no interval (n = 3)"
    assert str(drawn.drawing).count("<circle") == 1
    assert "nan" not in str(drawn.drawing)


def test_harm_of_the_two_decided_about_is_short() -> None:
    harm = pd.DataFrame(
        [
            {"group": group, "run": run, "outcome": outcome, "n_images": 3, "share": 1 / 3, "per_1000": 2.0}
            for group in ("malignant", "urgent")
            for run in ("A", "B", "C")
            for outcome in ("right", "deferred", "missed")
        ]
    )
    table = decisions.decided_table(harm, ("A", "C"))
    assert [(row[0].text, row[0].sub) for row in table.rows] == [
        ("A", "malignant"), ("C", "malignant"), ("A", "urgent"), ("C", "urgent"),
    ]  # fmt: skip


def test_a_column_of_which_nothing_is_known_is_left_out_and_named(compared: Comparison) -> None:
    table = comparison.round_1_table(
        by_image(compared.values), by_image(compared.differences), by_image(compared.best),
        baseline="gen2a_port",
    )  # fmt: skip
    assert "Parameters" not in [column.title for column in table.columns]
    assert "Parameters" in table.note
    assert {len(row) for row in table.rows} == {len(table.columns)}


def test_a_gate_with_another_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="pass, fail or cannot tell, got 'maybe'"):
        decisions.gate_block(
            {"answer": "maybe", "sentence": "", "criteria": [], "sha256": "", "first_look": ""}
        )


def test_harm_is_shown_as_counts_shares_and_per_thousand() -> None:
    harm = pd.DataFrame(
        {"group": ["malignant"] * 3, "run": ["a"] * 3, "outcome": ["right", "deferred", "missed"],
         "n_images": [80, 15, 5],
         "share": [0.8, 0.15, 0.05], "ci_low": [0.7, 0.1, 0.02], "ci_high": [0.88, 0.2, 0.11],
         "per_1000": [8.0, 1.5, 0.5]}
    )  # fmt: skip
    figure = decisions.harm_figure(harm)
    assert figure.table is not None
    (row,) = figure.table.rows
    assert [cell.text.replace("\N{NO-BREAK SPACE}", " ") for cell in row] == [
        "a", "80 (80.0 %)", "15 (15.0 %)", "5 (5.0 %)", "0.5", "100",
    ]  # fmt: skip
    assert (row[0].sub, row[3].sub) == ("malignant", "[2.0, 11.0]")
    assert 'class="share wrong"' in figure.drawing
    assert "malignant, a: 100 photographs, 5.0\N{NO-BREAK SPACE}% missed" in figure.drawing


def test_the_table_of_harm_is_folded_where_the_decision_has_shown_every_row() -> None:
    harm = pd.DataFrame(
        {"group": "malignant", "run": ["A", "B"], "outcome": "missed", "n_images": 5, "share": 1.0}
    )
    for drawn, is_folded in ((("A", "B"), True), (("A",), False), ((), False)):
        (figure,) = decisions.harm_section(harm, drawn=drawn).blocks
        assert isinstance(figure, Figure)
        assert figure.table is not None
        assert figure.table.is_folded is is_folded


def test_an_interval_past_the_end_of_its_axis_has_an_arrow_there() -> None:
    """[0.23, 5.00] on a scale of 0.25 to 4 would look like [0.25, 4.00]."""
    for low, high, arrows in ((0.23, 5.0, "◂▸"), (0.25, 5.0, "▸"), (0.25, 4.0, "")):
        drawing = figures.plot_interval(1.0, low, high, axis=figures.RATIO_AXIS)
        assert "".join(re.findall("[◂▸]", drawing)) == arrows


def test_the_thresholds_of_net_benefit_are_round() -> None:
    curve = pd.DataFrame({"threshold": [0.01, 0.5], "net_benefit": [0.1, 0.05], "refer_all": [0.1, -0.5]})
    drawing = decisions.net_benefit_figure({"A": curve}, colours={"A": 1}).drawing
    assert re.findall(r'y="100%" dy="18"[^>]*>([^<]*)<', drawing) == ["0", "10", "20", "30", "40", "50"]


def test_net_benefit_stands_beside_referring_everybody() -> None:
    curve = pd.DataFrame(
        {
            "threshold": [0.1, 0.2],
            "net_benefit": [0.04, 0.03],
            "refer_all": [0.02, -0.3],
            "n_referred": [50, 40],
        }
    )
    figure = decisions.net_benefit_figure({"A": curve, "B": curve * 0.5}, colours={"A": 1, "B": 2})
    lines = re.findall(r'<polyline points="([^"]*)"[^>]*class="line (s\d)"', figure.drawing)
    assert [mark for _, mark in lines] == ["s0", "s1", "s2"]
    assert (
        lines[1][0] == "500.0,0.0 1000.0,125.0"
    )  # the axis of benefit ends at 0.04, that of thresholds at 20 %
    assert len(lines[0][0].split()) == 1  # far below the axis, referring everybody is not drawn on
    assert figure.table is not None
    assert [row[0].text for row in figure.table.rows] == ["A", "A", "B", "B"]


def test_a_suppressed_subgroup_is_named_with_its_patients_and_not_drawn() -> None:
    groups = pd.DataFrame(
        {"run": "A", "attribute": "skin type", "group": ["II", "VI"], "metric": "top_1_accuracy",
         "value": [0.7, np.nan], "ci_low": [0.6, np.nan], "ci_high": [0.8, np.nan], "n_images": [90, 4],
         "n_groups": [80, 3], "gap": [0.01, np.nan], "gap_low": [-0.1, np.nan], "gap_high": [0.1, np.nan],
         "p_holm": [0.9, np.nan], "standardised_gap": [0.02, np.nan], "standardised_low": [-0.1, np.nan],
         "standardised_high": [0.1, np.nan], "note": ["", "fewer than 20 patients"]}
    )  # fmt: skip
    section = subgroups.subgroup_section(groups, None, None, candidate="A", whole={"top_1_accuracy": 0.72})
    plot = next(block for block in section.blocks if isinstance(block, DotPlot))
    assert [row.name for row in plot.rows] == ["II"]
    assert plot.rows[0].text == "70.0\N{NO-BREAK SPACE}%"
    assert "Too few patients to be shown: VI (3)." in plot.how_to_read


def test_a_gallery_without_a_photograph_shows_no_empty_frames(tmp_path: Path) -> None:
    page = html_of(doubts.doubtful_gallery(issues(), folder=tmp_path, has_photos=True))
    assert 'class="nophoto"' not in page
    assert "No photograph was kept with the audit." in page


def test_one_pair_is_not_1_pairs(tmp_path: Path) -> None:
    gallery = doubts.duplicates_gallery(pairs(), folder=tmp_path, has_photos=False, n_all=1)
    assert gallery.note == "1 pair of 1, leaks first."


def test_without_subgroups_the_section_says_what_to_supply() -> None:
    section = subgroups.subgroup_section(None, None, None, candidate="A", whole={})
    assert section.is_missing
    assert "skin_type" in html_of(*section.blocks)


def flips() -> pd.DataFrame:
    return pd.DataFrame(
        {"image_id": ["i1"], "label": ["Acne"], "predicted": ["Acne"], "confidence": [0.9],
         "baseline_predicted": ["Rosacea"], "baseline_confidence": [0.7], "thumbnail": ["t.webp"]}
    )  # fmt: skip


def test_flips_name_both_answers(tmp_path: Path) -> None:
    (tmp_path / "t.webp").write_bytes(skin_patch(np.random.default_rng(0)))
    gallery = comparison.flips_gallery(
        flips(), right="B", wrong="A", run="B", baseline="A", folder=tmp_path, has_photos=True
    )
    (card,) = gallery.cards
    assert card.photos[0].alt == "i1: labelled Acne; B says Acne, A says Rosacea"
    assert card.photos[0].data_uri.startswith("data:image/webp;base64,")
    assert ("A", "Rosacea, 70.0\N{NO-BREAK SPACE}%") in card.lines


def test_every_gallery_leaves_photographs_out_unless_asked(tmp_path: Path) -> None:
    (tmp_path / "t.webp").write_bytes(skin_patch(np.random.default_rng(0)))
    galleries = (
        comparison.flips_gallery(
            flips(), right="A", wrong="B", run="B", baseline="A", folder=tmp_path, has_photos=False
        ),
        doubts.doubtful_gallery(issues(), folder=tmp_path, has_photos=False),
        doubts.duplicates_gallery(pairs(), folder=tmp_path, has_photos=False),
    )
    page = html_of(*galleries)
    assert "data:image/webp" not in page
    assert page.count("Patients’ photographs are left out of this file.") == 3


def issues() -> pd.DataFrame:
    return pd.DataFrame(
        {"image_id": ["i1", "i2"], "rank": [1, 2], "label_quality": [0.01, 0.2], "given_label": ["Acne",
         "Eczema"],
         "predicted_label": ["Rosacea", "Psoriasis"], "reason": ["low self-confidence",
         "<b>far</b> from its class"],
         "thumbnail": ["t.webp", None]}
    )  # fmt: skip


def test_doubtful_labels_say_why_and_never_that_they_are_wrong(tmp_path: Path) -> None:
    (tmp_path / "t.webp").write_bytes(skin_patch(np.random.default_rng(0)))
    gallery = doubts.doubtful_gallery(issues(), folder=tmp_path, has_photos=True)
    page = html_of(gallery)
    assert gallery.cards[0].text == "low self-confidence"
    assert page.count("low self-confidence</p>") == 1
    assert ("quality", "0.010") in gallery.cards[0].lines
    assert "&lt;b&gt;far&lt;/b&gt;" in page
    assert "no photograph" in page
    assert "wrong label" not in page.lower()


def pairs() -> pd.DataFrame:
    return pd.DataFrame(
        {"image_id_a": ["i1"], "image_id_b": ["i2"], "similarity": [0.987], "kind": ["embedding"],
         "label_a": ["Acne"], "label_b": ["Rosacea"], "split_a": ["train"], "split_b": ["train"],
         "thumbnail_a": ["t.webp"], "thumbnail_b": ["t.webp"]}
    )  # fmt: skip


def test_duplicates_stand_side_by_side_with_what_differs(tmp_path: Path) -> None:
    (tmp_path / "t.webp").write_bytes(skin_patch(np.random.default_rng(0)))
    gallery = doubts.duplicates_gallery(pairs(), folder=tmp_path, has_photos=True)
    (card,) = gallery.cards
    assert [photo.image_id for photo in card.photos] == ["i1", "i2"]
    assert ("label", "Acne | Rosacea") in card.lines
    assert ("split", "train") in card.lines
    assert html_of(gallery).count("<img ") == 2


def test_the_overlap_matrix_is_square_and_in_the_order_given() -> None:
    overlap = pd.DataFrame({"given_label": ["a", "c"], "likely_label": ["b", "a"], "share": [0.09, 0.002]})
    table = doubts.overlap_heat(overlap, n_by_class={"c": 10, "a": 90, "b": 5}).table
    assert [row[0].text for row in table.rows] == ["c", "a", "b"]
    assert [[cell.text for cell in row[1:]] for row in table.rows] == [
        ["", "0.2", ""],
        ["", "", "9.0"],
        ["", "", ""],
    ]
    assert [[cell.level for cell in row[1:]] for row in table.rows][1] == [None, None, 6]


def test_a_checkpoint_keeps_its_colour_in_every_part(compared: Comparison) -> None:
    colours = comparison.series_of(RUNS)
    plot = comparison.forest(by_image(compared.differences), "top_1_accuracy", colours=colours)
    drawn = {row.name: int(re.findall(r'class="dot s(\d)"', row.drawing)[0]) for row in plot.rows}
    assert drawn == {run: colours[run] for run in RUNS[1:]}
    table = comparison.round_1_table(
        by_image(compared.values),
        by_image(compared.differences),
        by_image(compared.best),
        baseline="gen2a_port",
    )
    assert {row[0].text: row[0].series for row in table.rows} == colours


def test_a_table_of_nothing_is_still_a_page() -> None:
    assert "<table" in html_of(Table("t", "nothing", (), ()))
