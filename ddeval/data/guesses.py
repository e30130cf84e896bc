"""Guesses: what might a column hold, judged by its name and its different words?

Pure functions over words; `ddeval.data.proposal` makes a mapping of them. Each is deliberately narrow:
what it does not know it calls None, and the proposal says so.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ddeval import tables
from ddeval.data.cells import literal
from ddeval.data.fields import SEPARATOR, clean
from ddeval.data.questionnaire import NO, NUMBER, YES

UNKNOWN = frozenset(
    {"-1", "-9", "-99", "n/a", "na", "n.a.", "nan", "null", "unknown", "unk", "not known", "?", "-", "--"}
    | {"missing", "not stated", "not specified", "unspecified", "don't know", "i don't know", "dk"}
    | {"k.a.", "keine angabe", "unbekannt", "weiß nicht", "inconnu", "desconocido", "prefer not to say"}
)
"""Words that mean "not known" in a questionnaire."""
UNKNOWN_NUMBERS = frozenset({"-1", "-9", "-99", "-999", "99", "999", "9999"})
"""Numbers that mean it where they lie outside all others."""

NAMES = {
    "image": "image image_path path image_file file filename file_name img img_path photo photo_path "
    "filepath file_path picture bild foto datei image_name img_name ddi_file",
    "image_id": "image_id img_id imageid isic_id photo_id picture_id sample_id md5hash bild_id",
    "case_id": "case_id case caseid consultation_id consultation encounter_id visit_id request_id "
    "ticket_id fall fall_id fallnummer submission_id",
    "patient_id": "patient_id patient patientid pid subject_id subject person_id user_id client_id mrn "
    "patientennummer patient_nr pat_id pat",
    "lesion_id": "lesion_id lesion lesionid mole_id",
    "label": "label diagnosis dx diagnostic final_diagnosis disease condition class target ground_truth "
    "diagnose diagnosis_text skin_condition weighted_skin_condition_label dermatologist_diagnosis",
    "label_basis": "label_basis dx_type diagnosis_confirm_type confirmation basis",
    "split": "split set fold partition subset dataset_split aufteilung",
    "sex": "sex gender sex_at_birth geschlecht geschl sexe sexo",
    "age": "age age_years age_approx age_in_years alter edad patient_age",
    "skin_type": "skin_type fitzpatrick fitzpatrick_skin_type fitzpatrick_type fitzpatrick_scale fst "
    "fitspatrick skintype phototype phototyp fototyp hauttyp skin_tone",
    "body_site": "body_site localization localisation site anatom_site anatom_site_general region "
    "location body_location lokalisation",
    "source": "source dataset center centre clinic device camera",
}
"""Column of the manifest -> names under which teams keep it, likeliest first."""
_NUMBER = "_?(id|ids|no|nr|num|number|nummer|key|code|ref)"
PATTERNS = {
    "case_id": rf"(case|consult|consultation|encounter|visit|request|ticket|submission|fall){_NUMBER}",
    "patient_id": rf"(patient|patienten|pat|subject|client|person|user|member){_NUMBER}",
    "lesion_id": rf"(lesion|mole|naevus|nevus){_NUMBER}",
    "image_id": rf"(image|img|photo|picture|bild|foto){_NUMBER}",
    "label": "((final|main|primary|confirmed|gold|true|reference|consensus|clinical|derm)_)?"
    "(dx|diagnosis|diagnose|diagnoses|condition|label)(_(1|final|name|text|label|class|string|code))?",
}
"""Column of the manifest -> names of it that `NAMES` does not list."""

CODES: dict[str, dict[str, str]] = {
    "sex": dict.fromkeys(("f", "female", "w", "woman", "weiblich", "frau", "femme", "mujer"), "female")
    | dict.fromkeys(("m", "male", "man", "männlich", "mann", "homme", "hombre"), "male"),
    "split": dict.fromkeys(("train", "training", "trn"), "train")
    | dict.fromkeys(("val", "valid", "validation", "dev", "development"), "val")
    | dict.fromkeys(("calibration", "calib", "cal"), "calibration")
    | dict.fromkeys(("test", "testing", "tst", "holdout", "hold-out"), "test"),
    "label_basis": dict.fromkeys(("histology", "histo", "histopathology", "biopsy", "path"), "histology")
    | dict.fromkeys(("follow_up", "follow-up", "followup"), "follow_up")
    | dict.fromkeys(("consensus", "expert consensus", "panel"), "consensus")
    | dict.fromkeys(("single", "single reader", "one dermatologist", "clinical"), "single"),
}
"""Column of the manifest -> word of a table -> ours."""
UNITS: tuple[dict[str, float], ...] = (
    {"mm": 1, "cm": 10, "m": 1000, "in": 25.4, "inch": 25.4, "inches": 25.4},
    {"hour": 1 / 24, "hours": 1 / 24, "h": 1 / 24, "day": 1, "days": 1, "d": 1, "week": 7, "weeks": 7, "w": 7}
    | {"wk": 7, "wks": 7, "month": 30.4375, "months": 30.4375, "mo": 30.4375, "year": 365.25, "years": 365.25}
    | {"y": 365.25, "yr": 365.25, "yrs": 365.25, "tag": 1, "tage": 1, "woche": 7, "wochen": 7}
    | {"monat": 30.4375, "monate": 30.4375, "jahr": 365.25, "jahre": 365.25},
)
"""Lengths in millimetres, times in days."""
HIDDEN = re.compile(
    r"doctor|physician|arzt|dermatologist|diagnos|(^|_)dx(_|$)|biops|histo|treat|therap|medicat|said|referr"
)
"""Names of questions whose answer may tell the diagnosis."""
LABELLED = re.compile(r"label|annotat|\brater|reader|gradable|dermatologist|confidence")
"""Names of columns that say how the diagnosis was made, not what the patient answered."""
SEPARATE = re.compile(r"^(has|is|had|any|q|question|symptom|sym|do|does)_", re.IGNORECASE)
"""Beginnings that yes/no questions of their own share; other shared beginnings make one question of boxes."""

Kind = Literal["yes_no", "number", "single", "separator", "list", "constant", "free text", "date"]


@dataclass(frozen=True)
class Guess:
    """What a column seems to hold."""

    kind: Kind
    words: tuple[str, ...] = ()
    """The answers, in order of first appearance (single, separator, list)."""
    separator: str = ""
    units: tuple[str, ...] = ()
    has_bare_numbers: bool = False
    has_decimal_comma: bool = False
    low: float = 0.0
    high: float = 0.0


def role(name: str) -> str | None:
    """The column of the manifest that a table's column is probably called for."""
    plain = snake(name)
    listed = next((target for target, names in NAMES.items() if plain in names.split()), None)
    return listed or next((t for t, pattern in PATTERNS.items() if re.fullmatch(pattern, plain)), None)


