"""`python -m minizone` is the same as `python run.py`."""

from minizone.commands.main import run_and_exit

if __name__ == "__main__":
    run_and_exit()
