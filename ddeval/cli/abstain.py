"""`ddeval abstain`: the deferral rule of a run, as a file for the serving code."""

import math
from pathlib import Path
from typing import Annotated, Literal

import typer

from ddeval.cli import FINDINGS, console


def abstain(
    run: Annotated[Path, typer.Argument(help="Run folder with a calibration split.")],
    risk: Annotated[
        float, typer.Option(min=0.0001, max=0.9999, help="Most of the answers that may be wrong.")
    ],
    out: Annotated[Path, typer.Option(help="JSON file of the rule; FILE_vectors.json goes beside it.")],
    rule: Annotated[
        Literal["max_probability", "margin", "entropy", "energy", "other_probability"],
        typer.Option(help="Score an image is deferred by."),
    ] = "max_probability",
    unit: Annotated[
        Literal["image", "case"], typer.Option(help="image, or case: the mean logit of its images.")
    ] = "image",
    confidence: Annotated[
        float, typer.Option(min=0.5, max=0.9999, help="Chance that the risk is kept.")
    ] = 0.95,
    labels: Annotated[
        str | None, typer.Option(help="Label overlay: v0 (the manifest's), v1, a file.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the intervals and of the parting.")] = 0,
    n_resamples: Annotated[int, typer.Option(min=2, help="Bootstrap draws.")] = 2000,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rule as JSON, nothing else.")] = False,
) -> None:
    """Choose on the calibration split when to hand over, and write the rule with 50 test vectors.

    Exit code 1 where no threshold can be shown to keep the risk: the rule then defers everything.

    Example: ddeval abstain runs/gen2a_medsiglip-test-1a2b --risk 0.05 --out abstain.json
    """
    from ddeval.io import check_writable
    from ddeval.score.abstain import abstention, write_rule

    check_writable(out)
    found = abstention(
        run, risk=risk, rule=rule, unit=unit, confidence_level=confidence, labels=labels, seed=seed,
        n_resamples=n_resamples,
    )  # fmt: skip
    vectors = write_rule(found, out)
    facts = found.facts
    if as_json:
        console.say_json(facts | {"judged": found.judged._asdict(), "rules": found.rules.to_dict("records")})
    else:
        rows = [
            [
                str(row["score"]),
                _shown(row["augrc"], ".4f") or "n/a",
                _shown(row["difference"], "+.4f"),
                " – ".join(_shown(row[end], "+.4f") for end in ("ci_low", "ci_high")).strip(" –"),
            ]
            for row in found.rules.to_dict("records")
        ]
        console.say(console.table(rows, header=["score rule", "AUGRC", "Δ to max", "95 % interval"]))
        judged = found.judged
        coverage, risk_here, at_most = (
            _shown(x, ".1%") or "n/a" for x in (judged.coverage, judged.risk, judged.risk_upper)
        )
        console.say(f"\nrule     {out}\nvectors  {vectors}")
        if not facts["answers_nothing"]:
            console.say(
                f"\ncalibration  answers {facts['coverage']:.1%} of {facts['n_rows']:,} {unit}s, "
                f"{facts['n_wrong']:,} wrong; risk at most {facts['risk_upper']:.1%} (asked {risk:.1%})"
                f"\njudged       answers {coverage} of {judged.n_images:,}, "
                f"risk {risk_here}, at most {at_most}"
            )
    if facts["answers_nothing"]:
        console.note(
            f"no threshold can be shown to keep a risk of {risk:g} on {facts['n_rows']:,} {unit}s: "
            "the rule defers everything; label more calibration patients, or allow a higher --risk"
        )
        raise typer.Exit(FINDINGS)


def _shown(number: float, form: str) -> str:
    """A number in this form; nothing where it is undefined."""
    return format(number, form) if math.isfinite(number) else ""
