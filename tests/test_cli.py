"""The command line: exit codes, one-line errors, JSON alone on stdout, the next command named."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import typer
import yaml
from typer.testing import CliRunner

from ddeval import cli, io
from ddeval.cli import console
from ddeval.errors import InputError
from tests.score_fixture import CLASSES, make_artefact, make_manifest

NAMES = ("acne", "eczema", "tinea")
QUICK = ("--n-resamples", "50", "--calibrators", "none")


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    """Commands write runs/ and reports/ into the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("DDEVAL_ARTEFACTS", "DDEVAL_MANIFEST", "DDEVAL_CACHE"):
        monkeypatch.delenv(name, raising=False)


def invoke(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def last_line(result) -> str:
    return result.stderr.strip().splitlines()[-1]


def predictions_file(folder: Path, n=30) -> tuple[Path, Path]:
    """A manifest of `n` test images and a CSV of their probabilities."""
    rng = np.random.default_rng(0)
    labels = np.array(NAMES)[rng.integers(0, 3, n)]
    ids = [f"im{i}" for i in range(n)]
    pd.DataFrame({"image_id": ids, "label": labels, "split": "test"}).to_csv(
        folder / "manifest.csv", index=False
    )
    probs = rng.dirichlet(np.ones(3), n)
    pd.DataFrame(probs, columns=list(NAMES)).assign(image_id=ids).to_csv(folder / "model.csv", index=False)
    return folder / "model.csv", folder / "manifest.csv"


# --- what the exit code says ------------------------------------------------------------------------


def test_a_run_that_works_exits_0_and_names_report_and_next_command(tmp_path):
    path, manifest = predictions_file(tmp_path)
    result = invoke("score", path, "--data", manifest, *QUICK)
    assert result.exit_code == cli.OK, result.stderr
    assert re.search(r"top-1 +\d+\.\d % +\d+\.\d – \d+\.\d", result.stdout)
    assert "95 % interval (images)" in result.stdout
    page = re.search(r"report +(\S+)", result.stdout)[1]
    assert Path(page).read_text().lower().startswith("<!doctype html>")
    assert re.search(r"\nnext +ddeval ", result.stdout)


def test_an_unknown_option_exits_2():
    assert invoke("score", "x", "--nonsense").exit_code == cli.USAGE
    assert invoke("score").exit_code == cli.USAGE
    assert invoke("scores").exit_code == cli.USAGE
    assert invoke("score", "x", "--dtype", "fp8").exit_code == cli.USAGE
    assert invoke("score", "x", "--batch-size", "-1").exit_code == cli.USAGE


def test_bad_input_exits_3_in_one_line(tmp_path):
    path, manifest = predictions_file(tmp_path)
    result = invoke("score", path, "--data", manifest, "--id-column", "key")
    assert result.exit_code == cli.BAD_INPUT
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"ddeval: {path} line 1: found no column 'key'; expected one of ")
    assert result.stdout == ""


def raising(error):
    def command() -> None:
        raise error

    return command


@pytest.fixture
def commanded(monkeypatch):
    """Run a command that raises an error, through the whole command line."""

    def run(error):
        monkeypatch.setitem(cli.COMMANDS, "boom", (f"{__name__}:boom", "Raise."))
        monkeypatch.setattr(sys.modules[__name__], "boom", raising(error), raising=False)
        return invoke("boom")

    return run


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("m.csv", "x", expected="y", todo="Z."), 3, "ddeval: m.csv: found x; expected y. Z."),
        (RuntimeError("no"), 4, "ddeval: this is our fault (RuntimeError); please report the lines above"),
        (OSError(28, "No space left on device", "runs/a"), 4, "ddeval: runs/a: No space left on device"),
        (KeyboardInterrupt(), 130, "ddeval: interrupted; what was finished is kept, and the same command"),
        (typer.Exit(cli.FINDINGS), 1, None),
        (typer.Exit(), 0, None),
    ],
)
def test_each_way_to_end_has_its_exit_code(commanded, error, code, line):
    result = commanded(error)
    assert result.exit_code == code
    if line:
        assert last_line(result).startswith(line)


def test_our_own_fault_shows_its_traceback(commanded):
    assert "Traceback (most recent call last)" in commanded(RuntimeError("no")).stderr


def test_an_error_the_user_can_put_right_shows_none(commanded):
    result = commanded(InputError("m.csv", "x", expected="y", todo="Z."))
    assert "Traceback" not in result.stderr


