"""The plan of a run: every thing its logits depend on, fixed before the first image.

A run is a list of shards of fixed size, each a list of batches of one fixed size. The plan is written
to `run.json` first; whoever comes back to the folder, after a kill or as another shard, must bring the
same plan or is refused by the name of what differs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddeval import io
from ddeval.errors import InputError
from ddeval.score import folder

SHARD_SIZE = 1024
"""Images in a shard: about a minute of work is lost at most when a run is killed."""


@dataclass(frozen=True)
class Plan:
    """What is scored, by what, how."""

    image_ids: tuple[str, ...]
    inputs: Mapping[str, Any]
    """What the logits depend on by intent: manifest, checkpoint, split, preprocessing, dtype, ..."""
    machine: Mapping[str, Any]
    """What they depend on in their last bits: device, library versions; and the shard size."""
    batch_size: int
    shard_size: int = SHARD_SIZE
    fingerprint: str = field(init=False)
    """Hash of `inputs` and the images; stands in the predictions."""
    key: str = field(init=False)
    """Hash of the whole plan; stands in every part, so that no part of another run is taken."""

    def __post_init__(self) -> None:
        fingerprint = io.value_sha256({"inputs": self.inputs, "image_ids": self.image_ids})
        key = io.value_sha256([fingerprint, self.machine, self.shard_size])
        object.__setattr__(self, "fingerprint", fingerprint)
        object.__setattr__(self, "key", key)

    @property
    def n_shards(self) -> int:
        return -(-len(self.image_ids) // self.shard_size)

    def rows(self, shard: int) -> range:
        """Positions of the images of a shard."""
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, len(self.image_ids)))

    def batches(self, shard: int) -> Iterator[range]:
        """Positions of the images of each batch; no batch reaches into the next shard."""
        rows = self.rows(shard)
        for start in range(rows.start, rows.stop, self.batch_size):
            yield range(start, min(start + self.batch_size, rows.stop))


def shards_of(plan: Plan, part: tuple[int, int]) -> list[int]:
    """Shards that job i of n scores: i, i + n, i + 2 n, ..."""
    index, count = part
    return list(range(index, plan.n_shards, count))


def parse_shard(text: str) -> tuple[int, int]:
    """`i/n` as (i, n); i counts from 0."""
    index, slash, count = text.partition("/")
    if slash and index.isdecimal() and count.isdecimal() and int(index) < int(count):
        return int(index), int(count)
    raise InputError(
        "--shard", repr(text), expected="i/n with i from 0 to n-1, such as 0/4", todo="Correct it."
    )


def begin(run: Path, plan: Plan, facts: Mapping[str, Any]) -> None:
    """Write the plan and `facts` into the `run.json` of a new run; go on with an old one if it agrees."""
    run = io.local_folder(run)
    names = {path.name for path in run.iterdir()} if run.is_dir() else set()
    if folder.is_run(run):  # after the listing: another job may begin the same run now
        agree(run, plan)
        return
    if any(name != "parts" and not name.startswith(io.TMP_PREFIX) for name in names):
        raise InputError(
            str(run),
            "a folder with other files in it",
            expected="a run folder or an empty one",
            todo="Pass another --out.",
        )
    begun = {
        "fingerprint": plan.fingerprint,
        "inputs": dict(plan.inputs),
        "machine": dict(plan.machine),
        "started": folder.utc_now(),
    }
    io.write_json(run / folder.RUN_FILE, {"run": run.name, **facts, **begun})


def agree(run: Path, plan: Plan) -> None:
    """Refuse, by name, to go on with a run that was begun under another plan."""
    began = folder.read_run(run)
    different = differences(
        {**began.get("inputs", {}), **began.get("machine", {})}, {**plan.inputs, **plan.machine}
    )
    if different:
        name, old, new = different[0]
        more = f" (different too: {', '.join(d[0] for d in different[1:])})" if len(different) > 1 else ""
        raise InputError(
            str(run),
            f"{name} {new}{more}",
            expected=f"{name} {old}, with which this run began",
            todo="Score with that, or into another folder with --out.",
        )
    if began["fingerprint"] != plan.fingerprint:
        raise RuntimeError(f"{run}: the same inputs, but other images")


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> Sequence[tuple[str, str, str]]:
    """Name, old and new value of each entry that differs; hashes are shortened."""
    return [
        (name, _short(expected.get(name)), _short(found.get(name)))
        for name in [*found, *(n for n in expected if n not in found)]
        if io.value_sha256(expected.get(name)) != io.value_sha256(found.get(name))
    ]


def _short(value: Any) -> str:
    text = (
        "none" if value is None else value if isinstance(value, str) else " ".join(io.to_json(value).split())
    )
    is_hash = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return f"sha256 {text[:12]}…" if is_hash else text[:200]
