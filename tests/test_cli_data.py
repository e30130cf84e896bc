"""`ddeval data` as it is typed."""

import json

import pytest
from typer.testing import CliRunner

from ddeval.cli import app
from ddeval.data.manifest import read_manifest

SHARES = "train=0.5,test=0.5"


def ddeval(*args, code=0):
    result = CliRunner().invoke(app, ["data", *map(str, args)])
    assert result.exit_code == code, result.output + result.stderr
    return result


@pytest.fixture
def photos(tmp_path):
    """An image folder of two classes with 20 files each."""
    for name in ("nv", "mel"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(20):
            (tmp_path / "photos" / name / f"{i:02d}.jpg").write_bytes(f"{name}{i}".encode())
    return tmp_path / "photos"


def test_import_writes_a_manifest_and_names_the_next_command(photos, tmp_path):
    result = ddeval("import", "imagefolder", photos, "--out", tmp_path / "m.csv", "--split", SHARES)
    assert "40 images, 40 independent groups" in result.stdout
    assert f"next     ddeval data check {tmp_path / 'm.csv'} --images {photos}" in result.stdout
    frame = read_manifest(tmp_path / "m.csv", image_roots=[photos])
    assert frame["split"].value_counts().to_dict() == {"train": 20, "test": 20}


def test_import_again_leaves_the_same_manifest_and_refuses_another(photos, tmp_path):
    args = ("import", "imagefolder", photos, "--out", tmp_path / "m.csv")
    ddeval(*args)
    before = (tmp_path / "m.csv").stat().st_mtime_ns
    assert "left as it is" in ddeval(*args).stdout
    assert (tmp_path / "m.csv").stat().st_mtime_ns == before
    result = ddeval(*args, "--split", SHARES, code=3)
    assert "a manifest that says something else" in result.stderr
    ddeval(*args, "--split", SHARES, "--force")


def test_a_dry_run_writes_nothing(photos, tmp_path):
    ddeval("import", "imagefolder", photos, "--out", tmp_path / "m.csv", "--dry-run")
    assert not (tmp_path / "m.csv").exists()


def test_json_is_all_that_stands_on_stdout(photos, tmp_path):
    result = ddeval("import", "imagefolder", photos, "--out", tmp_path / "m.csv", "--json")
    found = json.loads(result.stdout)
    assert (found["n_images"], found["classes"], found["written"]) == (40, {"mel": 20, "nv": 20}, True)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("import", "ham", "."), "KIND: found ham; expected one of ham10000"),
        (("import", "scin", "nowhere"), "DIR: found nowhere, no such folder"),
        (("check", "nowhere.csv"), "nowhere.csv: found no such file"),
        (("check",), "no ddeval.yaml here or above"),
    ],
)
def test_bad_input_ends_in_one_line_and_exit_code_3(tmp_path, monkeypatch, args, says):
    monkeypatch.chdir(tmp_path)
    result = ddeval(*args, code=3)
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.mark.parametrize("shares", ["train=0.5", "train", "train=x,test=0.5", "dev=0.5,test=0.5"])
def test_shares_that_are_none_are_refused(photos, tmp_path, shares):
    result = ddeval("import", "imagefolder", photos, "--out", tmp_path / "m.csv", "--split", shares, code=3)
    assert "expected shares that sum to 1" in result.stderr


def test_check_lists_every_bad_cell_with_its_line(tmp_path):
    (tmp_path / "m.csv").write_text("image_id,skin_type,split\na,VII,test\nb,I,dev\n")
    result = ddeval("check", tmp_path / "m.csv", code=1)
    assert "2 bad cells" in result.stdout
    words = [line.split() for line in result.stdout.splitlines()]
    assert any(line[:4] == ["line", "2", "skin_type", "'VII'"] for line in words)
    assert any(line[:4] == ["line", "3", "split", "'dev'"] for line in words)


def test_check_finds_leaks_missing_files_and_doubles(photos, tmp_path):
    (photos / "twin.jpg").write_bytes(b"nv0")
    (tmp_path / "m.csv").write_text(
        "image_id,image,label,patient_id,split\n"
        "a,nv/00.jpg,nv,1,train\nb,twin.jpg,nv,1,test\nc,gone.jpg,mel,2,test\nd,../m.csv,mel,3,test\n"
    )
    result = ddeval("check", tmp_path / "m.csv", "--images", photos, "--hash", "--json", code=1)
    found = {check["code"]: check for check in json.loads(result.stdout)["checks"]}
    assert {code for code in found if found[code]["status"] == "failed"} == {
        "DD001",
        "DD003",
        "DD004",
        "DD016",
        "DD017",
    }
    assert "1 of them in two splits" in found["DD003"]["message"]