def test_version_and_help():
    assert re.fullmatch(r"ddeval \d+\.\d+\.\d+\n", invoke("--version").stdout)
    assert "Exit codes: 0 ok, 1 findings or gate failed, 2 usage, 3 bad input" in invoke("--help").stdout


def test_interrupting_a_run_exits_130_and_keeps_what_is_done(tmp_path):
    """A real SIGINT to a real process; the same command then goes on from the shards that are done."""
    manifest = make_manifest(tmp_path / "set", 600)  # so many that the signal comes in time
    artefact = make_artefact(tmp_path / "tiny")
    small = ("--batch-size", "1", "--shard-size", "1", "--workers", "1", *QUICK)
    command = [
        sys.executable,
        "-m",
        "ddeval",
        "score",
        artefact,
        "--data",
        manifest,
        "--out",
        tmp_path / "run",
    ]
    process = subprocess.Popen(
        [*map(str, command), *small],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )
    parts = tmp_path / "run" / "parts"
    while process.poll() is None and len(list(parts.glob("part-*"))) < 2:
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == cli.INTERRUPTED, stderr
    assert "Traceback" not in stderr
    n_done = len(list(parts.glob("part-*")))
    assert 2 <= n_done < 600
    assert not (tmp_path / "run" / "predictions.parquet").exists()


def test_a_reader_that_goes_away_is_no_fault(tmp_path):
    path, manifest = predictions_file(tmp_path)
    command = (
        f"{sys.executable} -m ddeval score {path} --data {manifest} --json {' '.join(QUICK)} | head -c 1"
    )
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, cli.BROKEN_PIPE)


# --- what stands on stdout --------------------------------------------------------------------------


def test_json_is_alone_on_stdout(tmp_path):
    path, manifest = predictions_file(tmp_path)
    result = invoke("score", path, "--data", manifest, "--json", *QUICK)
    found = json.loads(result.stdout)
    assert {"run", "n_images", "n_groups", "labels", "metrics", "per_class", "confusion"} <= set(found)
    assert set(found["metrics"]["top_1_accuracy"]) >= {"value", "ci_low", "ci_high"}
    assert found["n_images"] == 30
    assert "model" in result.stderr  # what is scored is said, but not on stdout


def test_a_dry_run_writes_nothing(tmp_path):
    path, manifest = predictions_file(tmp_path)
    before = set(tmp_path.rglob("*"))
    result = invoke("score", path, "--data", manifest, "--dry-run")
    assert (result.exit_code, result.stdout) == (0, "")
    assert re.search(r"model  ·  test 30 images, 30 images  ·  runs/model-test-[0-9a-f]{8}", result.stderr)
    assert set(tmp_path.rglob("*")) == before


def test_numbers_of_a_run_are_made_again_without_its_model(tmp_path):
    path, manifest = predictions_file(tmp_path)
    assert invoke("score", path, "--data", manifest, *QUICK).exit_code == 0
    path.unlink()
    run = next((tmp_path / "runs").iterdir())
    first = json.loads((run / "labels-v0" / "metrics.json").read_text())
    again = invoke("score", run, "--json", *QUICK)
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout)["metrics"] == first["metrics"]


def test_the_table_shows_how_sure_an_answer_must_be():
    numbers = {"value": 0.5, "ci_low": 0.4, "ci_high": None}
    metrics = dict.fromkeys(("top_1_accuracy", "coverage_at_risk_5", "auroc_macro"), numbers)
    result = {"metrics": metrics, "confusion": {"class_names": ["a", "b"]}, "excluded_classes": ["b"],
              "group_unit": "patients", "n_quarantined": 3, "n_unlabelled": 2}  # fmt: skip
    assert console.headline(result).splitlines() == [
        "                       value    95 % interval (patients)",
        "top-1                 50.0 %",
        "AUROC (macro, 1/2)     0.500",
        "answers only when sure enough that ≤ 5 % of answers are wrong: answers 50.0 %",
        "unreadable images, not scored: 3 (quarantine.parquet)",
        "images without a label, not counted: 2",
    ]


@pytest.mark.parametrize(
    ("number", "unit", "text"),
    [
        (0.7364, "percent", "73.6 %"),
        (0.9671, "probability", "0.967"),
        (None, "percent", "n/a"),
        (np.nan, "percent", "n/a"),
    ],
)
def test_numbers_are_rounded_by_one_rule(number, unit, text):
    assert console.value(number, unit) == text


def test_no_bar_is_drawn_where_nobody_watches(capsys):
    with console.progress("scoring", 10) as tick:
        tick(5)
    assert capsys.readouterr() == ("", "")


