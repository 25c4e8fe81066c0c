"""Files that can be in place of a checkpoint or a log."""

import numpy as np
import pytest
import safetensors.numpy

from minizone import UserError
from minizone.runs.files import append_row, load_arrays, read_rows, save_arrays


def test_a_file_that_another_program_wrote_has_no_metadata(tmp_path):
    weights = {"W": np.arange(6.0).reshape(2, 3)}
    safetensors.numpy.save_file(weights, tmp_path / "file", metadata={"format": "pt"})
    arrays, metadata = load_arrays(tmp_path / "file")
    assert metadata == {} and np.array_equal(arrays["W"], weights["W"])


@pytest.mark.parametrize("size", [0, 5, 100, -1])
def test_a_truncated_checkpoint_is_a_sentence(size, tmp_path):
    save_arrays(tmp_path / "file", {"W": np.ones((9, 9))}, epoch=3)
    (tmp_path / "file").write_bytes((tmp_path / "file").read_bytes()[:size])
    with pytest.raises(UserError, match="file is not a readable checkpoint: "):
        load_arrays(tmp_path / "file")


def test_a_folder_or_nothing_in_the_place_of_a_checkpoint_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="there is no checkpoint"):
        load_arrays(tmp_path / "file")
    with pytest.raises(UserError, match="is not a readable checkpoint"):
        load_arrays(tmp_path)


def test_a_row_that_was_cut_off_does_not_count(tmp_path):
    log = tmp_path / "metrics.jsonl"
    for epoch in (1, 2):
        append_row(log, {"epoch": epoch})
    log.write_bytes(log.read_bytes()[:-3])
    assert read_rows(log) == [{"epoch": 1}]
    log.write_text("not JSON\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl has a line that is not JSON"):
        read_rows(log)
