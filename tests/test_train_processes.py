"""Several processes train one system: the same losses, one writer, and nothing half-written after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ddeval.data.manifest import read_manifest
from ddeval.errors import InputError
from ddeval.models.build import build
from ddeval.models.checkpoint import load_checkpoint
from ddeval.models.device import choose_device
from ddeval.train import step
from ddeval.train.dataset import build_dataset
from ddeval.train.loop import train
from ddeval.train.optimiser import adamw, parameter_groups
from ddeval.train.processes import ALONE, Processes, check_shares, joined, share_of
from tests.train_fixture import make_config, make_data

ROOT = Path(__file__).parents[1]
TINY = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
MODELS = {
    "siglip_tiny": {"backbone_config": TINY, "image_size": 28, "gradient_checkpointing": True},
    "convnextv2_tiny": {"backbone_config": {"hidden_sizes": [4, 4, 8, 8], "depths": [1, 1, 1, 1]}},
    "resnet_tiny": {"backbone_config": {"embedding_size": 4, "hidden_sizes": [4, 4, 8, 8]}},
}
"""The three families; 43 images an epoch in batches of 5, two a step: the last step has one, of three."""
STEPS = {"batch_size": 5, "accumulate": 2, "frozen_epochs": 1, "epochs": 2}
SCRIPT = """
import sys, torch
from pathlib import Path
from tests.test_train_processes import config
from ddeval.train.loop import train
data, out, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
result = train(config(data, name, **eval(sys.argv[4])), data / "manifest.csv", out, device="cpu", note=print)
sys.stdout.write(f"epochs {len(result.curve)} {result.n_train}\\n")  # in one piece
"""


def config(data, name="siglip_tiny", **train):
    """Every lever that draws or remembers: augmentation, mixup, dropout, resampled `other`, an average."""
    model = {"backbone": name, "dropout": 0.3, **MODELS[name]}
    recipe = {
        "augment": ["hflip", "rotate90", "mixup"],
        "other_ratio": 0.2,
        "ema_decay": 0.9,
        **STEPS,
        **train,
    }
    return make_config(data, model=model, **recipe)


def torchrun(data, out, name="siglip_tiny", *, changes="{}", n=2, **popen):
    """`n` processes on the CPU, joined by gloo."""
    (data / "run.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
    command += [str(data / "run.py"), str(data), str(out), name, changes]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **popen
    )


def finished(process):
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-2000:]
    return said


def weights(folder):
    return torch.load(folder / "best_model.pt", weights_only=True)


def curve(folder):
    return [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_data(folder)
    return folder


SLOWER = [pytest.param(name, marks=pytest.mark.slow) for name in ("convnextv2_tiny", "resnet_tiny")]


@pytest.mark.parametrize("name", ["siglip_tiny", *SLOWER])
def test_two_processes_give_the_losses_and_weights_of_one(data, tmp_path, name):
    """Sums of float32 in another order: nothing else differs, frozen epoch, dropout and mixup included.

    Batch norm alone keeps running statistics of the first process's batches, so a ResNet is compared by its
    training losses, which do not use them.
    """
    said = finished(torchrun(data, tmp_path / "two", name))
    assert sorted(line for line in said.splitlines() if line.startswith("epochs")) == ["epochs 2 48"] * 2
    assert sum(line.startswith("epoch 1/2") for line in said.splitlines()) == 1  # one process speaks
    train(config(data, name), data / "manifest.csv", tmp_path / "one", device="cpu")

    one, two = curve(tmp_path / "one"), curve(tmp_path / "two")
    np.testing.assert_allclose(
        [row["train_loss"] for row in two], [row["train_loss"] for row in one], rtol=1e-4
    )
    if name != "resnet_tiny":
        np.testing.assert_allclose([row["nll"] for row in two], [row["nll"] for row in one], rtol=1e-3)
    last = [
        torch.load(tmp_path / n / "training" / "last.pt", weights_only=True)["module"] for n in ("one", "two")
    ]
    for key, value in last[0].items():
        is_statistic = key.endswith(("running_mean", "running_var", "num_batches_tracked"))
        if not is_statistic and not key.endswith("k_proj.bias"):  # the softmax does not see that one
            torch.testing.assert_close(last[1][key], value, rtol=1e-2, atol=1e-3, msg=key)


@pytest.mark.slow
def test_the_folder_of_two_processes_is_that_of_one(data, tmp_path):
    """The same files, each written once; what one began, another number may finish."""
    finished(torchrun(data, tmp_path / "two"))
    train(config(data), data / "manifest.csv", tmp_path / "one", device="cpu")
    names = [
        sorted(str(p.relative_to(tmp_path / n)) for p in (tmp_path / n).rglob("*")) for n in ("one", "two")
    ]
    assert names[0] == names[1]
    assert load_checkpoint(tmp_path / "two").class_names == ("acne", "eczema", "other", "wart")
    stamp = (tmp_path / "one" / "best_model.pt").stat().st_mtime_ns
    assert "epochs 2 48" in finished(torchrun(data, tmp_path / "one"))
    assert (tmp_path / "one" / "best_model.pt").stat().st_mtime_ns == stamp


def test_a_killed_process_ends_the_run_and_it_goes_on_with_the_same_losses(data, tmp_path):
    """The second of two is killed after two epochs: torchrun ends the other, one process finishes the run."""
    changes = "{'epochs': 4}"
    process = torchrun(data, tmp_path / "broken", changes=changes, start_new_session=True)
    for line in process.stdout:
        if line.startswith("epoch 2/4"):
            os.kill(workers(process.pid)[-1], signal.SIGKILL)
            break
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert (
        "a process of this run that ended" in errors or "Signal 15" in errors
    )  # who is first, it or torchrun
    assert not (tmp_path / "broken" / "training" / "result.json").exists()
    load_checkpoint(tmp_path / "broken")  # whole, whatever epoch it is of
    n_done = len(torch.load(tmp_path / "broken" / "training" / "last.pt", weights_only=True)["curve"])
    assert 2 <= n_done < 4

    train(config(data, epochs=4), data / "manifest.csv", tmp_path / "broken", device="cpu")
    train(config(data, epochs=4), data / "manifest.csv", tmp_path / "whole", device="cpu")
    losses = [[row["train_loss"] for row in curve(tmp_path / n)] for n in ("broken", "whole")]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)
    assert not list((tmp_path / "broken").rglob(".tmp-*"))


def test_what_is_refused_is_told_in_one_line_by_one_process(data, tmp_path):
    """The others wait for the first to have begun, and end without a word of their own."""
    _, errors = torchrun(data, tmp_path / "out", changes="{'accumulate': 1}").communicate(timeout=120)
    assert errors.count("InputError: train.accumulate: found 1 for 2 processes") == 1
    assert "Connection closed" not in errors
    assert not (tmp_path / "out").exists()


def workers(launcher):
    """Ids of the processes torchrun started, in the order of their rank."""
    found = []
    for _ in range(50):
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
                command = path.with_name("cmdline").read_bytes().decode()
            except OSError:
                continue
            if int(fields[1]) == launcher and "run.py" in command:
                found.append(int(path.parent.name))
        if len(found) >= 2:
            return sorted(set(found))
        time.sleep(0.1)
    raise AssertionError("no workers")


def test_batches_that_cannot_be_shared_out_are_refused_with_the_same_step_split(data):
    recipe = make_config(data, batch_size=64).train
    same = r"1 for 4 processes; .*Set batch_size: 16 and accumulate: 4 \(the same step\)"
    with pytest.raises(InputError, match=same):
        check_shares(recipe, Processes(0, 4))
    with pytest.raises(InputError, match=r"Make batch_size x accumulate a multiple of 3"):
        check_shares(recipe, Processes(0, 3))
    check_shares(make_config(data, accumulate=4).train, Processes(1, 2))
    check_shares(recipe, ALONE)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_every_batch_of_an_epoch_is_learnt_from_once(data, n):
    """37 rows, batches of 3, 4 a step: of the last step's one batch, of one row, the others take a spare."""
    recipe, rows = make_config(data, batch_size=3, accumulate=4).train, np.arange(37)[::-1]
    shares = [share_of(rows, recipe, Processes(rank, n)) for rank in range(n)]
    counted = []
    for share in shares:
        at = 0
        for n_parts, is_spare in share.steps:
            for _ in range(n_parts):
                part = share.rows[at : at + 3]
                at += len(part)
                counted += [] if is_spare else list(part)
        assert at == len(share.rows)
    assert sorted(counted) == sorted(rows)
    assert {len(share.steps) for share in shares} == {4}
    assert sum(is_spare for share in shares for _, is_spare in share.steps) == n - 1


