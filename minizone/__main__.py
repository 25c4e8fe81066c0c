"""`python -m minizone` is the same as `python run.py`."""

import os
import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # as in run.py

    from minizone.commands.main import run_and_exit

    run_and_exit()
