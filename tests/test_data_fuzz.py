"""Whatever stands in a file, it ends as a table or as one line that says why not: never a traceback."""

import csv
import io as bytes_io

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from ddeval import io
from ddeval.data.images import ImageError, decode
from ddeval.data.manifest import manifest_problems, manifest_sha256, read_manifest, read_table
from ddeval.data.mapped import apply_mapping
from ddeval.data.mapping import read_mapping
from ddeval.data.proposal import as_yaml, propose
from ddeval.errors import InputError

FIXTURES = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}
CELL = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
HEADER = st.sampled_from(
    ["image_id", "image", "label", "split", "age", "skin_type", "patient_id", "q.a", "x"]
)


@st.composite
def csv_bytes(draw):
    """Something like a manifest, with cells of any text, or no table at all."""
    names = draw(st.lists(HEADER | CELL, min_size=1, max_size=5))
    rows = draw(st.lists(st.lists(CELL, min_size=1, max_size=6), max_size=5))
    text = "\n".join(",".join(row) for row in [names, *rows])
    return draw(st.binary(max_size=80) | st.just(text.encode()) | st.just(text.encode("utf-16")))


WORDS = [
    *(
        "arm",
        "leg",
        "Arm",
        "arm;leg",
        "arm; leg;",
        "face|arm",
        "face, arm",
        "arm/leg",
        ";",
        "|",
        '["arm"]',
        '["a;b"]',
    ),
    *("yes", "no", "unk", "n/a", "-1", "99", "0", "1", "2.5", "2,5", "3 days", "2 weeks", "1e3", "-0", "inf"),
    *(
        "2020-01-02",
        "1/2/2020",
        "I",
        "III-IV",
        "FST3",
        "none",
        "other",
        "true",
        "x",
        "É",
        "ß",
        "'",
        "#a: b",
        "*",
        "[a",
    ),
]


@st.composite
def questionnaire_bytes(draw):
    """A table of which each column holds a few words again and again, as answers do."""
    n_rows = draw(st.integers(4, 16))
    names = draw(
        st.lists(
            st.sampled_from(["where on body", "Age", "itch?", "sex", "dx", "box a", "box b", "photo", "a;b"]),
            min_size=1, max_size=4, unique=True,
        )
    )  # fmt: skip
    columns = []
    for _ in names:
        words = draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=5))
        columns.append(draw(st.lists(st.sampled_from([*words, ""]), min_size=n_rows, max_size=n_rows)))
    buffer = bytes_io.StringIO()
    writer = csv.writer(buffer, delimiter=draw(st.sampled_from(",;\t")))
    writer.writerows([["image_id", *names], *([i, *row] for i, row in enumerate(zip(*columns, strict=True)))])
    return buffer.getvalue().encode()


def a_manifest_is_read_or_refused(tmp_path, content):
    path = tmp_path / "m.csv"
    path.write_bytes(content)
    try:
        frame = read_manifest(path, image_roots=[tmp_path])
    except InputError:
        return
    assert frame["image_id"].is_unique
    assert len(manifest_sha256(frame)) == 64


@settings(max_examples=200, **FIXTURES)
@given(content=csv_bytes())
@example(content=b"image_id,age\na,nan\n")
@example(content=b"image_id,age\na,inf\n")
@example(content=b"image_id,image\na,\\\\h\\x.jpg\n")
@example(content=b'image_id\n"a')
def test_a_manifest_is_read_or_refused_in_one_line(tmp_path, content):
    a_manifest_is_read_or_refused(tmp_path, content)


@pytest.mark.slow
@settings(max_examples=10_000, **FIXTURES)
@given(content=csv_bytes())
def test_ten_thousand_manifests_are_read_or_refused_in_one_line(tmp_path, content):
    a_manifest_is_read_or_refused(tmp_path, content)


def a_proposal_fits_its_table(tmp_path, content):
    """The mapping proposed for any readable table is a mapping, and it accounts for every column."""
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    try:
        found = propose([path], folder=tmp_path)
    except InputError:
        return
    (tmp_path / "m.yaml").write_text(as_yaml(found))
    try:
        result = apply_mapping(read_mapping(tmp_path / "m.yaml"), tmp_path)
    except InputError as error:
        pytest.fail(f"{error}\n{as_yaml(found)}")
    assert result.unused == ()


@settings(max_examples=300, **FIXTURES)
@given(content=csv_bytes() | questionnaire_bytes())
@example(content=b"id,a,a\n1,x,y\n")
@example(content=b"image_id;b\n1;2\n")
@example(content=b"image_id,split\n,\x1f")
@example(content=b"image_id,x\n,")
@example(content=b'image_id,sex\n1,"x\ntables: []"\n2,m\n')
def test_a_proposal_fits_the_table_it_was_made_for(tmp_path, content):
    a_proposal_fits_its_table(tmp_path, content)


@pytest.mark.slow
@settings(max_examples=5_000, **FIXTURES)
@given(content=csv_bytes() | questionnaire_bytes())
def test_five_thousand_proposals_fit_the_table_they_were_made_for(tmp_path, content):
    a_proposal_fits_its_table(tmp_path, content)


def a_path_is_inside_or_refused(tmp_path, path):
    root = tmp_path / "root"
    root.mkdir(exist_ok=True)
    try:
        found = io.resolve(path, [root])
    except InputError:
        return
    assert found.is_relative_to(root.resolve())


PATHS = st.lists(
    st.sampled_from(["..", ".", "", "a", "~", "root", "root2", "%2e%2e", "C:", "etc"]) | CELL, max_size=6
)


@settings(max_examples=300, **FIXTURES)
@given(parts=PATHS, start=st.sampled_from(["", "/", "//", "file://", "\\\\"]))
def test_a_path_lies_under_its_root_or_is_refused(tmp_path, parts, start):
    a_path_is_inside_or_refused(tmp_path, start + "/".join(parts))


@pytest.mark.slow
@settings(max_examples=10_000, **FIXTURES)
@given(parts=PATHS, start=st.sampled_from(["", "/", "//", "file://", "\\\\"]))
def test_ten_thousand_paths_lie_under_their_root_or_are_refused(tmp_path, parts, start):
    a_path_is_inside_or_refused(tmp_path, start + "/".join(parts))


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_two_thousand_damaged_files_of_each_format_end_as_an_image_or_an_image_error(format_):
    rng = np.random.default_rng(7)
    buffer = bytes_io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(buffer, format_)
    for _ in range(2_000):
        damaged = bytearray(buffer.getvalue())
        for at in rng.integers(0, len(damaged), int(rng.integers(1, 60))):
            damaged[at] = rng.integers(0, 256)
        try:
            assert decode(bytes(damaged)).ndim == 3
        except ImageError:
            continue


def test_problems_of_any_table_can_be_listed(tmp_path):
    """Also of one without a single good cell."""
    (tmp_path / "m.csv").write_text("image_id,age,skin_type\n a,old,7\n a,-1,\n")
    assert len(manifest_problems(read_table(tmp_path / "m.csv"))) == 6
