"""Figures agree with the logs of the runs."""

import json
import math
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest

from minizone import UserError
from minizone.runs.files import read_rows, read_run, write_rows
from minizone.runs.groups import group_by_settings
from minizone.runs.plotting import COLORS, draw_bars, draw_runs, plot_runs, to_svg
from tests.helpers.runs import make_run


@pytest.fixture
def axes():
    """Draw run folders; returns the axes. The figures are closed at the end."""

    def draw(*folders):
        return draw_runs(group_by_settings(map(read_run, folders))).axes[0]

    yield draw
    plt.close("all")


def legend(axes):
    return {text.get_text().replace("\n", " "): handle for text, handle in entries(axes)}


def entries(axes):
    (found,) = axes.figure.legends
    return zip(found.get_texts(), found.legend_handles, strict=True)


def curves(axes):
    return {line.get_label(): line for line in axes.lines}


def test_curves_are_the_rows_of_the_log_and_the_paper_is_dashed(axes, tmp_path):
    drawn = axes(make_run(tmp_path / "one"), make_run(tmp_path / "two", z=0.5, valid=(2.5, 2.25)))
    lines = curves(drawn)
    assert list(lines["one: best 1.500"].get_ydata()) == [2.0, 1.5, 1.75]
    assert list(lines["two: best 2.250"].get_ydata()) == [2.5, 2.25]
    paper = lines["paper, Zoneout: 1.362"]
    assert list(paper.get_ydata()) == [1.362, 1.362] and paper.is_dashed()
    assert paper.get_color() == lines["two: best 2.250"].get_color() == COLORS[1]  # of the same regularizers
    assert drawn.get_title() == "char-ptb on PTB, authors' form" and drawn.get_ylabel() == "bits per character"


def test_seeds_are_one_curve_with_a_band_over_the_seeds_that_are_there(axes, tmp_path):
    drawn = axes(
        make_run(tmp_path / "lstm-seed1", 1, valid=(3.0, 2.0, 1.0)),
        make_run(tmp_path / "lstm-seed2", 2, valid=(5.0, 2.0)),
        make_run(tmp_path / "lstm-seed3", 3, valid=(4.0, 2.0, 2.0)),
    )
    (label,) = [label for label in legend(drawn) if label.startswith("lstm")]
    assert label == "lstm: best 1.667 ± 0.577, n = 3 with 2 to 3 epochs"
    assert list(curves(drawn)[label].get_ydata()) == [4.0, 2.0, 1.5]
    (band,) = drawn.collections
    edges = {tuple(point) for point in band.get_paths()[0].vertices.round(6)}
    assert {(1, 3), (1, 5), (2, 2), (3, round(1.5 - 0.5**0.5, 6)), (3, round(1.5 + 0.5**0.5, 6))} <= edges
    assert "a band of one standard deviation" in drawn.figure.legends[0].get_title().get_text().replace("\n", " ")


def test_an_epoch_that_is_not_a_number_is_a_gap_and_never_the_best(axes, tmp_path):
    folder = make_run(tmp_path / "a", valid=(2.0, math.nan, 1.5))
    (folder / "summary.json").unlink()
    valid = curves(axes(folder))["a: best 1.500"].get_ydata()
    np.testing.assert_array_equal(valid, [2.0, math.nan, 1.5])


def test_runs_of_a_task_that_becomes_harder_are_not_averaged(axes, tmp_path):
    folders = [make_run(tmp_path / f"lstm-seed{seed}", seed, valid=(0.5, 0.25)) for seed in (1, 2)]
    for folder, difficulty in zip(folders, (3, 4), strict=True):
        log = folder / "metrics.jsonl"
        write_rows(log, [{**row, "difficulty": difficulty} for row in read_rows(log)])
    drawn = axes(*folders)
    assert len([line for line in drawn.lines if list(line.get_ydata()) == [0.5, 0.25]]) == 2
    assert not drawn.collections
    label = next(iter(legend(drawn)))
    assert label == "lstm: best 0.250 at 3 digits (1 of 2 seeds); 0.250 at 4 digits (1 of 2 seeds), n = 2"


