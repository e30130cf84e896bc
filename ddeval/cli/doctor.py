"""`ddeval doctor`: is this machine, and this project, fit for what comes?"""

from typing import Annotated

import typer

from ddeval.cli import FINDINGS, OK, console


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")] = False,
) -> None:
    """One sentence on each thing that tends to go wrong, with its cure; nothing is changed.

    Torch against the GPU, versions below security floors, memory, disk, the folders and buckets of
    ddeval.yaml, the store, who may read and write what. Exit code 1 where something is to be put right.

    Example: ddeval doctor
    """
    from ddeval.cli.health import findings
    from ddeval.project import find_project

    found = findings()
    if as_json:
        console.say_json([one._asdict() for one in found])
    else:
        for one in found:
            console.say(f"{'ok   ' if one.is_fine else 'FOUND'}  {one.what:9} {one.sentence}")
        n_bad = sum(not one.is_fine for one in found)
        step = "ddeval data check" if find_project() else "ddeval score demo"
        console.say(f"\n{n_bad or 'nothing'} to put right" + ("" if n_bad else f"   ·   next  {step}"))
    raise typer.Exit(OK if all(one.is_fine for one in found) else FINDINGS)
