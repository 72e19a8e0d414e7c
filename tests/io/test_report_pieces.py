"""Pieces of the pages by hand: tables, curves in their frame, the grids that fit, provenance."""

import json
import pathlib
import re

import numpy as np
import pytest

from ebm_jax.io.report import curves, document, elements, pictures, run_page
from ebm_jax.io.report.comparison import _differences, _measured, _runs, comparison, run_names


def texts(html, tag):
    return re.findall(rf"<{tag}(?: [^>]*)?>(.*?)</{tag}>", html)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "yes"), (False, "no"), (None, "-"), (0.123456, "0.1235"), (12345.6, "1.235e+04"),
        (1234567, "1,234,567"), (0, "0"), ("a_b", "a_b"), ([], ""), ([1, 0.5, None], "1, 0.5, -"),
        (list(range(12)), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11"),
        (list(range(13)), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ... (13 in all)"),
        ([{"a": 1}, "b"], "{'a': 1}, b"),
        (list(range(14)), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ... (14 in all)"),
    ],
)  # fmt: skip
def test_cells(value, text):
    assert elements.cell(value) == text


def test_leaves_have_the_names_on_the_way_to_them():
    interval = {"value": 0.75, "low": 0.7, "high": 0.8}
    nested = {"a": {"b": 1, "c": {"d": [2]}}, "e": interval}
    assert elements.flatten(nested) == {"a, b": 1, "a, c, d": [2], "e": "0.75 (0.7, 0.8)"}
    assert elements.flatten(nested, separator=".") == {
        "a.b": 1, "a.c.d": [2], "e": "0.75 (0.7, 0.8)",
    }  # fmt: skip
    assert not elements.is_estimate({"value": 1, "low": 0})
    assert not elements.is_estimate(["value", "low", "high"])


def test_json_that_cannot_be_read_is_nothing(tmp_path):
    (tmp_path / "half.json").write_text('{"a": ')
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "good.json").write_text('{"a": 1}')
    read = [elements.read_json(tmp_path / f"{n}.json") for n in ("no", "half", "list", "good")]
    assert read == [{}, {}, {"values": [1, 2]}, {"a": 1}]


def test_pieces_are_escaped_and_in_their_place():
    shown = elements.figure(b"\x00\x01", "<alt>", "a & b")
    assert shown == (
        '<figure><img alt="&lt;alt&gt;" src="data:image/png;base64,AAE=">'
        "<figcaption>a &amp; b</figcaption></figure>"
    )
    assert elements.folded_json("<t>", {"a": "<"}) == (
        "<details><summary>&lt;t&gt;</summary><pre>{\n  &quot;a&quot;: &quot;&lt;&quot;\n}</pre>"
        "</details>"
    )
    assert elements.rows(["", "x"], [["r", "<1>"]]) == (
        '<div class="scroll"><table><thead><tr><th scope="col"></th><th scope="col">x</th></tr>'
        '</thead><tbody><tr><th scope="row">r</th><td>&lt;1&gt;</td></tr></tbody></table></div>'
    )
    assert elements.rows([], [["r", "1"]]).startswith('<div class="scroll"><table><tbody>')


def test_mappings_that_share_more_than_half_of_their_names_are_one_table():
    """x and z of x, y, z in both: two of three. Of x, y, z, w only x and z: a table each."""
    shared = elements.table({"a_b": {"x": 1, "y_z": 2000, "z": 3}, "c": {"x": 4, "z": 5}})
    assert texts(shared, "th") == ["", "x", "y z", "z", "a b", "c"]
    assert texts(shared, "td") == ["1", "2,000", "3", "4", "", "5"]
    apart = elements.table({"a_b": {"x": 1, "y": 2, "z": 3}, "c": {"x": 4, "z": 5, "w": 6}})
    assert texts(apart, "h3") == ["a b", "c"]
    assert apart.count("<table>") == 2
    alone = elements.table({"a_b": {"x_y": 1, "z": {}}})
    assert texts(alone, "h3") == ["a b"]
    assert texts(alone, "th") == ["x y"]


