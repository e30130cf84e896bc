"""The one error a user can put right: a file, a flag or a table.

The command line prints an `InputError` as its one line and exits 3. A caller's mistake in Python
is a `ValueError` or `TypeError`; anything else is our bug and shows its traceback.
"""


class InputError(Exception):
    """Bad input, said in one line: where, what was found, what was expected, what to do.

    Parameters
    ----------
    where : str
        File and row, flag, column or URI.
    found : str
        What stands there: the first offender and how many there are.
    expected : str
        What should stand there.
    todo : str
        What to do about it, a command where there is one.

    Examples
    --------
    >>> print(InputError("m.csv line 7", "sex 'X'", expected="male or female", todo="Map it."))
    m.csv line 7: found sex 'X'; expected male or female. Map it.
    """

    def __init__(self, where: str, found: str, *, expected: str, todo: str) -> None:
        self.where, self.found, self.expected, self.todo = where, found, expected, todo
        line = f"{where}: found {found}; expected {expected.rstrip('.')}. {todo}"
        super().__init__(" ".join(line.split()))  # one line, whatever the parts held


class ImageError(Exception):
    """An image that cannot be used.

    Parameters
    ----------
    code : str
        Short and countable: missing, not_a_file, empty, too_large, format, truncated, mode, corrupt.
    reason : str
        One line for the quarantine table: what was found, and the cure where there is one.
    """

    def __init__(self, code: str, reason: str) -> None:
        self.code, self.reason = code, " ".join(reason.split())
        super().__init__(self.reason)

    def __reduce__(self) -> tuple[type, tuple[str, str]]:  # so that a worker process can hand it on
        return type(self), (self.code, self.reason)