def rank(target: str, name: str) -> int:
    """How likely a name is for its target: 0 is likeliest."""
    names, plain = NAMES[target].split(), snake(name)
    return names.index(plain) if plain in names else len(names)


def snake(name: str) -> str:
    """A name as lower-case letters, digits and _: `Patient ID` is patient_id."""
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())
    folded = unicodedata.normalize("NFKD", split.replace("ß", "ss")).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^a-z0-9]+", "_", folded.lower()).strip("_")
    return plain if re.match(r"[a-z]", plain) else f"q_{plain}".rstrip("_")


def unknown_words(words: Iterable[str]) -> list[str]:
    """Those of the words that mean "not known"; a number only where it lies far from all other numbers."""
    words = list(words)
    numbers = {w: float(w) for w in words if re.fullmatch(r"[+-]?\d+(\.\d+)?", w)}
    others = [value for word, value in numbers.items() if word not in UNKNOWN_NUMBERS]
    found = [w for w in words if w not in numbers and is_unknown(w)]
    for word in numbers:
        if word in UNKNOWN_NUMBERS:
            is_negative = numbers[word] < 0 and all(value >= 0 for value in others)
            is_far = bool(others) and numbers[word] >= 2 * max(others) and numbers[word] > 0
            if is_negative or (is_far and max(others) > 0):
                found.append(word)
    return found


def is_unknown(word: str) -> bool:
    """Whether a word, such as n/a or AGE_UNKNOWN, means "not known"."""
    return clean(word) in UNKNOWN or re.search(r"[_ ]unknown$|^[?.-]+$", clean(word)) is not None


def skin_types(words: Iterable[str]) -> dict[str, str]:
    """Word -> skin type, for those written as FST3, type iii, 3.0, III, II-III, 2/3 or 34 (DDI's III-IV)."""
    roman = {str(n): name for n, name in enumerate(tables.SKIN_TYPES, start=1)}
    number = {name: n for n, name in roman.items()}
    found = {}
    for word in words:
        plain = re.sub(r"^(fitzpatrick|fst|skin ?type|type|typ)?[ _-]*", "", clean(word)).removesuffix(".0")
        ends = re.fullmatch(r"([iv]+) ?[-–/] ?([iv]+)", plain)
        if ends:
            plain = "-".join(number.get(end.upper(), end) for end in ends.groups())
        if plain in roman:
            found[word] = roman[plain]
        elif plain.upper() in tables.SKIN_TYPES:
            found[word] = plain.upper()
        elif plain in ("12", "34", "56") or re.fullmatch(r"[1-6] ?[-–/] ?[1-6]", plain):
            low, high = plain[0], plain[-1]
            if low < high:
                found[word] = f"{roman[low]}-{roman[high]}"
    return found


def codes(target: str, words: Iterable[str]) -> dict[str, str]:
    """Word -> ours, for the words that are known for this column of the manifest."""
    if target == "skin_type":
        return skin_types(words)
    return {word: CODES[target][clean(word)] for word in words if clean(word) in CODES[target]}


