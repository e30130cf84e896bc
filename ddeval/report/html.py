"""Tables to one self-contained HTML file: the door of the report.

`write_run_report` reads the tables of a run folder, and nothing else: no model, no images but the
thumbnails the run stored, no seed, no clock. The same tables, date and flags give the same bytes.
"""

from pathlib import Path

from ddeval import io
from ddeval.report.inputs import read_run_tables
from ddeval.report.page import render
from ddeval.report.run_page import run_page


def write_run_report(
    run_folder: Path, out: Path, *, label_version: str = "v0", date: str, photos: bool = False
) -> None:
    """Write the page of one run to `out`.

    Parameters
    ----------
    run_folder : Path
        A run as `ddeval score` leaves it.
    out : Path
        The HTML file; replaced at once when it is there.
    label_version : str
        Which numbers: `labels-<version>` of the run folder.
    date : str
        Printed at the head of the page as it is given.
    photos : bool
        Put patients' photographs in; synthetic ones are always in. The page says which it is.

    Raises
    ------
    InputError
        If the folder is not a run, or holds no numbers under `label_version`.
    """
    run = read_run_tables(run_folder, label_version=label_version)
    io.write_text(out, render(run_page(run, date=date, photos=photos)))