@pytest.mark.parametrize("n", [1, 2])
def test_each_batch_of_a_step_has_a_seed_of_its_own_whoever_computes_it(data, tmp_path, monkeypatch, n):
    """One process draws for batches 0, 1, 2, 3; of two, the second draws the same for 1 and 3."""
    seeds: dict[int, list[int]] = {}
    own = SimpleNamespace(rank=0)

    def noted(pixels, targets, steps, *, generator):
        seeds.setdefault(own.rank, []).append(generator.initial_seed())
        assert torch.initial_seed() == generator.initial_seed()  # dropout's
        return pixels, targets

    monkeypatch.setattr(step, "augment", noted)
    recipe = make_config(data, accumulate=4).train
    dataset = build_dataset(read_manifest(data / "manifest.csv"), recipe, image_roots=[data])
    built = build(make_config(data, model={"feature_schema": None}).model, n_classes=4, answers_width=0)
    rows = dataset.train_rows[:2]
    part = (rows, torch.zeros(2, 3, 32, 32, dtype=torch.uint8), np.ones(2, dtype=bool))
    for own.rank in range(n):
        processes = Alone(own.rank, n)
        groups = parameter_groups(built.module, recipe)
        stepper = step.Stepper(
            built.module, adamw(groups, torch.device("cpu")), dataset, recipe, on=choose_device("cpu"),
            preprocessing=built.preprocessing, shares=np.full(4, 0.25), processes=processes,
        )  # fmt: skip
        stepper.take([part] * (4 // n), seed=100, where="")
    assert sorted(seed for held in seeds.values() for seed in held) == [100, 101, 102, 103]
    assert seeds[n - 1][-1] == 103


class Alone(Processes):
    """One of several that does not wait for the others."""

    def summed(self, *values, device):
        return list(values)


def test_one_process_knows_nothing_of_others(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with joined("auto") as processes:
        assert processes == ALONE
        assert processes.summed(0.1, 2.0, device=torch.device("cpu")) == [0.1, 2.0]
        assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(("device", "gpu"), [("auto", torch.device("cuda", 1)), ("cpu", None)])
def test_a_process_names_its_own_gpu(monkeypatch, device, gpu):
    """The fourth on a host with two GPUs takes the second; NCCL is told which, so no barrier has to guess."""
    asked = {}
    for name, value in (("TORCHELASTIC_RUN_ID", "1"), ("WORLD_SIZE", "3"), ("LOCAL_RANK", "3")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda own: asked.update(set_device=own))
    of = torch.distributed
    monkeypatch.setattr(of, "init_process_group", lambda backend, **more: asked.update(more, backend=backend))
    monkeypatch.setattr(of, "get_rank", lambda: 2)
    monkeypatch.setattr(of, "get_world_size", lambda: 3)
    monkeypatch.setattr(of, "destroy_process_group", lambda: None)
    with joined(device) as processes:
        assert processes == Processes(2, 3)
    assert asked["device_id"] == asked.get("set_device") == gpu
    assert asked["backend"] == ("gloo" if gpu is None else "nccl")