def test_lists_of_mappings_are_folded_when_they_are_long():
    records = [{"a_b": n, "c": n / 3} if n else {"a_b": n} for n in range(13)]
    twelve, thirteen = (elements.table({"all_of": records[:n]}) for n in (12, 13))
    assert texts(twelve, "h3") == ["all of"]
    assert texts(twelve, "th")[:2] == ["a b", "c"]
    assert texts(twelve, "td")[:2] == ["", "0.3333"]
    assert texts(elements.table({"one": records[:1]}), "th") == ["a b", "0"]
    assert texts(elements.table({"said": ["a b"]}), "li") == ["a b"]
    assert "<details>" not in twelve
    assert texts(thirteen, "summary") == ["all of: 13 rows"]
    assert texts(thirteen, "th")[-1] == "12"
    assert texts(elements.table({"said": ["a b", "<c>"]}), "li") == ["a b", "&lt;c&gt;"]
    assert texts(elements.table({"said": ["ab", "c"]}), "td") == ["ab, c"]


def test_curves_fill_their_frame():
    """360 x 210 with a margin of 8, four of them in height; a gap ends a line."""
    line = curves.Line("a", "red", [10, 20, 30, 40, 50], [1.0, 3.0, None, 2.0, 1.0])
    flat = curves.Line("b", "blue", [1_010], [2.0])
    drawn = curves._drawn([line])
    assert re.findall(r'd="(.*?)"', drawn) == [
        "M8.0 186.0h0L94.0 8.0M266.0 97.0h0L352.0 186.0",
    ]
    assert 'style="stroke:red"' in drawn
    assert texts(drawn, "text") == ["1 to 3", "steps 10 to 50"]
    assert re.findall(r'<text x="(\d+)" y="(\d+)"', drawn) == [("8", "204"), ("352", "204")]
    assert drawn.count('text-anchor="end"') == 1
    both = curves._drawn([line, flat])
    assert re.findall(r'd="(.*?)"', both)[1] == "M352.0 97.0h0"
    assert texts(both, "text")[1] == "steps 10 to 1,010"
    constant = curves._drawn([curves.Line("c", "red", [7, 7], [2.0, 2.0])])
    assert re.findall(r'd="(.*?)"', constant) == ["M8.0 8.0h0L8.0 8.0"]
    steep = curves._drawn([curves.Line("c", "red", [7, 8], [0.0, 0.5])])
    assert re.findall(r'd="(.*?)"', steep) == ["M8.0 186.0h0L352.0 8.0"]
    assert curves._drawn([curves.Line("d", "red", [1], [None])]) == ""


def test_a_chart_says_what_it_is():
    lines = [curves.Line("<a>", "red", [1, 2], [1.0, None]), curves.Line("b", "blue", [2], [None])]
    shown = curves._chart_html(curves.Chart("t & u", lines, "a <note>", True))
    assert 'aria-label="t &amp; u by training step; last: &lt;a&gt; 1, b -"' in shown
    assert texts(shown, "output") == ["1", "-"]
    assert re.findall(r'aria-pressed="true" style="--color:(\w+)">(.*?)<output>', shown) == [
        ("red", "&lt;a&gt;"), ("blue", "b"),
    ]  # fmt: skip
    assert texts(shown, "p") == ["a &lt;note&gt;"]
    assert 'viewBox="0 0 360 210"' in shown
    (data,) = texts(shown, "script")
    assert json.loads(data)["isRate"] is True
    assert 'class="note"' not in curves._chart_html(curves.Chart("t", lines))


def test_names_in_several_charts_have_a_legend_for_all():
    def chart(*names):
        return curves.Chart("t", [curves.Line(n, f"c-{n}", [1], [1.0]) for n in names])

    html = curves.charts_html([chart("a", "b", "x"), chart("a", "b"), chart("<", "a")])
    (legend,) = re.findall(r'<div class="legend everywhere">(.*?)</div>', html)
    assert re.findall(r'data-name="(.*?)" style="--color:(.*?)">(.*?)<', legend) == [
        ("a", "c-a", "a"), ("b", "c-b", "b"),
    ]  # fmt: skip
    assert "everywhere" not in curves.charts_html([chart("a", "b"), chart("a")])
    assert "everywhere" not in curves.charts_html([chart("a", "b")])


