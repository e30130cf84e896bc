"""The documents are promises too: commands exist, trees are complete, blocks run, git holds no data."""

import doctest
import re
import subprocess
from pathlib import Path

import pytest

from ddeval.cli import COMMANDS, load_command

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
MOST_BYTES = 1_000_000


def tracked() -> list[Path]:
    """Files git knows, or the files of the tree where there is no git (a source distribution)."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


def commands():
    """Every command and subcommand as (name, click command)."""
    for name in COMMANDS:
        command = load_command(name)
        subcommands = getattr(command, "commands", None)
        if subcommands:
            for sub, found in subcommands.items():
                nested = getattr(found, "commands", None)
                if nested:
                    yield from ((f"{name} {sub} {last}", c) for last, c in nested.items())
                else:
                    yield f"{name} {sub}", found
        else:
            yield name, command


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_readme(name):
    assert f"`ddeval {name}`" in README


@pytest.mark.parametrize(("name", "command"), list(commands()), ids=[name for name, _ in commands()])
def test_every_command_has_help_and_an_example(name, command):
    assert command.help
    assert f"Example: ddeval {name.split()[0]}" in " ".join(command.help.split())


def test_the_python_block_of_the_readme_runs():
    failed, tried = doctest.testfile(str(ROOT / "README.md"), module_relative=False)
    assert (failed, tried > 3) == (0, True)


@pytest.mark.parametrize(
    "stage", ["data", "models", "score", "metrics", "audit", "vet", "train", "report", "cli"]
)
def test_the_tree_of_the_readme_names_every_module_in_six_words_or_fewer(stage):
    tree = README[README.index("```\nddeval/") :]
    lines = dict(re.findall(r"^    (\S+)\s{2,}(.+)$", _part(tree, stage), flags=re.MULTILINE))
    modules = {p.name for p in (ROOT / "ddeval" / stage).glob("*.py") if p.name != "__init__.py"}
    assert modules - lines.keys() == set()
    assert {name for name in lines if name.endswith(".py")} - modules <= {"__init__.py"}
    assert [name for name, words in lines.items() if len(words.split()) > 6] == []


def _part(tree: str, stage: str) -> str:
    after = tree[tree.index(f"\n  {stage}/\n") + len(stage) + 5 :]
    return re.split(r"^(?:  )?\S", after, maxsplit=1, flags=re.MULTILINE)[0]


def test_every_link_between_the_documents_leads_somewhere():
    broken = []
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            if not (page.parent / target).exists():
                broken.append(f"{page.name} -> {target}")
    assert broken == []


def test_nothing_large_and_no_weight_or_table_of_data_is_in_git():
    files = tracked()
    if not files:
        pytest.skip("not a git checkout")
    kinds = {".pt", ".npy", ".npz", ".parquet", ".safetensors", ".onnx", ".db", ".jpg", ".jpeg"}
    assert [str(f) for f in files if f.stat().st_size > MOST_BYTES or f.suffix.lower() in kinds] == []
