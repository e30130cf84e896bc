"""Ten tables as teams keep them, written by hand, and what becomes of them after the edits asked for.

Each table has what the proposal must ask (a piece of each line of `edits`), the answer a person gives
(changes of the mapping), and cells of the manifest that must come out exactly.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Edit = Callable[[dict[str, Any]], None]


def nothing(mapping: dict[str, Any]) -> None:
    """No edit is needed."""


@dataclass(frozen=True)
class Messy:
    """One table and what is expected of it."""

    content: bytes
    asked: tuple[str, ...] = ()
    """A piece of each line the proposal asks to be edited, in order."""
    edit: Edit = nothing
    cells: dict[str, list[str | None]] = field(default_factory=dict)
    """Columns of the manifest after the edits."""
    file: str = "t.csv"


def lines(*rows: str, encoding: str = "utf-8", end: str = "\n") -> bytes:
    return (end.join(rows) + end).encode(encoding)


def german_units(mapping: dict[str, Any]) -> None:
    mapping["answers"]["grosse"]["unit"] = "mm"


def words_for_codes(mapping: dict[str, Any]) -> None:
    mapping["columns"]["sex"]["values"] = {"1": "male", "2": "female", "9": None}
    mapping["answers"]["itch_level"] |= {
        "values": {"0": "none", "1": "mild", "2": "severe"},
        "answers": ["none", "mild", "severe"],
    }


def units(mapping: dict[str, Any]) -> None:
    mapping["answers"]["lesion_size"].pop("bare_numbers")
    mapping["answers"]["duration"]["units"]["fortnight"] = 2


def second_itch(mapping: dict[str, Any]) -> None:
    mapping["ignore"].remove("itch (2)")
    mapping["answers"]["itch_at_night"] = {**mapping["answers"]["itch"], "column": "itch (2)"}


def one_spelling(mapping: dict[str, Any]) -> None:
    mapping["label"]["classes"] = {"melanoma": "Melanoma", "nevus": "Nevus", "wart": "Wart"}


def sound_encoding(mapping: dict[str, Any]) -> None:
    """The question was whether the umlauts are right; they are."""


def groups(mapping: dict[str, Any]) -> None:
    mapping["label"]["classes"] = {"condition 00": "first"}
    mapping["label"]["otherwise"] = "other"


TABLES = {
    "byte-order mark, semicolons, German, decimal commas": Messy(
        b"\xef\xbb\xbf"
        + lines(
            "Fall;Bild;Diagnose;Alter;Geschlecht;Größe;Juckreiz",
            "F1;a.jpg;Melanom;34;w;3,5;ja",
            "F2;b.jpg;Nävus;51;m;12,25;nein",
            "F3;c.jpg;Nävus;k.A.;w;k.A.;keine Angabe",
            "F4;d.jpg;Melanom;60;m;7,75;ja",
            "F5;e.jpg;Nävus;44;w;8,0;nein",
            end="\r\n",
        ),
        ("the unit of 'Größe' is not known",),
        german_units,
        {
            "case_id": ["F1", "F2", "F3", "F4", "F5"],
            "image": ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"],
            "label": ["Melanom", "Nävus", "Nävus", "Melanom", "Nävus"],
            "sex": ["female", "male", "female", "male", "female"],
            "age": ["34", "51", None, "60", "44"],
            "q.grosse": ["3.5", "12.25", None, "7.75", "8.0"],
            "q.juckreiz": ["yes", "no", None, "yes", "no"],
        },
    ),
    "UTF-16 with tabs": Messy(
        lines(
            "image_id\tpath\tdx\tset",
            "x1\timg/x1.PNG\t乾癬\ttraining",
            "x2\timg/x2.PNG\t湿疹\tvalidation",
            "x3\timg/x3.PNG\t湿疹\ttest",
            encoding="utf-16",
        ),
        cells={
            "image_id": ["x1", "x2", "x3"],
            "image": ["img/x1.PNG", "img/x2.PNG", "img/x3.PNG"],
            "label": ["乾癬", "湿疹", "湿疹"],
            "split": ["train", "val", "test"],
        },
    ),
    "a box a column": Messy(
        lines(
            "case_id,photo,diagnosis,texture_raised,texture_flat,texture_scaly,where: arm,where: leg",
            "1,1.jpg,eczema,1,0,0,YES,",
            "2,2.jpg,wart,0,0,0,,YES",
            "3,3.jpg,wart,-1,-1,-1,,",
            "4,4.jpg,eczema,1,1,0,YES,YES",
        ),
        cells={
            "q.texture": ["raised", "none of these", None, "raised;flat"],
            "q.where": ["arm", "leg", None, "arm;leg"],
        },
    ),
    "ids 001 and NA": Messy(
        lines(
            "img_id,file,patient,label,itch",
            "001,001.jpg,NA,wart,yes",
            "002,002.jpg,007,nevus,NA",
            "NA,NA.jpg,7,wart,no",
            "None,None.jpg,null,nevus,yes",
        ),
        cells={
            "image_id": ["001", "002", "NA", "None"],
            "patient_id": ["NA", "007", "7", "null"],
            "q.itch": ["yes", None, "no", "yes"],
        },
    ),
    "two columns of one name": Messy(
        lines(
            "image,label,itch,source,itch,label",
            "a.jpg,wart,yes,clinic A,no,wart",
            "b.jpg,nevus,no,clinic B,no,nevus",
            "c.jpg,wart,yes,clinic A,yes,wart",
        ),
        ("'itch' stands twice with different content; the second is 'itch (2)'",),
        second_itch,
        {
            "q.itch": ["yes", "no", "yes"],
            "q.itch_at_night": ["no", "no", "yes"],
            "label": ["wart", "nevus", "wart"],
        },
    ),
    "mixed units": Messy(
        lines(
            "image,diagnosis,age,lesion size,duration",
            "a.jpg,wart,34 years,5 mm,3 weeks",
            "b.jpg,wart,6 months,1.5 cm,2 days",
            "c.jpg,nevus,2 years,20,1 fortnight",
            "d.jpg,nevus,71 years,8 mm,4 weeks",
        ),
        (
            "'lesion size' is in mm, cm; check `units` (multiples of mm)",
            "some answers have no unit and are not understood; where they are in mm",
            "'duration' is in weeks, days, fortnight; check `units`",
            "what fortnight is in weeks is not known",
        ),
        units,
        {
            "age": ["34", "0.5", "2", "71"],
            "q.lesion_size": ["5 mm", "1.5 cm", "20", "8 mm"],
            "q.duration": ["3 weeks", "2 days", "1 fortnight", "4 weeks"],
        },
    ),
    "codes and words for unknown": Messy(
        lines(
            "image,diagnosis,sex,itch level,fever,fst,doctor said",
            "a.jpg,wart,1,0,1,FST2,n/a",
            "b.jpg,wart,2,1,0,FST5,psoriasis",
            "c.jpg,nevus,9,-1,-1,n/a,eczema",
            "d.jpg,nevus,2,2,1,FST1,psoriasis",
            "e.jpg,nevus,1,1,0,FST3,eczema",
            "f.jpg,wart,2,0,0,FST3,n/a",
        ),
        (
            "what 1, 2, 9 of 'sex' means is not known",
            "'itch level' holds codes (0, 1, 2); say what they mean",
        ),
        words_for_codes,
        {
            "sex": ["male", "female", None, "female", "male", "female"],
            "skin_type": ["II", "V", None, "I", "III", "III"],
            "q.itch_level": ["none", "mild", None, "severe", "mild", "none"],
            "q.fever": ["yes", "no", None, "yes", "no", "no"],
            "q.doctor_said": [None, "psoriasis", "eczema", "psoriasis", "eczema", None],
        },
    ),
    "several answers a cell": Messy(
        lines(
            "image,diagnosis,sites,triggers",
            "a.jpg,wart,arm|leg,\"['sun', 'stress']\"",
            'b.jpg,wart,arm,"[""sun""]"',
            "c.jpg,nevus,leg|face|arm,[]",
            "d.jpg,nevus,n/a,\"['stress']\"",
            "e.jpg,nevus,face,\"['sun']\"",
            "f.jpg,wart,face|leg,\"['stress', 'sun']\"",
        ),
        cells={
            "q.sites": ["arm;leg", "arm", "leg;face;arm", None, "face", "face;leg"],
            "q.triggers": ["sun;stress", "sun", None, "stress", "sun", "stress;sun"],
        },
    ),
    "three photographs a row, Windows encoding": Messy(
        lines(
            "consultation_id,photo_1,photo_2,photo_3,diagnosis,remark,exported",
            "K1,a.jpg,b.jpg,,Müller-Haut,seit gestern schlimmer,2026-01-02",
            "K2,c.jpg,,,Ekzem,juckt sehr,2026-01-03",
            "K3,d.jpg,e.jpg,f.jpg,Ekzem,wie früher,2026-01-04",
            encoding="cp1252",
        ),
        ("t.csv is not UTF-8 and was read as cp1252",),
        sound_encoding,
        {
            "image_id": ["K1-1", "K1-2", "K2-1", "K3-1", "K3-2", "K3-3"],
            "label": ["Müller-Haut", "Müller-Haut", "Ekzem", "Ekzem", "Ekzem", "Ekzem"],
        },
    ),
    "spaces, letter case, line breaks, empty and constant columns": Messy(
        lines(
            "File,Diagnosis,Sex,Region,notes,empty,study",
            'a.jpg,Melanoma , F ,back,"first line\nsecond",,S1',
            "b.jpg,melanoma,M, back,,,S1",
            "c.jpg,Nevus,f,arm,x,,S1",
            "d.jpg, NEVUS,F,arm,y,,S1",
            "e.jpg,Wart,M,hand,z,,S1",
        ),
        ("2 diagnoses of 'Diagnosis' differ only in case or spaces",),
        one_spelling,
        {
            "label": ["Melanoma", "Melanoma", "Nevus", "Nevus", "Wart"],
            "raw_label": ["Melanoma", "melanoma", "Nevus", "NEVUS", "Wart"],
            "sex": ["female", "male", "female", "female", "male"],
            "body_site": ["back", "back", "arm", "arm", "hand"],
        },
    ),
    "more diagnoses than classes": Messy(
        lines("image,diagnosis", *(f"{i}.jpg,condition {i:02d}" for i in range(61))),
        ("61 of 61 diagnoses have no class (null)",),
        groups,
        {"label": ["first", *["other"] * 60], "raw_label": [f"condition {i:02d}" for i in range(61)]},
    ),
    "no photograph, no diagnosis": Messy(
        lines("nr,smoker", "1,yes", "2,no", "3,yes"),
        ("no column looks like images or their ids; 'nr' was taken", "no column is called a diagnosis"),
        cells={"image_id": ["1", "2", "3"], "q.smoker": ["yes", "no", "yes"]},
    ),
}
