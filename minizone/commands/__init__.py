"""The commands of `python run.py`, one file each. `main.py` chooses one and turns its errors into exit statuses.

To add a command, write ``minizone/commands/NAME.py`` with a function ``main(arguments) -> exit status``, and add it to
``COMMANDS`` and ``USAGE`` in ``main.py``. `parse` in ``flags.py`` turns the arguments into a dataclass.
"""