def test_the_bar_shows_rate_and_time_left_on_a_terminal(tmp_path):
    """A real pseudo-terminal on stderr; stdout stays clean."""
    script = ("import time; from ddeval.cli import console\n"
              "with console.progress('scoring', 200) as tick:\n"
              "    for _ in range(20): tick(10); time.sleep(0.05)\n")  # fmt: skip
    main, child = os.openpty()
    done = subprocess.run([sys.executable, "-c", script], stderr=child, stdout=subprocess.PIPE, check=True)
    os.close(child)
    shown = b""
    while True:
        try:
            shown += os.read(main, 65536)
        except OSError:
            break
        if not shown or len(shown) > 10**6:
            break
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert done.stdout == b""
    assert "scoring" in text
    assert "200/200" in text
    assert "img/s" in text


# --- models -----------------------------------------------------------------------------------------


def config_by_environment(tmp_path, monkeypatch, n):
    """`n` rows of two photographs a patient; the artefact lies under $DDEVAL_ARTEFACTS by its name."""
    monkeypatch.setenv("DDEVAL_ARTEFACTS", str(tmp_path / "artefacts"))
    monkeypatch.setenv("DDEVAL_MANIFEST", str(big_manifest(tmp_path / "set", n)))
    make_artefact(tmp_path / "artefacts" / "gen2a_medsiglip")
    result = invoke("score", "gen2a_medsiglip", "--batch-size", "512", *QUICK)
    assert result.exit_code == 0, result.stderr
    assert "gen2a_medsiglip  ·  " in result.stderr
    assert f"test {n:,} images, {-(-n // 2):,} patients" in result.stderr
    assert re.search(r"top-1 +\d+\.\d %", result.stdout)


def test_a_config_finds_its_artefact_and_manifest_by_the_environment(tmp_path, monkeypatch):
    config_by_environment(tmp_path, monkeypatch, 1_557)


@pytest.mark.slow
def test_the_whole_test_split_is_scored_through_a_config(tmp_path, monkeypatch):
    config_by_environment(tmp_path, monkeypatch, 15_561)


def big_manifest(folder: Path, n: int) -> Path:
    small = pd.read_csv(make_manifest(folder, 40), dtype=object)
    frame = small.iloc[np.arange(n) % 40].reset_index(drop=True)
    frame = frame.assign(
        image_id=[f"im{i:05d}" for i in range(n)],
        case_id=[f"c{i // 2}" for i in range(n)],
        patient_id=[f"p{i // 2}" for i in range(n)],
        split="test",
    )
    frame.to_csv(folder / "manifest.csv", index=False)
    return folder / "manifest.csv"


def test_an_artefact_that_cannot_be_reached_names_what_was_tried_and_what_helps(tmp_path, monkeypatch):
    monkeypatch.setenv("DDEVAL_MANIFEST", str(make_manifest(tmp_path)))
    result = invoke("score", "gen2a_medsiglip")
    assert result.exit_code == cli.BAD_INPUT
    assert result.stderr.count("\n") == 1
    assert "$DDEVAL_ARTEFACTS" in result.stderr
    assert "`ddeval score demo` works without network" in result.stderr
    assert re.search(r"nothing at \S*gen2a_medsiglip", result.stderr)


def test_a_model_without_a_manifest_says_how_to_name_one(tmp_path):
    result = invoke("score", make_artefact(tmp_path / "tiny"))
    assert result.exit_code == cli.BAD_INPUT
    assert "Pass --data MANIFEST" in result.stderr


def test_jobs_that_are_not_the_last_say_so_and_the_last_one_makes_the_report(tmp_path):
    manifest, artefact = make_manifest(tmp_path), make_artefact(tmp_path / "tiny")
    options = ("--data", manifest, "--out", tmp_path / "run", "--shard-size", "8", *QUICK)
    for i in range(3):
        job = invoke("score", artefact, *options, "--shard", f"{i}/4")
        assert (job.exit_code, f"shard {i}/4 is done" in job.stdout) == (0, True)
    last = invoke("score", artefact, *options, "--shard", "3/4")
    assert "top-1" in last.stdout
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.slow
def test_four_processes_of_torchrun_write_the_bytes_of_one(tmp_path):
    manifest, artefact = make_manifest(tmp_path), make_artefact(tmp_path / "tiny")
    options = ["--data", manifest, "--shard-size", "8", "--batch-size", "4", *QUICK]
    assert invoke("score", artefact, "--out", tmp_path / "one", *options).exit_code == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4"]
    command = [*torchrun, "-m", "ddeval", "score", artefact, "--out", tmp_path / "four", *options]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("predictions.parquet", "embeddings.npy", "labels-v0/metrics.parquet"):
        one, four = ((tmp_path / run / name).read_bytes() for run in ("one", "four"))
        assert name.startswith("labels") or one == four, name
    assert "top-1" in done.stdout


