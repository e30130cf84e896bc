"""The embedded demo: its data and its checkpoint, made on first use into the user's cache folder.

Nothing is downloaded: the photographs are drawn and the checkpoint is trained here, by the commands
everyone else uses.
"""

from pathlib import Path
from typing import NamedTuple

from ddeval.cache import home
from ddeval.cli import console

NAME = "demo"


class Demo(NamedTuple):
    """What `ddeval score demo` scores."""

    artefact: Path
    manifest: Path


def ready_demo() -> Demo:
    """The demo's manifest and artefact, drawn and trained where they are not there yet.

    The folder's name holds the version of ddeval and a hash of the config, so that neither old data nor
    an old checkpoint is taken for the present ones. Two processes wait for each other.
    """
    import ddeval
    from ddeval.config import config_folders, read_config
    from ddeval.data.demo import make_demo
    from ddeval.io import file_sha256
    from ddeval.score.run import only_process
    from ddeval.train.loop import train

    config = next(path for folder in config_folders() if (path := folder / f"{NAME}.yaml").is_file())
    folder = home() / f"{NAME}-{ddeval.__version__}-{file_sha256(config)[:8]}"
    manifest, artefact = folder / "data" / "manifest.csv", folder / NAME
    with only_process(folder / ".lock", wait=True):
        if not manifest.is_file():
            console.note(f"drawing the embedded data set (SYNTHETIC) into {folder / 'data'}")
            make_demo(folder / "data")
        if not (artefact / "training" / "result.json").is_file():  # written when training has ended
            console.note(f"training its checkpoint, once, into {artefact}")
            train(
                read_config(config), manifest, artefact,
                config_path=config, progress=console.progress, note=console.note,
            )  # fmt: skip
    return Demo(artefact, manifest)
