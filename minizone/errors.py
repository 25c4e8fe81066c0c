"""The errors a person can make: `run.py` prints them as one line on stderr and ends with status 2."""


class UserError(ValueError):
    """Something outside the program is wrong and the message says what to do about it."""