def test_plain_colors_come_again_after_eight():
    assert [curves.plain_color(i) for i in (0, 7, 8)] == [
        "var(--plain-0)", "var(--plain-7)", "var(--plain-0)",
    ]  # fmt: skip
    assert set(curves.colors([])) == {f"--plain-{i}" for i in range(8)}


def test_the_ends_of_the_colors_of_levels():
    """Viridis from 0 to .82 on light, .4 to 1 on dark ground; the middle one in the middle."""
    from matplotlib import colormaps, colors

    found = curves.colors(["a/level_2", "b/level_2", "a/level_0", "a/level_1", "a/other"])
    for i, (light, dark) in enumerate([(0.0, 0.4), (0.41, 0.7), (0.82, 1.0)]):
        viridis = colormaps["viridis"]
        assert found[f"--level-{i}"] == (
            colors.to_hex(viridis(light)), colors.to_hex(viridis(dark)),
        )  # fmt: skip
    assert "--level-3" not in found
    assert curves.colors(["level"]) == curves.colors([])
    two = curves.colors(["a/level_9", "a/level_10"])
    assert two["--level-1"] == found["--level-2"]
    one = curves.colors(["a/level_9"])
    assert one["--level-0"][0] == colors.to_hex(colormaps["viridis"](0.0))


def test_lines_are_thinned_to_their_extremes():
    """1,000 points are as they were; of 1,001 stretches of two or three keep two each."""
    x = np.arange(1_000).tolist()
    y = np.cos(np.arange(1_000.0)).tolist()
    assert curves._thinned(x, y) == (x, y)
    gaps = [None, 1.0] * 500
    assert curves._thinned(x, gaps) == (x, gaps)
    kept_x, kept_y = curves._thinned(range(1_200), [2.0] * 1_200)
    assert (len(kept_x), set(kept_y)) == (1_000, {2.0})
    x = list(range(0, 15_000, 5))  # 500 stretches of six points
    y = [float(i % 6) if i % 6 < 5 else -1.0 for i in range(3_000)]
    y[600:606] = [None] * 6
    y[0], y[-1] = 1.5, 2.0  # the ends are there whatever they are
    kept_x, kept_y = curves._thinned(x, y)
    extremes = {6 * i + j for i in range(499) if i != 100 for j in (4, 5)}
    expected = sorted({0, 600, 2_994, 2_998, 2_999} | extremes)
    assert kept_x == [5 * i for i in expected]
    assert kept_y == [y[i] for i in expected]


def test_metrics_are_sorted_and_what_cannot_be_drawn_is_left_out(tmp_path):
    rows = [
        {"step": 1, "time": 5.0, "b/level_10": 1, "b/level_9": 2, "steps_per_second": 3, "loss": 4,
         "a": "Infinity"},
        {"step": 2, "time": 6.0, "a": 0.123456789, "loss": [1.0], "b/x": 7},
    ]  # fmt: skip
    text = "\n".join(["not JSON", *map(json.dumps, rows)])
    (tmp_path / "metrics.jsonl").write_text(text)
    steps, values = curves.read_metrics(tmp_path)
    assert steps == [1, 2]
    assert list(values.items()) == [
        ("loss", [4, None]), ("a", [None, 0.123457]), ("b/x", [None, 7]), ("b/level_9", [2, None]),
        ("b/level_10", [1, None]), ("steps_per_second", [3, None]),
    ]  # fmt: skip
    assert curves.read_metrics(tmp_path / "nowhere") == ([], {})
    charts = curves.run_charts(curves.Metrics(steps, values))
    assert [(c.title, c.is_rate, bool(c.note)) for c in charts] == [
        ("loss", False, False), ("a", False, False), ("b", False, False),
        ("steps per second", True, True),
    ]  # fmt: skip
    assert [(line.name, line.color) for line in charts[2].lines] == [
        ("x", "var(--plain-0)"), ("level 9", "var(--level-0)"), ("level 10", "var(--level-1)"),
    ]  # fmt: skip


