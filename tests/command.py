"""A command of `ddeval` as a user gives it, in this process."""

from typer.testing import CliRunner

from ddeval.cli import app


def run(*arguments, code=0):
    """What came of it; the exit code must be `code`."""
    found = CliRunner().invoke(app, [str(a) for a in arguments])
    assert found.exit_code == code, found.output + found.stderr
    return found