def test_check_reads_the_answers_by_a_schema(tmp_path):
    schema = {"fields": [{"name": "itch", "kind": "yes_no"}, {"name": "fever", "kind": "yes_no"}]}
    (tmp_path / "s.json").write_text(json.dumps(schema))
    (tmp_path / "m.csv").write_text("image_id,q.itch\na,yes\nb,maybe\nc,\n")
    result = ddeval("check", tmp_path / "m.csv", "--schema", tmp_path / "s.json", "--json", code=1)
    found = json.loads(result.stdout)
    assert found["width"] == 4
    itch, fever = found["fields"]
    assert (itch["n_answered"], itch["n_unknown"], itch["n_not_understood"]) == (1, 1, 1)
    assert (fever["has_column"], fever["n_unknown"]) == (False, 3)
    assert found["not_understood"] == [{"field": "itch", "answer": "maybe", "n": 1}]


def test_check_without_findings_exits_0(photos, tmp_path):
    rows = [f"i{i},{'nv' if i % 2 else 'mel'},p{i},test" for i in range(60)]
    (tmp_path / "m.csv").write_text("\n".join(["image_id,label,patient_id,split", *rows]))
    result = ddeval("check", tmp_path / "m.csv", "--json", code=1)
    failed = [c["code"] for c in json.loads(result.stdout)["checks"] if c["status"] == "failed"]
    assert failed == ["DD011"]  # no row names an image
    images = [f"nv/{i:02d}.jpg" if i < 20 else f"mel/{i - 20:02d}.jpg" for i in range(40)]
    for i in range(40, 60):
        (photos / "nv" / f"{i}.jpg").write_bytes(b"x")
        images.append(f"nv/{i}.jpg")
    rows = [f"{row},{image}" for row, image in zip(rows, images, strict=True)]
    (tmp_path / "m.csv").write_text("\n".join(["image_id,label,patient_id,split,image", *rows]))
    ddeval("check", tmp_path / "m.csv", "--images", photos)


def test_split_refuses_to_replace_splits_unless_forced(photos, tmp_path):
    ddeval("import", "imagefolder", photos, "--out", tmp_path / "m.csv")
    ddeval("split", tmp_path / "m.csv", "--fractions", SHARES)
    assert "split" in read_manifest(tmp_path / "m.csv").columns
    result = ddeval("split", tmp_path / "m.csv", code=3)
    assert "40 images that have a split" in result.stderr
    again = ddeval("split", tmp_path / "m.csv", "--force", "--out", tmp_path / "n.csv", "--seed", "1")
    assert (tmp_path / "n.csv").is_file()
    assert f"next     ddeval data check {tmp_path / 'n.csv'}\n" in again.stdout


def test_a_project_names_the_manifest_the_roots_and_the_schema(photos, tmp_path, monkeypatch):
    ddeval("import", "imagefolder", photos, "--out", tmp_path / "m.csv")
    (tmp_path / "ddeval.yaml").write_text("manifest: m.csv\nimages: photos\n")
    monkeypatch.chdir(photos / "nv")
    result = ddeval("check", "--json", code=1)
    found = {check["code"]: check["status"] for check in json.loads(result.stdout)["checks"]}
    assert (found["DD016"], found["DD017"]) == ("passed", "passed")


@pytest.mark.real_data
def test_the_ten_thousand_real_images_are_imported_with_lesions_kept_whole(real_data, tmp_path):
    folder = real_data / "ham10000"
    shares = "train=0.7,val=0.1,test=0.2"
    result = ddeval(
        "import", "ham10000", folder, "--out", tmp_path / "m.csv", "--split", shares, "--seed", "0", "--json"
    )
    found = json.loads(result.stdout)
    assert (found["n_images"], found["n_groups"]) == (10_015, 7_470)
    frame = read_manifest(tmp_path / "m.csv", image_roots=[folder])  # refuses a lesion in two splits
    assert frame["split"].value_counts(normalize=True)["test"] == pytest.approx(0.2, abs=0.002)


CONDITIONS = """
wart: {class: wart, group: self_care, cost: 1}
lichen: {class: other}
"""


@pytest.mark.parametrize("by", ["flag", "project"])
def test_check_lists_diagnoses_without_a_group_and_takes_none_for_routine(tmp_path, monkeypatch, by):
    """`lichen` has an entry and no group, `odd` no entry; both are counted, most frequent first."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(CONDITIONS)
    (tmp_path / "m.csv").write_text(
        "image_id,label,raw_label\n1,wart,Wart\n2,other,odd\n3,other,lichen\n4,other,odd\n"
    )
    flags = ["--conditions", "c.yaml"] if by == "flag" else []
    if by == "project":
        (tmp_path / "ddeval.yaml").write_text("conditions: c.yaml\n")
    result = CliRunner().invoke(app, ["data", "check", "m.csv", "--json", *flags])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["diagnoses"] == [
        {"raw_label": "odd", "n": 2, "problem": "no such diagnosis"},
        {"raw_label": "lichen", "n": 1, "problem": "no group"},
    ]
    shown = CliRunner().invoke(app, ["data", "check", "m.csv", *flags]).stdout
    assert "2 diagnoses without a group: no decision number counts them" in shown