@pytest.mark.parametrize(
    ("dataset", "reference", "shown"),
    [
        ("PTB, authors' form", None, True),
        ("PTB, authors' form, first 500 characters", {}, False),
        ("PTB", None, False),
        ("manual (stand-in)", {}, False),
    ],
)
def test_the_authors_curve_is_beside_runs_on_the_whole_of_their_text_only(dataset, reference, shown, axes, tmp_path):
    drawn = axes(make_run(tmp_path / "a", dataset=dataset, reference=reference))
    published = [line for line in drawn.lines if line.get_label().startswith("the authors'")]
    assert len(published) == shown
    if shown:
        valid = published[0].get_ydata()
        assert len(valid) == 110 and valid[0] == 1.7333 and valid.argmin() == 106 and valid.min() == 1.3644
        assert drawn.get_xlim() == (0.5, 26.5)


def test_runs_on_several_data_sets_show_no_number_of_the_paper_and_name_their_data(axes, tmp_path):
    drawn = axes(make_run(tmp_path / "two"), make_run(tmp_path / "one", dataset="manual", reference={}))
    assert list(legend(drawn)) == ["two, PTB, authors' form: best 1.500", "one, manual: best 1.500"]


def test_many_runs_differ_in_color_and_then_in_line_style(axes, tmp_path):
    drawn = axes(*(make_run(tmp_path / f"run{k}", z=k / 20) for k in range(18)))
    styles = {(h.get_color(), str(h._dash_pattern)) for label, h in legend(drawn).items() if label.startswith("run")}
    assert len(styles) == 18


def test_long_names_are_wrapped_and_no_name_is_a_formula_or_hidden(axes, tmp_path):
    name = "_$x_$ " + "and so on " * 20
    drawn = axes(make_run(tmp_path / name.strip(), dataset=name * 2))
    drawn.figure.draw_without_rendering()
    width = drawn.figure.bbox.width
    texts = [drawn.title, *drawn.figure.legends[0].get_texts(), drawn.figure.legends[0].get_title()]
    for text in texts:
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= width, text.get_text()
    assert r"\$x_\$" in drawn.title.get_text() and r"_\$x_\$" in next(iter(legend(drawn)))
    assert len(legend(drawn)) == 2  # the run and the paper


def test_zoom_shows_the_differences_of_the_best_results(tmp_path):
    runs = [make_run(tmp_path / "one", valid=(5.0, 2.0)), make_run(tmp_path / "two", z=0.5, valid=(4.0, 1.5))]
    figure = draw_runs(group_by_settings(map(read_run, runs)), zoom=True)
    whole, enlarged = figure.axes
    np.testing.assert_allclose(enlarged.get_ylim(), (1.4, 2.4))
    assert whole.get_ylim()[1] > 5 and "cut off" in enlarged.get_title()
    validation = [list(line.get_ydata()) for line in enlarged.lines if len(line.get_ydata()) == 2]
    assert validation == [[5.0, 2.0], [4.0, 1.5]]  # and no training
    plt.close(figure)


PAPER = {"Unregularized LSTM": {"valid": 1.5, "test": 1.4}, "Zoneout": {"valid": 1.25, "test": 1.2}}


def test_bars_are_differences_from_the_runs_without_regularizer(tmp_path):
    runs = [
        make_run(tmp_path / "zoneout-seed1", 1, z=0.5, valid=(1.0,)),
        make_run(tmp_path / "zoneout-seed2", 2, z=0.5, valid=(2.0,)),
        make_run(tmp_path / "plain", valid=(3.5,)),
    ]
    figure = draw_bars(group_by_settings(map(read_run, runs)), PAPER)
    valid, test = figure.axes
    assert [label.get_text() for label in valid.get_yticklabels()] == ["plain, n = 1", "zoneout, n = 2"]
    for axes, base, gain in ((valid, "3.500", 0.25), (test, "3.250", 0.2)):
        assert [bar.get_width() for bar in axes.patches] == [0.0, 2.0]
        assert base in axes.get_title()
        (diamond,) = [line for line in axes.lines if line.get_marker() == "D"]
        np.testing.assert_allclose(diamond.get_xdata(), [gain])
        dots = [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "."]
        assert dots == [[0.0], [2.5, 1.5]]
    plt.close(figure)


def test_bars_need_a_run_without_regularizer(tmp_path):
    with pytest.raises(UserError, match="there is none among these runs"):
        plot_runs([make_run(tmp_path / "a", z=0.5)], tmp_path / "bars.png", "bars")