def test_charts_of_several_runs_keep_their_colors():
    runs = {
        "first": curves.Metrics([1], {"loss": [1.0]}),
        "second": curves.Metrics([1], {"loss": [2.0], "b/level_1": [3.0]}),
    }
    loss, other = curves.overlaid_charts(runs)
    assert [line.color for line in loss.lines] == ["var(--plain-0)", "var(--plain-1)"]
    assert [(line.name, line.color) for line in other.lines] == [("second", "var(--plain-1)")]
    assert other.title == "b, level 1"


def test_grids_that_fit(tmp_path):
    """By their steps and not by their names; the last one always; exactly full is full."""
    folder = tmp_path / "samples"
    folder.mkdir()
    for step, size in ((5, 10), (40, 10), (300, 10), (2000, 10)):
        (folder / f"step_{step}.png").write_bytes(b"x" * size)
    paths = pictures.sample_grids(tmp_path)
    steps = [pictures.step_of(path) for path in paths]
    assert steps == [5, 40, 300, 2000]
    chosen = {
        size: [pictures.step_of(path) for path in pictures._chosen(paths, size)]
        for size in (40, 39, 30, 29, 20, 19, 0)
    }
    assert chosen == {
        40: steps, 39: [5, 40, 2000], 30: [5, 40, 2000], 29: [5, 2000], 20: [5, 2000], 19: [2000],
        0: [2000],
    }  # fmt: skip
    assert pictures.step_of(tmp_path / "step_last.png") == -1
    shown = pictures.slides(tmp_path, 20)
    assert texts(shown, "span") == ["step 5", "step 2,000"]
    assert 'alt="Samples at step 2,000"' in shown
    assert texts(shown, "figcaption") == [
        "2 of 4 grids, evenly chosen to fit in 2e-05 MB (report.max_sample_mb)."
    ]
    assert pictures.slides(tmp_path / "nowhere", 20) == ""


