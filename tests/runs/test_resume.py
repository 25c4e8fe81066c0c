"""A resumed run equals the uninterrupted run to the bit. What cannot be resumed is refused in one sentence."""

import json

import pytest

from minizone import UserError
from minizone.experiments.char_ptb import CharPTB
from minizone.runs.files import load_arrays, read_rows, save_arrays
from minizone.runs.training import Interrupted
from tests.helpers.runs import run, same_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    run(folder)
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("options", [{}, {"static_mask": True}, {"gaussian_drop": True}, {"drop_prob_igates": 0.3}])
def test_a_run_cut_after_every_update_equals_the_uninterrupted_one(options, tmp_path):
    """--max-minutes is so small that every session makes one update: all 15 of an epoch, twice."""
    run(tmp_path / "whole", epochs=2, **options)
    stops = 0
    while True:
        try:
            run(tmp_path / "cut", epochs=2, max_minutes=1e-9, resume=stops > 0, **options)
            break
        except Interrupted as stop:
            stops += 1
            assert stop.status == 0 and "--resume" in str(stop)
    assert stops == read_rows(tmp_path / "whole" / "metrics.jsonl")[-1]["update"]
    same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_finished_run_goes_on_with_more_epochs(finished, tmp_path):
    run(tmp_path / "run", epochs=1)
    run(tmp_path / "run", epochs=3, resume=True)
    same_run(finished, tmp_path / "run")


def test_a_row_that_is_later_than_the_checkpoint_is_not_logged_twice(finished, tmp_path):
    """As after a kill between the row and the checkpoint: the epoch is trained again."""
    run(tmp_path / "run", epochs=1)
    checkpoint = (tmp_path / "run" / "last.safetensors").read_bytes()
    run(tmp_path / "run", epochs=2, resume=True)
    (tmp_path / "run" / "last.safetensors").write_bytes(checkpoint)
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 3, "upd')  # a row that was cut off
    run(tmp_path / "run", resume=True)
    same_run(finished, tmp_path / "run")


@pytest.mark.parametrize("error", [OSError, UserError, KeyboardInterrupt, ZeroDivisionError])
def test_a_run_without_a_checkpoint_yet_begins_again_and_again(error, finished, tmp_path, monkeypatch):
    """An exception leaves the config that a resumed run needs."""

    def fail(self):
        raise error

    run(tmp_path / "run", epochs=1)
    (tmp_path / "run" / "last.safetensors").unlink()
    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(CharPTB, "validate", fail)
        run(tmp_path / "run", resume=True)
    run(tmp_path / "run", resume=True)
    same_run(finished, tmp_path / "run")


def test_other_settings_are_refused_with_a_list_of_the_differences_and_nothing_changes(finished):
    before = contents(finished)
    with pytest.raises(UserError, match="with other settings") as error:
        run(finished, resume=True, learning_rate=0.1, z_prob_cells=0.25, train_symbols=1400, epochs=9)
    differences = str(error.value).partition("other settings: ")[2].split("; ")
    assert {difference.split()[0] for difference in differences} == {
        "learning_rate", "z_prob_cells", "train_symbols", "dataset",
    }  # fmt: skip
    assert "learning_rate was 0.002, is 0.1" in differences and "z_prob_cells was 0.5, is 0.25" in differences
    assert contents(finished) == before


def test_a_folder_without_a_run_is_refused_and_not_made(tmp_path):
    with pytest.raises(UserError, match="not the folder of a run"):
        run(tmp_path / "nothing", resume=True)
    assert not (tmp_path / "nothing").exists()


def truncate(path):
    path.write_bytes(path.read_bytes()[:1000])


def remove_a_column(path):
    arrays, metadata = load_arrays(path)
    save_arrays(path, {name: array[..., :-1] for name, array in arrays.items()}, **metadata)


def remove_our_metadata(path):
    arrays, _ = load_arrays(path)
    save_arrays(path, arrays)


@pytest.mark.parametrize("damage", [truncate, remove_a_column, remove_our_metadata])
def test_a_damaged_checkpoint_is_refused_and_nothing_else_changes(damage, tmp_path):
    run(tmp_path / "run", epochs=1)
    damage(tmp_path / "run" / "last.safetensors")
    before = contents(tmp_path / "run")
    with pytest.raises(UserError, match=r"last\.safetensors is not a (readable checkpoint|checkpoint of this run)"):
        run(tmp_path / "run", resume=True)
    assert contents(tmp_path / "run") == before


def test_the_best_parameters_are_not_those_of_an_epoch_that_was_lost_with_its_checkpoint(tmp_path):
    """A kill after best.safetensors of epoch 2 was written, and a resume that shall end before epoch 2."""
    run(tmp_path / "run", epochs=1)
    checkpoint = (tmp_path / "run" / "last.safetensors").read_bytes()
    run(tmp_path / "run", epochs=2, resume=True)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["best_epoch"] == 2
    (tmp_path / "run" / "last.safetensors").write_bytes(checkpoint)
    with pytest.raises(UserError, match=r"best\.safetensors is of epoch 2, and the best of the 1 epochs .* is 1"):
        run(tmp_path / "run", epochs=1, resume=True)


def test_a_best_checkpoint_of_another_program_is_refused(tmp_path):
    run(tmp_path / "run", epochs=1)
    remove_our_metadata(tmp_path / "run" / "best.safetensors")
    with pytest.raises(UserError, match=r"best\.safetensors is not a checkpoint of this run"):
        run(tmp_path / "run", epochs=1, resume=True)


@pytest.mark.parametrize("name", ["metrics.jsonl", "last.safetensors", "best.safetensors", "summary.json"])
def test_a_new_run_does_not_begin_among_the_files_of_an_old_one(name, tmp_path):
    (tmp_path / name).write_text('{"epoch": 1}\n')
    with pytest.raises(UserError, match=f"holds {name} of a run that has no config.json"):
        run(tmp_path, epochs=1)
    assert [path.name for path in tmp_path.iterdir()] == [name]