def guess(words: Sequence[str], *, n_rows: int, has_empty: bool = True) -> Guess:
    """What a column with these different words in `n_rows` filled cells holds; unknown words left out."""
    if len(words) == 1 and not has_empty:
        return Guess("constant", tuple(words))
    if words and all(is_box(w) or clean(w) in (*YES, *NO, "ja", "nein", "oui", "non") for w in words):
        return Guess("yes_no", tuple(words))
    if len(words) < 2:
        return Guess("constant", tuple(words))
    lists = [literal(word) for word in words]
    if all(isinstance(value, list) and _may_be(value) for value in lists):
        return Guess("list", tuple(dict.fromkeys(part for value in lists for part in value)))
    if all(re.fullmatch(r"\d{4}-\d\d-\d\d.*|\d{1,2}[./]\d{1,2}[./]\d{2,4}.*", word) for word in words):
        return Guess("date")
    number = _number(words)
    if number is not None:
        return number
    for separator in (";", "|", ",", "/"):
        parts = [[part.strip() for part in word.split(separator)] for word in words]
        different = Counter(part for row in parts for part in dict.fromkeys(row) if part)
        shared = sum(n > 1 for n in different.values())
        is_several = any(len(row) > 1 for row in parts)
        is_ours = separator == SEPARATOR  # no answer may hold it, so it always separates
        is_recurring = is_ours or shared >= len(different) / 2
        if is_several and len(different) <= min(40, n_rows / 2) and is_recurring and _may_be(different):
            return Guess("separator", tuple(different), separator=separator)
    if len(words) <= 30 and len(words) <= n_rows / 2 and _may_be(words):
        return Guess("single", tuple(words))
    return Guess("free text", tuple(words))


def _may_be(answers: Iterable[object]) -> bool:
    """Whether these can be answers of a question: words that do not hold what separates answers."""
    return all(isinstance(answer, str) and SEPARATOR not in answer for answer in answers)


def factor(unit: str, base: str) -> float | None:
    """How many `base` one `unit` is, for lengths and times; None where that is not known."""
    if unit == base:
        return 1.0
    for scale in UNITS:
        if unit in scale and base in scale:
            return round(scale[unit] / scale[base], 6)
    return None


def named_unit(name: str) -> str | None:
    """The unit a column's name ends in, as `size_mm` does; None for words of one letter, and for `in`."""
    last = snake(name).rpartition("_")
    known = last[1] and len(last[2]) > 1 and last[2] != "in" and any(last[2] in scale for scale in UNITS)
    return last[2] if known else None


def is_box(word: str) -> bool:
    """Whether a word may stand in a box that is ticked or not."""
    return clean(word) in {"1", "0", "1.0", "0.0", "x", "t", "f", *YES, *NO}


def box_groups(names: Sequence[str]) -> dict[str, list[str]]:
    """Columns of boxes by the longest beginning that at least two share, up to `_ . : = / -` or a space."""
    ends = re.compile(r"[_.:=/\- ]+")
    beginnings = {
        n: [n[: m.end()] for m in ends.finditer(n) if m.start() > 0 and m.end() < len(n)] for n in names
    }
    groups: dict[str, list[str]] = {}
    left = list(names)
    while left:
        sizes: dict[str, int] = {}
        for name in left:
            for beginning in beginnings[name]:
                sizes[beginning] = sizes.get(beginning, 0) + 1
        shared = [b for b, n in sizes.items() if n > 1]
        if not shared:
            break
        best = max(shared, key=lambda b: (sizes[b], len(b)))
        groups[best] = [name for name in left if best in beginnings[name]]
        left = [name for name in left if name not in groups[best]]
    return groups


def _number(words: Sequence[str]) -> Guess | None:
    """A number where nine words in ten are one; few small whole numbers are codes, and 001 is an id."""
    if any(re.fullmatch(r"0\d+", word) for word in words):
        return None
    has_comma = any(re.fullmatch(r"[+-]?\d+,\d+\D*", word) for word in words)
    if has_comma and any(re.search(r"\d\.\d", word) for word in words):
        has_comma = False
    plain = [re.sub(r"(\d),(\d)", r"\1.\2", word) if has_comma else word for word in words]
    found = [m for m in (NUMBER.fullmatch(clean(word)) for word in plain) if m]
    if len(found) < 0.9 * len(words) or not found:
        return None
    values = [float(m[1]) for m in found]
    units = tuple(dict.fromkeys(m[2] for m in found if m[2]))
    if len(units) > 8 or not all(re.fullmatch(r"[^\W\d_]+\.?|%", unit) for unit in units):
        return None  # hashes and dates begin with digits too
    is_code = not units and len(set(values)) <= 7 and all(v == int(v) and abs(v) < 10 for v in values)
    if is_code and len(found) == len(words):
        return Guess("single", tuple(words))
    bare = any(m[2] is None for m in found)
    return Guess("number", (), "", units, bare, has_comma, min(values), max(values))