def test_the_heading_of_a_run(tmp_path):
    config = {
        "data": {"name": "digits"}, "seed": 3, "network": {"name": "mlp"},
        "method": {"name": "energy_discrepancy", "other": {"name": "x"}, "width": 5},
    }  # fmt: skip
    assert run_page.describe({}, tmp_path / "r") == ("Run r", "config.json is not there")
    assert run_page.describe(config, tmp_path) == (
        "digits: energy discrepancy, x", "network mlp; no checkpoint yet; seed 3",
    )  # fmt: skip
    for name in ("9", "1000", "tmp"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert run_page.describe(config, tmp_path)[1] == (
        "network mlp; newest checkpoint: step 1,000; seed 3"
    )
    assert run_page._name({"data": {}}, "data") == "unknown data"
    assert run_page._name({"data": {"name": 3}}, "data") == "3"


def test_modes_in_the_order_of_the_titles_and_others_after_them(tmp_path):
    for name in ("ood", "sample", "b_mode", "a_mode", "empty", "samples"):
        (tmp_path / name).mkdir()
    for name in ("b_mode", "a_mode", "samples"):
        (tmp_path / name / "x.json").write_text("{}")
    (tmp_path / "fid").write_text("a file")
    assert run_page.mode_names(tmp_path) == ["sample", "ood", "a_mode", "b_mode"]
    assert [run_page.mode_title(n) for n in ("ood", "a_mode")] == [
        "Out-of-distribution detection", "a mode",
    ]  # fmt: skip


def test_what_was_measured_and_what_on():
    content = {"mode": "x", "measured_on": {"n": 1}, "summary": [], "settings": {}, "auroc": 0.5}
    assert run_page.split_provenance(content) == (
        {"auroc": 0.5},
        {"mode": "x", "measured_on": {"n": 1}, "summary": [], "settings": {}},
    )
    alone = {"checkpoint_step": 3, "auroc": 1}
    assert run_page.split_provenance(alone) == ({}, {"measured_on": alone})
    said = run_page._measured_on(
        {"checkpoint_step": 3, "split": None, "method": {"name": "x"}, "a": {"b_c": 2}}
    )
    assert texts(said, "p") == ["Measured on: checkpoint step 3; a, b c 2."]
    assert run_page._measured_on(None) == ""


def test_the_page_of_training_says_how_far_it_is():
    metrics = curves.Metrics([10, 1200], {"loss": [1.0, 2.0]})
    assert texts(run_page._training(metrics), "p")[0] == "2 logged steps, to step 1,200."
    levels = curves.Metrics([10], {"gap/level_1": [1.0]})
    assert texts(run_page._training(levels), "p")[0] == (
        "1 logged steps, to step 10. Level 0 has the least noise; a level has one color in all "
        "charts."
    )
    assert run_page._training(curves.Metrics([], {})) == ""


@pytest.mark.parametrize(("cells", "is_folded"), [(400, False), (401, True)])
def test_long_results_are_folded(tmp_path, cells, is_folded):
    """What is folded already does not count."""
    folder = tmp_path / "a_mode"
    folder.mkdir()
    results = {f"n{i}": i for i in range(cells)} | {"r": [{"x": i, "y": i} for i in range(30)]}
    provenance = {"versions": {"jax": "1"}, "measured_on": {"checkpoint_step": 3}}
    (folder / "a.json").write_text(json.dumps(results | provenance))
    (folder / "b_c.png").write_bytes(b"x")
    found = run_page._mode(folder)
    assert ("all figures of a.json" in texts(found, "summary")) == is_folded
    assert texts(found, "summary")[-1] == "settings and versions"
    assert texts(found, "p") == ["Measured on: checkpoint step 3."]
    assert 'alt="a mode: b c"' in found
    assert texts(found, "figcaption") == ["b c"]


def test_numbers_of_a_mode_beside_each_other(tmp_path):
    """The outermost first, how many of what last; beyond twelve rows the others are folded."""
    for run, extra in (("one", {}), ("two", {"z": {"deep": {"er": 2.5}}})):
        folder = tmp_path / run / "a_mode"
        folder.mkdir(parents=True)
        found = {
            "measured_on": {"checkpoint_step": 7, "num_samples": 9, "other": 1},
            "b": {"num_x": 3, "value": 4.0}, "flag": True, "text": "t", "a": 1,
            "interval": {"value": 1.0, "low": 0.5, "high": 2.0}, **extra,
        }  # fmt: skip
        (folder / "a.json").write_text(json.dumps(found))
    runs = {name: tmp_path / name for name in ("one", "two")}
    shown = _measured(runs)
    assert texts(shown, "h3") == ["a mode"]
    assert texts(shown, "th") == [
        "", "one", "two", "checkpoint step", "num samples", "a", "interval", "b, value",
        "z, deep, er", "b, num x",
    ]  # fmt: skip
    assert texts(shown, "td") == [
        "7", "7", "9", "9", "1", "1", "1 (0.5, 2)", "1 (0.5, 2)", "4", "4", "-", "2.5", "3", "3",
    ]  # fmt: skip
    many = {f"m{i}": i for i in range(13)}
    for run in runs.values():
        (run / "a_mode/a.json").write_text(json.dumps(many))
    shown = _measured(runs)
    assert texts(shown, "summary") == ["1 more"]
    for run in runs.values():
        (run / "a_mode/a.json").write_text(json.dumps({f"m{i}": i for i in range(12)}))
    assert "<details>" not in _measured(runs)


def test_configs_beside_each_other(tmp_path):
    """A field that only one has differs as well."""
    configs = {"a": {"seed": 1, "data": {"x": 1, "y": 2}}, "b": {"seed": 1, "data": {"x": 3}}}
    for name, config in configs.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    runs = {name: tmp_path / name for name in configs}
    shown = _differences(runs)
    assert texts(shown, "th") == ["field", "a", "b", "data.x", "data.y"]
    assert texts(shown, "td") == ["1", "3", "2", "-"]
    listed = _runs(runs)
    assert texts(listed, "li")[0] == (
        "a: unknown data: unknown method; network unknown network; no checkpoint yet; seed 1 "
        f'<span class="measured">({tmp_path}/a)</span>'
    )


def test_sections_have_links():
    sections = [("One", "<p>1</p>"), ("Two", "<p>2</p>")]
    page = document.document("h <", "s", sections, {"--x": ("1", "2")})
    assert re.findall(r'<a href="#(.*?)">(.*?)</a>', page) == [
        ("section-0", "One"), ("section-1", "Two"),
    ]  # fmt: skip
    assert "<h1>h &lt;</h1>" in page
    assert ":root { --x: 1; }\n@media (prefers-color-scheme: dark) { :root { --x: 2; } }" in page
    for i in range(2):
        assert f'id="section-{i}"' in page


def test_curves_are_in_order():
    """The loss, the others by name, levels by number, speed."""
    expected = [
        "loss", "alpha", "gap/a", "gap/b", "gap/level_9", "gap/levels_9_to_12", "gap/level_10",
        "zeta", "steps_per_second",
    ]  # fmt: skip
    assert sorted(reversed(expected), key=curves._order) == expected


def test_a_page_holds_twenty_megabytes_of_samples(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        pictures, "slides", lambda workdir, max_bytes: asked.append(max_bytes) or "<p>grids</p>"
    )
    (tmp_path / "versions.json").write_text('{"jax": "1"}')
    for options in ({}, {"max_sample_bytes": 3}):
        shown = run_page.page(tmp_path, **options)
        assert texts(shown, "h2") == ["Samples during training", "This run"]
        assert texts(shown, "summary") == ["versions and hardware of the training"]
        assert "<p>grids</p>" in shown
    assert asked == [20_000_000, 3]


def test_the_page_of_several_runs(tmp_path):
    """Runs first and configs last; of each its newest grid; nothing of what no run has."""
    runs = [tmp_path / "a<", tmp_path / "b"]
    for path, steps in zip(runs, ((5, 40, 2000), ()), strict=True):
        (path / "samples").mkdir(parents=True)
        (path / "config.json").write_text(json.dumps({"seed": len(steps)}))
        for step in steps:
            (path / f"samples/step_{step}.png").write_bytes(b"%d" % step)
    shown = comparison(runs)
    assert texts(shown, "h1") == ["2 runs: a&lt;, b"]
    assert texts(shown, "h2") == ["Runs", "Last samples", "Fields of the configs that differ"]
    assert texts(shown, "figcaption") == ["a&lt;: step 2,000"]
    assert 'alt="Samples of a&lt;: step 2,000" src="data:image/png;base64,MjAwMA=="' in shown
    assert texts(shown, "li")[0].startswith("a&lt;: unknown data: unknown method; network unknown")
    (runs[1] / "metrics.jsonl").write_text('{"step": 3, "time": 0.0, "loss": 0.5}\n')
    titles = texts(comparison(runs), "h2")
    assert titles == ["Runs", "Training", "Last samples", "Fields of the configs that differ"]
    nowhere = [tmp_path / "x", tmp_path / "y"]
    with pytest.raises(ValueError, match=f"^{nowhere[0]} and {nowhere[1]} hold no metrics and no"):
        comparison(nowhere)


def test_runs_of_one_name_go_by_their_paths(tmp_path):
    paths = [tmp_path / "a" / "run", tmp_path / "b" / "run"]
    assert run_names(paths) == [str(path) for path in paths]
    assert run_names([*paths[:1], tmp_path / "b"]) == ["run", "b"]


def test_data_in_a_page_is_compact_and_ends_no_script():
    assert curves._script_json({"a": [1, "</script>"]}) == '{"a":[1,"\\u003c/script>"]}'


def test_files_are_in_the_order_of_their_names(tmp_path, monkeypatch):
    """Whatever that of the file system is; of one name, what the last file says."""
    folder = tmp_path / "a_mode"
    folder.mkdir()
    for i, name in enumerate("abc"):
        (folder / f"{name}.json").write_text(json.dumps({"n": i, f"of_{name}": 7}))
        (folder / f"{name}.png").write_bytes(b"x")
    glob = pathlib.Path.glob
    monkeypatch.setattr(
        pathlib.Path, "glob", lambda self, pattern: sorted(glob(self, pattern), reverse=True)
    )
    found = run_page._mode(folder)
    assert texts(found, "figcaption") == ["a", "b", "c"]
    assert texts(found, "th") == ["n", "of a", "n", "of b", "n", "of c"]
    assert texts(_measured({"run": tmp_path}), "td") == ["2", "7", "7", "7"]
