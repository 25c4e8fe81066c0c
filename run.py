"""The command line of minizone: `python run.py TASK [flags]`. The commands are in minizone/commands/."""

from minizone.commands.main import run_and_exit

if __name__ == "__main__":
    run_and_exit()
