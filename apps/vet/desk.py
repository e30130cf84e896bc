"""The desk: what the app needs at hand, put together once when the server starts.

It joins the store with the manifest, the conditions and the questionnaire, and turns a case into what
a reader's browser may see. It holds no HTTP and draws nothing.
"""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from ddeval.data.conditions import Conditions
from ddeval.data.fields import FeatureSchema
from ddeval.data.images import ImageError, read_image, shown_name
from ddeval.data.manifest import with_cases
from ddeval.data.questionnaire import in_brief, readable
from ddeval.errors import InputError
from ddeval.io import resolve, write_bytes
from ddeval.vet.accounts import Account, accounts
from ddeval.vet.adjudication import Hearing
from ddeval.vet.batches import Batch, read_batches
from ddeval.vet.reading import Screen, progress, upcoming
from ddeval.vet.store import Store

VIEW_EDGE = 2048
"""Longest edge of the picture a screen opens with; zooming in fetches the full resolution."""

JPEG_QUALITY = 92

CASES_AHEAD = 3
"""Cases whose photographs are made ready while the reader looks at the one before."""


@dataclass
class Desk:
    """Everything the pages and routes of one server share."""

    store: Store
    manifest: pd.DataFrame
    """MANIFEST of every case that can be opened; only ids, image paths and answers reach a reader."""
    image_roots: tuple[Path, ...]
    conditions: Conditions
    schema: FeatureSchema | None
    cache: Path
    """Folder of re-encoded photographs: upright, without metadata."""
    is_synthetic: bool = False
    class_of: dict[str, str] = field(init=False)
    _hands: ThreadPoolExecutor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.manifest = with_cases(self.manifest)
        self._hands = ThreadPoolExecutor(1, thread_name_prefix="photographs")
        self.class_of = {d.name: d.class_name for d in self.conditions.diagnoses}

    @cached_property
    def photographs(self) -> dict[str, list[str]]:
        """Image ids of every case, in the order of the manifest."""
        return {
            str(case): list(ids) for case, ids in self.manifest.groupby("case_id", sort=False)["image_id"]
        }

    @cached_property
    def _rows(self) -> pd.DataFrame:
        return self.manifest.set_index("image_id")

    def open_batches(self, reader: Account | None = None) -> list[Batch]:
        """Open batches, the newest first; with `reader`, those assigned to them or to everybody."""
        opened = [batch for batch in read_batches(self.store) if batch.is_open]
        return [b for b in opened if reader is None or b.is_assigned_to(reader.code)]

    def reading_now(self, reader: Account) -> Batch | None:
        """The newest open batch that has something left for this reader, else the newest assigned to them."""
        assigned = self.open_batches(reader)
        with_work = (b for b in assigned if progress(self.store, b, reader.code).n_left)
        return next(with_work, assigned[0] if assigned else None)

    def people(self) -> list[Account]:
        return accounts(self.store)

    def batch_of(self, name: str | None) -> Batch | None:
        """The open batch of that name; without a name the newest open one."""
        return next((b for b in self.open_batches() if name in (None, b.name)), None)

    def screen(self, shown: Screen, account: Account, batch: Batch) -> dict[str, Any]:
        """One case as its reader's browser sees it. The keys here are all a blind reader is ever sent."""
        done = progress(self.store, batch, account.code)
        return {
            "batch": shown.batch,
            "nonce": shown.nonce,
            "is_practice": shown.is_practice,
            "draft": self._numbered(shown),
            "n_photographs": len(self.photographs.get(shown.case_id, ())),
            "told": self.told(shown.case_id),
            "n_done": done.n_done,
            "n_left": done.n_left,
        }

    def _numbered(self, shown: Screen) -> dict[str, Any] | None:
        """The draft with its marked photographs by number: an id may say more than it should."""
        if shown.draft is None or not isinstance(shown.draft.get("poor_photographs"), list):
            return shown.draft
        ids = self.photographs.get(shown.case_id, [])
        marked = [ids.index(m) if m in ids else m for m in shown.draft["poor_photographs"]]
        return {**shown.draft, "poor_photographs": [n for n in marked if isinstance(n, int)]}

    def hearing(self, heard: Hearing, batch: Batch) -> dict[str, Any]:
        """One case as its adjudicator sees it: the readings under letters, nothing of data or model."""
        return {
            "batch": batch.name,
            "nonce": heard.nonce,
            "is_practice": False,
            "draft": None,
            "n_photographs": len(self.photographs.get(heard.case_id, ())),
            "told": self.told(heard.case_id),
            "n_done": 0,
            "n_left": heard.n_left,
            "readings": [
                {
                    "letter": letter,
                    "diagnoses": list(answer.diagnoses),
                    "exit": answer.exit,
                    "gradable": details.get("gradable"),
                    "note": details.get("note"),
                }
                for letter, answer, details in heard.readings
            ],
        }

    def told(self, case_id: str) -> dict[str, Any]:
        """What the patient said, in brief and in full, without what a blind reader must not know.

        Where the questionnaire does not ask, age, sex, body site and skin type come from the manifest.
        """
        ids = self.photographs.get(case_id)
        if not ids:
            return {"said": [], "denied": [], "in_full": []}
        row = {str(k): v for k, v in self._rows.loc[[ids[0]]].reset_index().iloc[0].items()}
        said, denied, in_full = [], [], []
        if self.schema is not None:
            said, denied = in_brief(row, self.schema, is_blind=True)
            in_full = readable(row, self.schema, is_blind=True)
        asked = {subject for subject, _ in said}
        known = {n.replace("_", " "): row.get(n) for n in ("body_site", "sex", "age", "skin_type")}
        held = [(n, _in_words(v)) for n, v in known.items() if n not in asked and not pd.isna(v) and v != ""]
        return {"said": [*held, *said], "denied": denied, "in_full": in_full}

    def diagnoses(self) -> list[dict[str, Any]]:
        """What a reader may type: every diagnosis with its synonyms and definition, by name."""
        return [
            {"name": d.name, "synonyms": list(d.synonyms), "definition": d.definition}
            for d in sorted(self.conditions.diagnoses, key=lambda d: d.name.lower())
        ]

    def photograph(self, case_id: str, number: int, *, is_full: bool) -> bytes:
        """JPEG bytes of a photograph: decoded as the model sees it, upright, re-encoded, no metadata.

        Raises
        ------
        InputError
            If the case has no such photograph or its file cannot be read.
        """
        ids = self.photographs.get(case_id, [])
        if not 0 <= number < len(ids):
            raise InputError(
                f"case {case_id}",
                f"photograph {number + 1}",
                expected=f"one of {len(ids)}",
                todo="Reload the page.",
            )
        return self.picture(ids[number], is_full=is_full)

    def prepare(self, batch: Batch, account: Account) -> None:
        """Re-encode the photographs this reader is likely to see next, in the background."""
        self._hands.submit(self._prepare, batch, account)

    def _prepare(self, batch: Batch, account: Account) -> None:
        for case_id in upcoming(self.store, batch, account.code, n=CASES_AHEAD):
            for image_id in self.photographs.get(case_id, []):
                with suppress(InputError):  # the reader who meets it is told
                    self.picture(image_id, is_full=False)

    def picture(self, image_id: str, *, is_full: bool) -> bytes:
        """The same for one image by its id."""
        if image_id not in self._rows.index:
            raise InputError(
                f"image {image_id}", "no such image", expected="one of the manifest", todo="Reload the page."
            )
        kept = self.cache / shown_name(image_id, is_full=is_full)
        if kept.is_file():
            return kept.read_bytes()
        path = resolve(str(self._rows.loc[image_id, "image"]), self.image_roots, where=f"image {image_id}")
        try:
            pixels = read_image(path).pixels
        except ImageError as error:
            raise InputError(
                f"image {image_id}", str(error), expected="a readable photograph", todo="Report the case."
            ) from error
        picture = Image.fromarray(pixels)
        if not is_full:
            picture.thumbnail((VIEW_EDGE, VIEW_EDGE), Image.Resampling.LANCZOS)
        out = BytesIO()
        picture.save(out, "JPEG", quality=JPEG_QUALITY)
        write_bytes(kept, out.getvalue())
        kept.chmod(0o600)
        return out.getvalue()


def _in_words(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
