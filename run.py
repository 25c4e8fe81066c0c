"""The command line of minizone: `python run.py TASK [flags]`. The commands are in minizone/commands/."""

import os
import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # for Ctrl-C during the imports, which take a second

    from minizone.commands.main import run_and_exit

    run_and_exit()
