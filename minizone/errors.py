"""Errors that the user can correct. `run.py` prints them as one line on stderr and exits with status 2."""


class UserError(ValueError):
    """Something outside the program is wrong. The message says what it is and what to do."""
