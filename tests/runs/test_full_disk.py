"""A full disk and a folder without write permission give one sentence, and the last checkpoint stays."""

import os
import shutil
import subprocess
import sys

import pytest

if sys.platform != "linux":
    pytest.skip("limits and mounts of Linux", allow_module_level=True)

from minizone.runs import files
from tests.helpers.faults import FLAGS, ROOT, Run, finish
from tests.helpers.runs import same_run


@pytest.mark.parametrize("full_at", ["config.json", "best.safetensors", "last.safetensors"])
def test_a_full_disk_leaves_the_last_checkpoint_and_the_run_goes_on_when_there_is_room(
    full_at, context, whole, tmp_path
):
    """No file can be as large as that one; smaller ones can."""
    limit = (whole / full_at).stat().st_size * 9 // 10
    sentence = Run(context, tmp_path / "new", largest=limit).refused()
    assert "cannot write" in sentence and "File too large" in sentence
    assert not (tmp_path / "new").exists(), "nothing is left of a run without a checkpoint"
    folder = tmp_path / "run"
    Run(context, folder, "--epochs", 1).end()
    before = (folder / "last.safetensors").read_bytes()
    Run(context, folder, largest=limit).refused()
    assert (folder / "last.safetensors").read_bytes() == before and not list(folder.glob("*.tmp"))
    finish(context, whole, folder)


def test_a_full_file_system(whole, tmp_path):
    """A tmpfs that another file fills up; afterwards there is room again."""
    program = f"{sys.executable} {ROOT / 'run.py'} {' '.join(FLAGS)} --out disk/run"
    script = f"""cd {tmp_path} && mkdir disk && mount -t tmpfs -o size=400k none disk || exit 99
        {program} --epochs 1 || exit 98
        dd if=/dev/zero of=disk/filler bs=1k 2>/dev/null
        {program} --resume > printed 2>&1; echo $? > status
        rm disk/filler && {program} --resume && cp -r disk/run after"""
    if not shutil.which("unshare"):
        pytest.skip("needs unshare")
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "bash", "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if not (tmp_path / "disk").exists() or done.returncode == 99:
        pytest.skip("no file system can be mounted here")
    printed = (tmp_path / "printed").read_text().splitlines()[-1]
    assert done.returncode == 0 and (tmp_path / "status").read_text() == "2\n", done.stderr
    assert printed.startswith("run.py: cannot write") and printed.endswith("No space left on device")
    same_run(whole, tmp_path / "after")


def test_a_folder_that_this_user_cannot_write(context, whole, tmp_path):
    """A run that would go on there, and one that would begin."""
    user = os.getuid() or 65534
    Run(context, tmp_path / "run", "--epochs", 1).end()
    for name in ("run.output", "new.output"):  # these can be written
        (tmp_path / name).touch()
    try:
        for path in (tmp_path / "run", tmp_path):
            path.chmod(0o555)
        for name in ("run", "new"):
            sentence = Run(context, tmp_path / name, user=user).refused()
            assert f"cannot write in the run folder {name}: Permission denied" in sentence
    finally:
        for path in (tmp_path, tmp_path / "run"):
            path.chmod(0o755)
    finish(context, whole, tmp_path / "run")


def test_a_file_that_cannot_be_written_is_still_the_old_one(tmp_path, monkeypatch):
    files.write_json(tmp_path / "file", "old")

    def no_space(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", no_space)
    with pytest.raises(files.UserError, match=r"cannot write .*file: No space left"):
        files.write_json(tmp_path / "file", "new")
    assert files.read_json(tmp_path / "file") == "old" and [path.name for path in tmp_path.iterdir()] == ["file"]
