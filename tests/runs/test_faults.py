"""Faults: kills at random moments and at every write, full disks, two runs in one folder, clocks, damaged files.

How many there were is printed at the end of a run of the tests.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minizone.runs.files import load_arrays, read_rows, save_arrays
from tests.runs.test_training import same_run

if sys.platform != "linux":
    pytest.skip("signals, locks and limits of Linux", allow_module_level=True)

from tests.helpers.faults import FLAGS, ROOT, Run, server

PUT_ASIDE = "os.rename last.safetensors"  # to previous.safetensors, at the end of epoch 2 for the first time


@pytest.fixture(scope="module")
def context():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield server()


@pytest.fixture(scope="module")
def whole(context, tmp_path_factory):
    """The run that nothing happens to, its seconds, and the list of its deeds."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    Run(context, folder.with_name("first")).end()  # the server starts: not to be measured
    run = Run(context, folder)
    assert run.end()[0] == 0
    watched, events = folder.with_name("watched"), folder.with_name("events")
    assert Run(context, watched, events=str(events)).end()[0] == 0
    same_run(folder, watched)
    return folder, run.seconds, events.read_text().splitlines()


def cut(context, whole, folder):
    """A run that was stopped in epoch 3: while it wrote the checkpoint of epoch 2, which is now the previous one."""
    status, text = Run(context, folder, strike=signal.SIGTERM, at=1 + whole[2].index(PUT_ASIDE)).end()
    assert status == 128 + signal.SIGTERM and "stopped by SIGTERM in epoch 3 after update 1;" in text
    assert (folder / "previous.safetensors").exists() and (folder / "last.safetensors").exists()


def finish(context, whole, folder):
    """Resume (or begin again, where nothing was written yet) and compare with the run that nothing happened to."""
    status, text = Run(context, folder).end()
    assert status == 0, text
    same_run(whole[0], folder)
    assert {path.name for path in folder.iterdir()} == {path.name for path in whole[0].iterdir()}
    return text


def refused(run):
    """The one sentence of a run that must end with status 2."""
    status, text = run.end()
    lines = [line for line in text.splitlines() if not line.startswith(("char-ptb on", "epoch "))]
    assert status == 2 and len(lines) == 1 and lines[0].startswith("run.py: "), text
    return lines[0]


def test_twenty_kills_at_random_moments(context, whole, tmp_path, record_property):
    moments, kills, resumed = random.Random(7), 0, 0
    for number in range(60):
        folder = tmp_path / str(number)
        run = Run(context, folder)
        time.sleep(moments.uniform(0.05, 1) * whole[1])
        run.process.kill()
        if run.end()[0] == -signal.SIGKILL:  # else it was faster than the one that was measured
            kills += 1
            resumed += (folder / "last.safetensors").exists()
            finish(context, whole, folder)
        if kills == 20:
            break
    record_property("kills survived, at random moments", kills)
    assert kills == 20 and resumed > 0


def test_a_kill_at_every_write_rename_and_removal(context, whole, tmp_path, record_property):
    """Before each deed in the life of a run; before an fsync, half of the file has come to the disk."""
    deeds = whole[2]
    assert {"fsync last.safetensors.tmp", PUT_ASIDE, "os.rename .tmp-curves.png"} <= set(deeds)
    opened = {deed.removeprefix("open ") for deed in deeds if deed.startswith("open ")}
    in_place = {name for name in opened if "tmp" not in name}
    assert in_place == {"lock", "metrics.jsonl"}, "all else is written under another name, and renamed"
    fallen_back = 0
    for at in range(1, len(deeds) + 1):
        folder = tmp_path / str(at)
        assert Run(context, folder, strike=signal.SIGKILL, at=at).end()[0] == -signal.SIGKILL, deeds[at - 1]
        fallen_back += "going on from the checkpoint before it" in finish(context, whole, folder)
    record_property("kills survived, at a write, rename or removal", len(deeds))
    assert fallen_back >= 2