def test_the_commands_of_the_deployment_page_use_options_there_are():
    text = (Path(__file__).parents[1] / "docs" / "deploy.md").read_text()
    known = {name for parameter in cli.load_command("score").params for name in parameter.opts}
    commands = re.findall(r"ddeval score (?:[^`\n]|\\\n|\n\s+--)+", text)
    used = {option for command in commands for option in re.findall(r"--[a-z-]+", command)}
    assert {"--shard", "--out", "--data", "--images"} <= used <= known


def test_scripts_and_jobs_of_the_deployment_page_parse():
    text = (Path(__file__).parents[1] / "docs" / "deploy.md").read_text()
    blocks = re.findall(r"```(\w+)\n(.*?)```", text, flags=re.DOTALL)
    scripts = [body for kind, body in blocks if kind == "bash"]
    scripts += [
        re.sub(r"(?m)^\$ ", "", "\n".join(line for line in body.splitlines() if line.startswith(("$ ", " "))))
        for kind, body in blocks
        if kind == "console"
    ]
    for script in scripts:
        done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (script, done.stderr)
    jobs = [yaml.safe_load(body) for kind, body in blocks if kind == "yaml"]
    indexed = next(job for job in jobs if job.get("kind") == "Job")["spec"]
    (container,) = indexed["template"]["spec"]["containers"]
    assert indexed["completionMode"] == "Indexed"
    assert f'--shard "$JOB_COMPLETION_INDEX/{indexed["completions"]}"' in container["args"][0]
    for way in ("SLURM_ARRAY_TASK_ID", "torchrun --standalone", "--engine ray"):
        assert any(way in script for script in scripts), way


@pytest.mark.parametrize(
    ("extra", "found"),
    [
        (("--shard", "0/2"), "--engine ray: found --shard too"),
        ((), "--engine ray: found no package ray"),
    ],
)
def test_ray_is_refused_in_one_line(tmp_path, monkeypatch, extra, found):
    monkeypatch.setitem(sys.modules, "ray", None)
    manifest, artefact = make_manifest(tmp_path), make_artefact(tmp_path / "tiny")
    result = invoke(
        "score", artefact, "--data", manifest, "--out", tmp_path / "run", "--engine", "ray", *extra
    )
    assert (result.exit_code, found in result.stderr) == (3, True), result.stderr
    assert not (tmp_path / "run").exists()


def test_going_on_with_another_batch_size_is_refused_by_name(tmp_path):
    manifest, artefact = make_manifest(tmp_path), make_artefact(tmp_path / "tiny")
    options = ("score", artefact, "--data", manifest, "--out", tmp_path / "run", *QUICK)
    assert invoke(*options, "--batch-size", "8").exit_code == 0
    result = invoke(*options, "--batch-size", "16")
    assert result.exit_code == cli.BAD_INPUT
    assert "found batch size 16; expected batch size 8, with which this run began" in result.stderr


def test_a_checkpoint_of_nan_is_refused(tmp_path):
    artefact = make_artefact(tmp_path / "tiny")
    state = torch.load(artefact / "best_model.pt", weights_only=True)
    next(v for v in state.values() if v.is_floating_point())[0] = torch.nan
    with io_open(artefact / "best_model.pt") as file:
        torch.save(state, file)
    result = invoke("score", artefact, "--data", make_manifest(tmp_path))
    assert result.exit_code == cli.BAD_INPUT
    assert result.stderr.count("\n") == 1


def io_open(path):
    return path.open("wb")


def test_a_project_gives_manifest_runs_and_reports(tmp_path, monkeypatch):
    path, _ = predictions_file(tmp_path)
    (tmp_path / "ddeval.yaml").write_text("manifest: manifest.csv\nruns: out/runs\nreports: out/reports\n")
    (tmp_path / "deeper").mkdir()
    monkeypatch.chdir(tmp_path / "deeper")
    result = invoke("score", path, *QUICK)
    assert result.exit_code == 0, result.stderr
    assert len(list((tmp_path / "out/runs").iterdir())) == 1
    assert len(list((tmp_path / "out/reports").glob("*.html"))) == 1


