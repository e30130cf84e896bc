"""The command line: which commands there are, and what a command's end means.

One file a stage holds the commands; a command's module is imported when it is run, so that
`ddeval --help` loads no pandas and no torch. The exit code is decided here and nowhere else.
"""

import functools
import importlib
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import typer.core

import ddeval
from ddeval.errors import InputError

OK = 0
FINDINGS = 1
"""The command worked, and what it looked for is there: findings, or a gate that failed."""
USAGE = 2
BAD_INPUT = 3
OUR_FAULT = 4
INTERRUPTED = 130
BROKEN_PIPE = 141
"""The reader of our output went away (`| head`); the shell's own number for it."""

COMMANDS = {
    "init": ("ddeval.cli.init:init", "A project for your own tables: ddeval.yaml and a mapping to edit."),
    "data": ("ddeval.cli.data:app", "Manifests: make one, look at it, split it, take a patient out."),
    "inspect": ("ddeval.cli.inspect:inspect", "What a checkpoint holds, and the first thing that fits not."),
    "score": ("ddeval.cli.score:score", "Checkpoint and manifest in; predictions, numbers and a report out."),
    "compare": ("ddeval.cli.compare:compare", "Runs side by side: paired differences, the gate, one page."),
    "audit": ("ddeval.cli.audit:app", "Doubtful labels, duplicates and leaks, and the queue for vetting."),
    "ablate": ("ddeval.cli.ablate:ablate", "What each question of the questionnaire is worth to a model."),
    "abstain": ("ddeval.cli.abstain:abstain", "The deferral rule as a file, with test vectors for serving."),
    "vet": ("ddeval.cli.vet:app", "Queue to readings to labels: open a batch, serve the app, freeze."),
    "truth": ("ddeval.cli.truth:truth", "Accuracy against the vetted reference, with its interval."),
    "train": ("ddeval.cli.train:train", "Config and manifest in; an artefact folder out."),
    "lever": ("ddeval.cli.lever:lever", "What 100 more readings buy: cleaner labels, or more cases."),
    "demo": ("ddeval.cli.demo:demo", "The whole loop on drawn photographs, and what vetting was worth."),
    "bench": ("ddeval.cli.bench:bench", "What a checkpoint costs to serve: latency, memory, cold start."),
    "export": ("ddeval.cli.export:export", "A checkpoint as one ONNX file for another runtime."),
    "verify": ("ddeval.cli.verify:verify", "Compute numbers again: a run's, or golden values."),
    "trace": ("ddeval.cli.verify:trace", "One number with everything it was made from."),
    "doctor": ("ddeval.cli.doctor:doctor", "Machine and project, a sentence on each, with the cure."),
}
"""Name of a command -> where it is (a function, or a Typer app of subcommands) and its line in the help."""


class Commands(typer.core.TyperGroup):
    """A group whose commands are imported when they are run."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return load_command(cmd_name) if cmd_name in COMMANDS else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what it raises becomes one line and an exit code."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # here, so that a reader that went away is noticed here
            return result
        except (typer.Exit, typer.Abort):
            raise
        except BaseException as error:
            if hasattr(error, "format_message"):  # click's own usage errors
                raise
            raise typer.Exit(_exit_code(error)) from None


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="How good is this checkpoint, which labels are wrong, and what is left of the number then?",
    epilog="Exit codes: 0 ok, 1 findings or gate failed, 2 usage, 3 bad input, 4 our fault, 130 interrupted.",
)


def load_command(name: str) -> Any:
    """The click command behind a name of `COMMANDS`."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if isinstance(found, typer.Typer):
        for one in found.registered_commands:
            one.callback = _with_places(one.callback) if one.callback else None
    else:
        single = typer.Typer(rich_markup_mode=None, add_completion=False)
        single.command(name)(_with_places(found))
        found = single
    command = typer.main.get_command(found)
    command.name = name
    return command


def _with_places(function: Callable[..., Any]) -> Callable[..., Any]:
    """The command, its paths in buckets (`s3://…`) given as their paths in the cache."""

    @functools.wraps(function)
    def placed(**values: Any) -> Any:
        from ddeval.cache import forget, place

        def local(value: Any) -> Any:
            if isinstance(value, list | tuple):
                return [local(one) for one in value]
            return place(value) if isinstance(value, Path) else value

        forget()  # what a bucket holds is asked once a command
        return function(**{name: local(value) for name, value in values.items()})

    return placed


def main() -> NoReturn:
    """Entry point of the `ddeval` script."""
    command: Any = typer.main.get_command(app)
    raise SystemExit(command.main(prog_name="ddeval"))


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"ddeval {ddeval.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _exit_code(error: BaseException) -> int:
    """Say what ended the command, in one line where the user can act on it, and give its exit code."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else OUR_FAULT
    if isinstance(error, InputError):
        from ddeval.cache import shown

        _say(shown(str(error)))
        return BAD_INPUT
    if isinstance(error, KeyboardInterrupt):
        _say("interrupted; what was finished is kept, and the same command goes on from there")
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the flush at exit must not fail too
        return BROKEN_PIPE
    if isinstance(error, OSError) and error.filename:
        _say(f"{error.filename}: {error.strerror}")
        return OUR_FAULT
    traceback.print_exception(error)
    _say(f"this is our fault ({type(error).__name__}); please report the lines above")
    return OUR_FAULT


def _say(line: str) -> None:
    print(f"ddeval: {line}", file=sys.stderr)