def test_a_kill_at_every_write_of_a_resume_from_the_previous_checkpoint(context, whole, tmp_path, record_property):
    cut(context, whole, tmp_path / "cut")
    path = tmp_path / "cut" / "last.safetensors"
    path.write_bytes(path.read_bytes()[:3000])
    for at in range(1, 100):
        folder = tmp_path / str(at)
        shutil.copytree(tmp_path / "cut", folder)
        if Run(context, folder, strike=signal.SIGKILL, at=at).end()[0] == 0:
            break
        finish(context, whole, folder)
    record_property("kills survived, at a write, rename or removal", at - 1)
    assert at > 10


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_checkpoint_is_written(number, context, whole, tmp_path):
    """The checkpoint is written to its end, one more update is made and saved."""
    deeds = whole[2]
    at = 1 + deeds.index(PUT_ASIDE)
    status, text = Run(context, tmp_path / "run", strike=number, at=at).end()
    assert status == 128 + number and f"stopped by {number.name} in epoch 3 after update 1;" in text
    finish(context, whole, tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_and_after_the_training(number, context, whole, tmp_path):
    """While config.json and summary.json are written; SIGTERM ends the process there as it ends any."""
    for name in ("config", "summary"):
        at = 1 + whole[2].index(f"os.rename {name}.json.tmp")
        status, text = Run(context, tmp_path / name, strike=number, at=at).end()
        assert status == (130 if number == signal.SIGINT else -signal.SIGTERM) and "Traceback" not in text
        finish(context, whole, tmp_path / name)


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zeros(path):
    raw = path.read_bytes()
    path.write_bytes(raw[:-2000] + bytes(2000))


def others(path):
    arrays, metadata = load_arrays(path)
    save_arrays(path, {name: array[..., :-1] for name, array in arrays.items()}, **metadata)


@pytest.mark.parametrize("damage", [Path.unlink, half, zeros, others, lambda path: path.write_bytes(b"")])
def test_without_its_last_checkpoint_a_run_goes_on_from_the_one_before_and_says_so(damage, context, whole, tmp_path):
    cut(context, whole, tmp_path / "run")
    damage(tmp_path / "run" / "last.safetensors")
    text = finish(context, whole, tmp_path / "run")
    assert "last.safetensors" in text and "going on from the checkpoint before it, epoch 3, update 0" in text


def test_a_checkpoint_without_its_row_of_the_log_is_not_gone_on_from(context, whole, tmp_path):
    """The log is a line short, as after a power cut: the epoch of that line is trained again."""
    Run(context, tmp_path / "run", strike=signal.SIGKILL, at=1 + whole[2].index("open summary.json.tmp")).end()
    log = tmp_path / "run" / "metrics.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))
    assert "metrics.jsonl lacks rows" in finish(context, whole, tmp_path / "run")


@pytest.mark.parametrize("damage", [Path.unlink, half, others])
def test_a_run_without_its_best_parameters_or_both_checkpoints_is_refused_at_once(damage, context, whole, tmp_path):
    cut(context, whole, tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    damage(tmp_path / "run" / "best.safetensors")
    assert "best.safetensors" in refused(Run(context, tmp_path / "run"))
    for name in ("last", "previous"):
        half(tmp_path / "other" / f"{name}.safetensors")
    assert "not a readable checkpoint" in refused(Run(context, tmp_path / "other"))


def test_a_full_disk_leaves_the_last_checkpoint_and_the_run_goes_on_when_there_is_room(
    context, whole, tmp_path, record_property
):
    """No file larger than so many bytes: each limit stops the run at another file."""
    sizes = {name: (whole[0] / name).stat().st_size for name in ("best.safetensors", "last.safetensors", "curves.png")}
    tried = []
    for limit in (
        0,
        300,
        1000,
        sizes["best.safetensors"] - 1,
        sizes["best.safetensors"],
        sizes["last.safetensors"] - 1,
    ):
        folder = tmp_path / str(limit)
        tried.append(refused(Run(context, folder, largest=limit)))
        assert "File too large" in tried[-1] and not list(folder.glob("*.tmp"))
        assert limit or not folder.exists(), "not even a folder"
        folder = tmp_path / f"later-{limit}"
        Run(context, folder, "--epochs", 1).end()
        before = (folder / "last.safetensors").read_bytes()
        tried.append(refused(Run(context, folder, largest=limit)))
        assert (folder / "last.safetensors").read_bytes() == before
        finish(context, whole, folder)
    record_property("full disks survived", len(tried))


def test_a_full_file_system(whole, tmp_path):
    """A tmpfs that another file fills up, under a run; afterwards there is room again."""
    program = f"{sys.executable} {ROOT / 'run.py'} {' '.join(FLAGS)} --out disk/run"
    script = f"""cd {tmp_path} && mkdir disk && mount -t tmpfs -o size=400k none disk || exit 99
        {program} --epochs 1 || exit 98
        dd if=/dev/zero of=disk/filler bs=1k 2>/dev/null
        {program} --resume > said 2>&1; echo $? > status
        rm disk/filler && {program} --resume && cp -r disk/run after"""
    words, one_core = ["unshare", "--map-root-user", "--mount", "bash", "-c", script], {"OMP_NUM_THREADS": "1"}
    if not shutil.which("unshare"):
        pytest.skip("needs unshare")
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, env={**os.environ, **one_core})
    if not (tmp_path / "disk").exists() or done.returncode == 99:
        pytest.skip("no file system can be mounted here")
    said = (tmp_path / "said").read_text().splitlines()[-1]
    assert done.returncode == 0 and (tmp_path / "status").read_text() == "2\n", done.stderr
    assert said.startswith("run.py: cannot write") and said.endswith("No space left on device")
    same_run(whole[0], tmp_path / "after")


def test_a_folder_that_cannot_be_written(context, whole, tmp_path):
    """Not by this user: a run that would go on there, and one that would begin."""
    user = os.getuid() or 65534
    Run(context, tmp_path / "run", "--epochs", 1).end()
    for name in ("run.said", "new.said"):  # these can be written
        (tmp_path / name).touch()
    try:
        for path in (tmp_path / "run", tmp_path):
            path.chmod(0o555)
        assert "cannot write run/lock: Permission denied" in refused(Run(context, tmp_path / "run", user=user))
        assert "cannot make the run folder new: Perm" in refused(Run(context, tmp_path / "new", user=user))
    finally:
        for path in (tmp_path, tmp_path / "run"):
            path.chmod(0o755)
    finish(context, whole, tmp_path / "run")


def test_of_two_processes_that_start_at_the_same_instant_one_trains(context, whole, tmp_path, record_property):
    for number in range(10):
        folder, instant = tmp_path / str(number) / "run", time.monotonic() + 0.2
        folder.parent.mkdir()
        runs = [Run(context, folder, instant=instant, said=folder.with_name(name)) for name in ("a", "b")]
        ends = sorted(run.end() for run in runs)
        assert [status for status, _ in ends] == [0, 2], ends
        assert "another process trains in" in ends[1][1] or "holds a run already" in ends[1][1]
        same_run(whole[0], folder)
    record_property("races into one folder, won by one", number + 1)


def test_a_second_run_is_refused_and_the_first_is_not_disturbed(context, whole, tmp_path):
    """The first is halted in the middle of a checkpoint, and goes on when the second has been sent away."""
    folder, at = tmp_path / "run", 1 + whole[2].index(PUT_ASIDE)
    first = Run(context, folder, strike=signal.SIGSTOP, at=at)
    while not (folder / "last.safetensors.tmp").exists() or _state(first.process.pid) != "T":
        assert first.process.is_alive()
        time.sleep(0.01)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert "another process trains in" in refused(Run(context, folder, said=tmp_path / "second"))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    os.kill(first.process.pid, signal.SIGCONT)
    assert first.end()[0] == 0
    same_run(whole[0], folder)


def _state(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_clocks_that_go_backwards_change_nothing_but_the_times(context, whole, tmp_path):
    status, text = Run(context, tmp_path / "run", clock="back").end()
    assert status == 0, text
    same_run(whole[0], tmp_path / "run")
    seconds = [row["seconds"] for row in read_rows(tmp_path / "run" / "metrics.jsonl")]
    assert seconds == sorted(seconds) and seconds[0] >= 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["seconds"] >= seconds[-1]


def test_a_resume_with_other_settings_lists_every_difference_and_changes_nothing(context, whole, tmp_path):
    cut(context, whole, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    flags = ["--hidden-size", 13, "--seed", 2, "--z-prob-cells", 0.25, "--train-symbols", 1400]
    said = refused(Run(context, tmp_path / "run", *flags))
    for difference in ("hidden_size was 12, is 13", "seed was 1, is 2", "z_prob_cells was 0.5, is 0.25"):
        assert difference in said
    assert "train_symbols was 1500, is 1400" in said and "dataset was" in said and said.count(" was ") == 5
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    finish(context, whole, tmp_path / "run")