def test_photographs_stay_out_of_the_report_unless_asked_for(tmp_path):
    manifest, artefact = make_manifest(tmp_path), make_artefact(tmp_path / "tiny")
    options = ("score", artefact, "--data", manifest, "--out", tmp_path / "run", *QUICK)
    invoke(*options)
    assert "data:image/webp" not in (tmp_path / "run" / "report.html").read_text()
    invoke(*options, "--photos")
    assert "data:image/webp" in (tmp_path / "run" / "report.html").read_text()


def test_classes_are_those_of_the_artefact(tmp_path):
    manifest, artefact = make_manifest(tmp_path), make_artefact(tmp_path / "tiny")
    result = invoke("score", artefact, "--data", manifest, "--json", *QUICK)
    found = json.loads(result.stdout)
    assert found["confusion"]["class_names"] == [c for c in CLASSES if c != "other"]
    assert found["open_confusion"]["class_names"] == list(CLASSES)
    assert io.read_json(Path("runs") / found["run"] / "run.json")["is_synthetic"] is False


# --- verify and trace -------------------------------------------------------------------------------


def test_this_installation_is_checked_against_golden_values():
    result = invoke("verify")
    assert result.exit_code == 0, result.stdout
    assert re.search(r"(\d+) of \1 golden values hold", result.stdout)
    assert all(check["is_equal"] for check in json.loads(invoke("verify", "--json").stdout))


def scored(tmp_path) -> Path:
    path, manifest = predictions_file(tmp_path)
    assert invoke("score", path, "--data", manifest, "--out", tmp_path / "run", *QUICK).exit_code == 0
    return tmp_path / "run"


def test_a_run_whose_numbers_are_equal_verifies_with_0_and_a_changed_one_with_1(tmp_path):
    run = scored(tmp_path)
    assert invoke("verify", run).exit_code == cli.OK
    text = (run / "labels-v0" / "metrics.json").read_text()
    (run / "labels-v0" / "metrics.json").write_text(text.replace('"n_images": 30', '"n_images": 31', 1))
    result = invoke("verify", run)
    assert result.exit_code == cli.FINDINGS
    assert "labels-v0/metrics.json: n_images is 31, computed 30" in result.stdout


def test_a_number_is_traced_to_its_files(tmp_path):
    run = scored(tmp_path)
    result = invoke("trace", run, "top_1_accuracy")
    assert result.exit_code == 0, result.stderr
    stored = io.read_json(run / "labels-v0" / "metrics.json")["metrics"]["top_1_accuracy"]["value"]
    assert result.stdout.startswith(f"top_1_accuracy = {stored:.6g} [")
    for name in (tmp_path / "manifest.csv", run / "predictions.parquet"):
        assert re.search(rf"{re.escape(str(name))}  sha256 [0-9a-f]{{64}}", result.stdout)
    assert io.file_sha256(tmp_path / "model.csv") in result.stdout
    assert "50 draws of images, seed 0" in result.stdout


def test_a_number_that_is_not_there_is_answered_with_what_is(tmp_path):
    """The nearest name, the classes of a number of classes, the versions of the labels, the subsets."""
    run = scored(tmp_path)
    for asked, said in (
        (("top_1_acuracy",), "expected 'top_1_accuracy'"),
        (("sensitivity",), "expected --class one of"),
        (("top_1_accuracy", "--labels", "v9"), "no numbers of .* expected one of v0"),
        (("top_1_accuracy", "--subset", "cases"), "expected --subset one of all"),
    ):
        result = invoke("trace", run, *asked)
        assert result.exit_code == cli.BAD_INPUT
        assert re.search(said, result.stderr)
    (run / "predictions.parquet").unlink()
    result = invoke("trace", run, "top_1_accuracy")
    assert (result.exit_code, "Trace the run that was compared" in result.stderr) == (cli.BAD_INPUT, True)


@pytest.mark.slow
def test_the_demo_is_made_once_and_scored(tmp_path, monkeypatch):
    """Draws the data, trains the checkpoint with our own trainer, and says SYNTHETIC in the report."""
    monkeypatch.setenv("DDEVAL_CACHE", str(tmp_path / "cache"))
    first = invoke("score", "demo", "--json")
    assert first.exit_code == 0, first.stderr
    assert "training its checkpoint" in first.stderr
    found = json.loads(first.stdout)
    assert found["metrics"]["top_1_accuracy"]["value"] > 0.5
    assert "SYNTHETIC" in Path(found["report"]).read_text()
    again = invoke("score", "demo", "--json")
    assert "training" not in again.stderr
    assert json.loads(again.stdout)["metrics"] == found["metrics"]
