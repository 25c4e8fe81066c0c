"""The command line of minizone: `python run.py TASK [flags]`. The commands are in minizone/commands/."""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports, which take a second: no traceback

    from minizone.commands.main import run_and_exit

    run_and_exit()