@pytest.mark.parametrize("kind", ["bars", "heat-map"])
def test_bars_and_heat_maps_refuse_runs_that_have_not_ended_or_become_harder(kind, tmp_path):
    running, harder = make_run(tmp_path / "running"), make_run(tmp_path / "harder")
    (running / "summary.json").unlink()
    with pytest.raises(UserError, match="running has not finished"):
        plot_runs([running], tmp_path / "a.png", kind)
    log = harder / "metrics.jsonl"
    write_rows(log, [{**row, "difficulty": 2} for row in read_rows(log)])
    with pytest.raises(UserError, match="this task becomes harder"):
        plot_runs([harder], tmp_path / "a.png", kind)
    assert not (tmp_path / "a.png").exists()


def test_of_the_paper_only_the_rows_of_the_runs_are_drawn_and_the_two_to_compare(axes, tmp_path):
    names = ("Unregularized LSTM", "Weight noise", "Norm stabilizer", "Zoneout")
    paper = {name: {"valid": 1.3 + k / 10, "test": 1.2} for k, name in enumerate(names)}
    drawn = axes(make_run(tmp_path / "a", reference=paper))
    assert [label.split(":")[0] for label in legend(drawn) if label.startswith("paper")] == [
        "paper, Unregularized LSTM",
        "paper, Zoneout",
    ]


def test_a_heat_map_has_a_cell_for_each_pair_of_values(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("minizone.runs.plotting.plot_heat_map", lambda *arguments: drawn.append(arguments))
    runs = [make_run(tmp_path / f"{z}", z=z, valid=(2.0 - z,)) for z in (0.5, 0.0)]
    plot_runs(runs, tmp_path / "map.png", "heat-map")
    ((values, down, across, unit, out),) = drawn
    np.testing.assert_array_equal(values, [[2.0, np.nan], [np.nan, 1.5]])
    assert down == ("z-prob-cells", ["0.0", "0.5"]) and across == ("z-prob-states", ["0.0", "0.05"])
    assert (unit, out) == ("bits per character", tmp_path / "map.png")


def test_a_heat_map_of_runs_that_differ_otherwise_is_refused(tmp_path):
    with pytest.raises(UserError, match="differ in two settings, but these differ in none"):
        plot_runs([make_run(tmp_path / "a")], tmp_path / "map.png", "heat-map")
    assert not (tmp_path / "map.png").exists()


def test_a_saved_run_and_every_format_can_be_drawn(tmp_path):
    run = read_run(make_run(tmp_path / "a"))
    (tmp_path / "a.json").write_text(json.dumps(run))
    for kind, start in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")):
        figures = [tmp_path / f"{name}{kind}" for name in ("folder", "saved")]
        plot_runs([tmp_path / "a"], figures[0])
        plot_runs([tmp_path / "a.json"], figures[1])
        assert figures[0].read_bytes().startswith(start) and figures[0].read_bytes() == figures[1].read_bytes()


def test_ids_of_two_figures_in_one_page_do_not_clash_and_all_references_are_found(tmp_path):
    groups = group_by_settings([read_run(make_run(tmp_path / "a"))])
    one, two = (to_svg(draw_runs(groups), prefix) for prefix in ("one", "two"))
    ids = [set(re.findall(r'\bid="([^"]*)"', svg)) for svg in (one, two)]
    assert ids[0] and not ids[0] & ids[1]
    for svg, known in zip((one, two), ids, strict=True):
        used = set(re.findall(r'href="#([^"]*)"', svg)) | set(re.findall(r"url\(#([^)]*)\)", svg))
        assert used and used <= known


def test_a_name_without_letters_in_the_font_gives_no_warning(tmp_path):
    plot_runs([make_run(tmp_path / "a", dataset="红楼梦")], tmp_path / "x.png")


def test_runs_of_two_tasks_have_no_common_axis(tmp_path):
    with pytest.raises(UserError, match="cannot share a figure: char-ptb, word-ptb"):
        plot_runs([make_run(tmp_path / "a"), make_run(tmp_path / "b", task="word-ptb")], tmp_path / "x.png")


def test_a_run_without_a_finished_epoch_cannot_be_plotted(tmp_path):
    folder = make_run(tmp_path / "a")
    (folder / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match="no row in its log for epoch 2"):
        plot_runs([folder], tmp_path / "x.png")
