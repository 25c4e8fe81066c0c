"""`run.py sample`: what it prints for a run, and what is refused."""

from __future__ import annotations

import shlex
import shutil

import pytest

from tests.helpers.commands import command, refused_here
from tests.helpers.runs import make_run
from tests.helpers.runs import run as train

FLAGS = "--dataset manual --hidden-size 6 --batch-size 4 --seq-len 5 --epochs 1 --train-symbols 400 --eval-symbols 50"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of characters. Its data are not needed any more."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(folder, epochs=1)
    return folder


def sample(program, capsys, *arguments) -> str:
    capsys.readouterr()
    assert program.main(["sample", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_it_goes_on_from_the_prompt_and_the_seed_decides_how(program, run, capsys):
    text = sample(program, capsys, run, "--prompt", "The name", "--length", "40")
    assert text.startswith("The name") and text.endswith("\n") and len(text) == len("The name") + 40 + 1
    assert sample(program, capsys, run, "--prompt", "The name", "--length", "40", "--seed", "1") == text
    assert sample(program, capsys, run, "--prompt", "The name", "--length", "40", "--seed", "2") != text
    assert len(sample(program, capsys, run)) == 301
    greedy = [sample(program, capsys, run, "--temperature", "0", "--seed", seed) for seed in (1, 2)]
    assert greedy[0] == greedy[1]


@pytest.mark.parametrize("options", [[], ["--static-mask", "--z-prob-cells", "0.5", "--z-prob-states", "0.5"]])
@pytest.mark.parametrize("task", ["char-ptb", "text8", "word-ptb"])
def test_a_run_ends_with_the_line_that_its_seed_samples(task, options, program, tmp_path, capsys):
    assert program.main([task, *shlex.split(FLAGS), *options, "--seed", "3", "--out", str(tmp_path / "my run")]) == 0
    lines = capsys.readouterr().out.splitlines()
    line = lines[-2].removeprefix("sample: ")
    assert lines[-2] != line and lines[-1].startswith("best validation")
    text = sample(program, capsys, tmp_path / "my run", "--seed", "3")
    assert line and " ".join(text.split()).startswith(line)


def test_text_is_printed_as_it_is_drawn(run, monkeypatch, program):
    shown: list[tuple[str, bool]] = []
    monkeypatch.setattr("builtins.print", lambda *text, end="\n", flush=False: shown.append(("".join(text), flush)))
    assert program.main(["sample", str(run), "--length", "5"]) == 0
    assert len(shown) == 6 and all(flush and len(piece) == 1 for piece, flush in shown[:5])


def test_in_a_process_of_its_own_it_prints_the_text_alone(run, tmp_path):
    done = command("sample", run, "--length", "20", cwd=tmp_path)
    assert (done.returncode, done.stderr, len(done.stdout)) == (0, "", 21)


def test_a_run_older_than_its_vocabulary_is_one_sentence_and_resuming_it_adds_it(program, run, tmp_path, capsys):
    old = shutil.copytree(run, tmp_path / "old")
    (old / "vocabulary.json").unlink()
    assert "vocabulary.json is missing" in refused_here(capsys, "sample", old)
    train(old, epochs=1, resume=True)
    assert (old / "vocabulary.json").read_bytes() == (run / "vocabulary.json").read_bytes()
    assert sample(program, capsys, old) == sample(program, capsys, run)


@pytest.mark.parametrize(("task", "drawn"), [("char-ptb", False), ("word-ptb", True)])
def test_unknown_is_drawn_among_words_and_not_among_characters(task, drawn, program, tmp_path, capsys):
    """The last tenth of the text has a symbol that the rest does not have."""
    text = tmp_path / "text.txt"
    text.write_text("a b c\n" * 90 + "a b x\n" * 10)
    flags = ["--train-symbols", "0", "--eval-symbols", "0", "--learning-rate", "1e-9", "--text", str(text)]
    assert (
        program.main([task, *shlex.split(FLAGS.replace("--dataset manual", "")), *flags, "--out", str(tmp_path)]) == 0
    )
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("sample: "))
    assert "<unk>" in (tmp_path / "vocabulary.json").read_text()
    assert ("<unk>" in line) == drawn == ("<unk>" in sample(program, capsys, tmp_path))


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--prompt", "naïve"], "--prompt has 'ï', which is not among the 9"),
        (["--temperature", "-1"], "--temperature must be at least 0 and finite, got -1"),
        (["--temperature", "nan"], "--temperature must be at least 0 and finite, got nan"),
        (["--temperature", "inf"], "--temperature must be at least 0 and finite, got inf"),
        (["--length", "-1"], "--length must be at least 0, got -1"),
        (["--seed", "x"], "--seed"),
    ],
)
def test_mistyped_flags_are_one_sentence(flags, sentence, run, capsys):
    assert sentence in refused_here(capsys, "sample", run, *flags)


def test_what_is_no_run_of_a_language_model_with_weights_is_one_sentence(run, tmp_path, capsys):
    assert "is not the folder of a run" in refused_here(capsys, "sample", tmp_path)
    images = make_run(tmp_path / "images", task="pmnist")
    assert "is a run of pmnist: text can be drawn from runs of char-ptb" in refused_here(capsys, "sample", images)
    unfinished = shutil.copytree(run, tmp_path / "unfinished")
    (unfinished / "best.safetensors").unlink()
    assert "there is no checkpoint" in refused_here(capsys, "sample", unfinished)
    other = shutil.copytree(run, tmp_path / "other")
    train(tmp_path / "larger", epochs=1, hidden_size=13)
    shutil.copy(tmp_path / "larger" / "best.safetensors", other)
    assert "best.safetensors does not belong to this run: " in refused_here(capsys, "sample", other)


def test_a_prompt_of_words_is_printed_as_words(program, tmp_path, capsys):
    assert program.main(["word-ptb", *shlex.split(FLAGS), "--out", str(tmp_path)]) == 0
    text = sample(program, capsys, tmp_path, "--prompt", "the name, is", "--length", "30")
    assert text.startswith("the name, is")
