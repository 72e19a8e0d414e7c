"""Pages of workdirs: complete, self-contained, readable by people and by screen readers."""

import html.parser
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from configs import default
from ebm_jax.io import files, image_grids, report
from ebm_jax.io.report import curves
from ebm_jax.tasks import report as task

RNG = np.random.default_rng(0)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "headless_shell")


class Reader(html.parser.HTMLParser):
    """Collects images, headings, links and cells; checks that tags close in order."""

    def __init__(self, text):
        super().__init__()
        self.images, self.urls, self.open, self.text = [], [], [], {}
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.urls += [attributes[name] for name in ("src", "href") if name in attributes]
        if tag == "img":
            self.images.append(attributes)
        if tag not in ("img", "meta", "link"):  # which close nowhere
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.text.setdefault(self.open[-1], []).append(data)

    @property
    def charts(self):
        """What page.js draws: the data of each chart."""
        return [json.loads(text) for text in self.text["script"] if text.startswith("{")]


STEPS = (10, 20, 30)


def make_run(path, *, learning_rate=1e-4, scale=1.0, modes=True):
    """A workdir as training and modes leave it; its last line is being written."""
    config = default.get_config()
    config.optimizer.learning_rate = learning_rate
    files.write_json(path / "config.json", {"layout": 2, **config.to_dict()})
    (path / "checkpoints" / "30").mkdir(parents=True)
    lines = [
        {
            "step": step, "time": 0.0, "steps_per_second": 5.0 * i, "loss": scale / step,
            "gap/level_10": step, "gap/level_2": "NaN" if i == 1 else 2, "displacement/level_2": 3,
            "displacement/level_10": 4,
        }
        for i, step in enumerate(STEPS)
    ]  # fmt: skip
    (path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 4')
    for step in (10, 30):
        save_noise(path / f"samples/step_{step:07d}.png")
    if modes:
        save_noise(path / "ood/sets.png")
        interval = {"value": 0.75, "low": 0.7, "high": 0.8}
        files.write_json(
            path / "ood/ood.json",
            {
                "mode": "ood",
                "measured_on": {"checkpoint_step": 30, "num_samples": 40, "method": {"name": "x"}},
                "inside": "<digits>",
                "auroc": {"noise": {"energy": interval}, "flipped": {"energy": interval}},
            },
        )
        files.write_json(path / "new_mode/new_mode.json", {"figure": 1234.5 * scale})
    return path


def save_noise(path):
    image_grids.save_image(path, RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8))


@pytest.fixture
def workdir(tmp_path):
    return make_run(tmp_path / "run")


@pytest.fixture
def other(tmp_path):
    return make_run(tmp_path / "other", learning_rate=3e-4, scale=2.0, modes=False)


def test_everything_is_there_once(workdir):
    read = Reader(report.page(workdir))
    assert read.text["h1"] == ["cifar10: recovery likelihood"]
    assert read.text["h2"] == [
        "Training", "Samples during training", "Out-of-distribution detection", "new mode",
        "This run",
    ]  # fmt: skip
    assert [image["alt"] for image in read.images] == [
        "Samples at step 10", "Samples at step 30", "Out-of-distribution detection: sets",
    ]  # fmt: skip
    assert read.text["td"] == ["<digits>", "0.75 (0.7, 0.8)", "0.75 (0.7, 0.8)", "1234"]
    assert "Measured on: checkpoint step 30; num samples 40." in read.text["p"]
    assert any('"checkpoint_step": 30' in text for text in read.text["pre"])


def test_charts(workdir):
    """The loss first and the speed last; levels in their order, each in one color everywhere."""
    read = Reader(report.page(workdir))
    assert [text for text in read.text["figcaption"] if "grids" not in text][:4] == [
        "loss", "displacement", "gap", "steps per second",
    ]  # fmt: skip
    loss, displacement, gap, speed = read.charts
    assert [line["y"] for line in loss["lines"]] == [[0.1, 0.05, 0.0333333]]
    assert [(line["name"], line["y"]) for line in gap["lines"]] == [
        ("level 2", [2, None, 2]), ("level 10", [10, 20, 30]),
    ]  # fmt: skip
    assert all(tuple(line["x"]) == STEPS for chart in read.charts for line in chart["lines"])
    assert [line["color"] for line in gap["lines"]] == ["var(--level-0)", "var(--level-1)"]
    assert displacement["lines"][0]["color"] == "var(--level-0)"
    assert [chart["isRate"] for chart in read.charts] == [False, False, False, True]
    assert speed["lines"][0]["y"] == [0, 5, 10]


def test_levels_are_a_sequence_of_colors():
    """From dark to light, on both grounds, whatever their number."""

    def lightness(color):
        return sum(int(color[i : i + 2], 16) for i in (1, 3, 5))

    names = [f"gap/levels_{i}_to_{i + 99}" for i in range(0, 1_000, 100)]
    colors = curves.colors(names)
    for ground in (0, 1):
        levels = [colors[f"--level-{i}"][ground] for i in range(10)]
        assert len(set(levels)) == 10
        greens = [int(color[3:5], 16) for color in levels]
        assert greens == sorted(greens)
        assert lightness(levels[0]) < lightness(levels[-1])


def test_long_lines_keep_their_peaks(tmp_path):
    values = np.sin(np.arange(5_000.0))
    values[[1_234, 4_321]] = 50, -50
    lines = [{"step": i + 1, "time": 0, "loss": v} for i, v in enumerate(values)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (chart,) = Reader(report.page(tmp_path)).charts
    (line,) = chart["lines"]
    points = dict(zip(line["x"], line["y"], strict=True))
    assert 900 < len(points) <= 1_002
    assert (points[1_235], points[4_322]) == (50, -50)
    assert line["x"] == sorted(points)
    assert {1, 5_000} <= set(points)


def test_samples_of_all_steps_or_as_many_as_fit(tmp_path):
    for step in range(1, 12):
        save_noise(tmp_path / f"samples/step_{step:07d}.png")
    size = (tmp_path / "samples/step_0000001.png").stat().st_size
    everything = report.page(tmp_path)
    assert "All 11 grids that were saved." in everything
    assert len(Reader(everything).images) == 11
    some = report.page(tmp_path, max_sample_bytes=int(3.5 * size))
    assert [image["alt"] for image in Reader(some).images] == [
        f"Samples at step {step}" for step in (1, 6, 11)
    ]
    assert "3 of 11 grids, evenly chosen to fit in" in some
    last = report.page(tmp_path, max_sample_bytes=1)
    assert [image["alt"] for image in Reader(last).images] == ["Samples at step 11"]


def test_what_is_seen_without_javascript(workdir):
    """Curves, last values, samples of all steps: nothing waits for the script."""
    text = re.sub(r"<script.*?</script>", "", report.page(workdir), flags=re.DOTALL)
    read = Reader(text)
    assert len(read.images) == 3
    assert text.count("<svg") == 4
    assert len(re.findall(r'<path style="stroke:var\(--[a-z]+-\d\)" d="M[\d.]+ [\d.]+', text)) == 6
    assert read.text["output"] == ["0.03333", "3", "4", "2", "30", "10"]
    assert (
        "display: none"
        not in text.split("</style>")[0]
        .replace(".slides .strip > div:not(.shown) { display: none; }", "")
        .split("@media print")[0]
    )


def test_names_cannot_break_out(tmp_path):
    """Neither of a script nor of an attribute."""
    name = "x\"</script><b>'&"
    line = {"step": 1, "time": 0, name: 1.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    text = report.page(tmp_path)
    assert "<b>" not in text
    read = Reader(text)
    assert read.text["figcaption"][0] == 'x"<'
    assert read.charts[0]["lines"][0]["name"] == "script><b>'&"


@pytest.mark.parametrize("section", ["data", "method", "network", "seed"])
def test_a_config_without_some_section(workdir, section):
    config = json.loads((workdir / "config.json").read_text())
    del config[section]
    (workdir / "config.json").write_text(json.dumps(config))
    read = Reader(report.page(workdir))
    assert ("unknown" in read.text["h1"][0] + read.text["p"][0]) == (section != "seed")


def test_it_needs_nothing_else(workdir, other):
    for text in (report.page(workdir), report.comparison([workdir, other])):
        urls = Reader(text).urls
        assert all(url.startswith(("data:", "#section-")) for url in urls)
        for word in ("<script src", "http:", "https:", "@import", "url(", "fetch(", "eval("):
            assert word not in text
        assert "default-src 'none'" in text


def test_runs_beside_each_other(workdir, other):
    read = Reader(report.comparison([workdir, other]))
    assert read.text["h1"] == ["2 runs: run, other"]
    assert read.text["h2"] == [
        "Runs", "Training", "Last samples", "What the modes measured",
        "Fields of the configs that differ",
    ]  # fmt: skip
    assert [image["alt"] for image in read.images] == [
        "Samples of run: step 30", "Samples of other: step 30",
    ]  # fmt: skip
    loss, *_ = read.charts
    assert [(line["name"], line["y"][0]) for line in loss["lines"]] == [
        ("run", 0.1),
        ("other", 0.2),
    ]
    assert len({line["color"] for line in loss["lines"]}) == 2
    assert len(read.charts) == 6  # each level by itself
    table = read.text["td"]
    assert table[-2:] == ["0.0001", "0.0003"]
    assert read.text["th"][-1] == "optimizer.learning_rate"
    assert table[:4] == ["30", "-", "40", "-"]  # checkpoint step and samples of the mode
    assert ["0.75 (0.7, 0.8)", "-"] == table[4:6]
    assert "1234" in table


def test_runs_of_one_name_and_of_one_config(tmp_path):
    paths = [make_run(tmp_path / name / "run") for name in ("a", "b")]
    text = report.comparison(paths)
    assert Reader(text).text["h1"] == [f"2 runs: {paths[0]}, {paths[1]}"]
    assert "None: the configs are the same." in text


def test_tables():
    """Rows of common columns become one table, others a table each."""
    together = report.table({"a": {"x": 1, "y": 2.5}, "b": {"x": 3, "y": None}})
    assert together.count("<table>") == 1
    assert Reader(together).text["td"] == ["1", "2.5", "3", "-"]
    apart = report.table({"n": 10_000, "a": {"x": 1}, "b": {"y": [1, 2]}})
    assert apart.count("<table>") == 3
    assert Reader(apart).text["td"] == ["10,000", "1", "1, 2"]


def test_lists():
    """Of mappings: a table, folded where it is long. Of sentences: a list. Empty: nothing."""
    records = [{"step": n, "energy": n / 2} for n in range(3)]
    shown = Reader(report.table({"records": records, "none": {}, "nothing": []}))
    assert shown.text["th"] == ["step", "energy", "0", "1", "2"]
    assert shown.text["td"] == ["0", "0.5", "1"]
    assert "<details>" in report.table({"records": records * 5})
    said = Reader(report.table({"verdict": ["It drifts.", "It did not."], "levels": [3, 0]}))
    assert said.text["li"] == ["It drifts.", "It did not."]
    assert said.text["td"] == ["3, 0"]


def test_from_the_mode(workdir, tmp_path, capsys):
    assert task.main(default.get_config(), str(workdir)) == 0
    assert "report.html" in capsys.readouterr().out
    assert (workdir / "report.html").read_text() == report.page(workdir)
    with pytest.raises(task.ConfigError, match=r"expected the directory of a run, got .*nowhere"):
        task.main(default.get_config(), str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(task.ConfigError, match="holds no metrics and no results"):
        task.main(default.get_config(), str(tmp_path / "empty"))
    changed = default.get_config()
    changed.network.width = 7
    with pytest.raises(task.ConfigError, match="holds a run of another config"):
        task.main(changed, str(workdir))


def test_a_comparison_from_the_mode(workdir, other, tmp_path, capsys):
    config = default.get_config()
    config.report.workdirs = (str(other),)
    assert task.main(config, str(workdir)) == 0
    assert "comparison.html" in capsys.readouterr().out
    assert (workdir / "comparison.html").read_text() == report.comparison([workdir, other])
    config.report.workdirs = (str(tmp_path / "nowhere"),)
    with pytest.raises(
        task.ConfigError, match=r"report\.workdirs: expected the directory of a run"
    ):
        task.main(config, str(workdir))
    config.report.workdirs = (str(other), str(workdir))
    with pytest.raises(task.ConfigError, match=r"report\.workdirs: .* each once, got .*run twice"):
        task.main(config, str(workdir))


@pytest.fixture
def browser(tmp_path):
    """(page, *flags) -> what a browser prints of it; the console has nothing to say."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser is installed; looked for {', '.join(BROWSERS)}")

    def show(text, *flags):
        (tmp_path / "page.html").write_text(text)
        done = subprocess.run(
            [
                program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                "--enable-logging=stderr", f"--user-data-dir={tmp_path}/profile", *flags,
                (tmp_path / "page.html").as_uri(),
            ],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "CONSOLE" not in done.stderr, done.stderr
        return done.stdout

    return show


@pytest.mark.parametrize("of", ["one run", "two"])
def test_in_a_browser(workdir, other, tmp_path, browser, of):
    """The screenshot is not blank."""
    shot = tmp_path / "shot.png"
    text = report.page(workdir) if of == "one run" else report.comparison([workdir, other])
    browser(text, "--window-size=1000,2400", f"--screenshot={shot}")
    with Image.open(shot) as picture:
        pixels = np.asarray(picture.convert("L"))
    assert pixels.shape == (2400, 1000)
    assert pixels.std() > 5
    assert np.mean(pixels < 250) > 0.02


CLICKS = """
<script>
const found = [];
function note(chart) {
  const lines = [...chart.svg.querySelectorAll("path[style]")];
  const ticks = [...chart.svg.querySelectorAll("text[text-anchor=end]")].map((t) => t.textContent);
  found.push({ lines: lines.length, ticks, readout: chart.readout.textContent });
}
const gap = charts[2];
note(gap);
gap.buttons[1].click();
note(gap);
gap.scale.click();
note(gap);
document.querySelector(".everywhere button").click();
note(gap);
document.querySelectorAll(".everywhere button").forEach((b) => b.click());
gap.svg.dispatchEvent(new PointerEvent("pointermove", { clientX: 10000, clientY: 10 }));
note(gap);
const slider = document.querySelector("input[type=range]");
const seen = () => [...document.querySelectorAll(".strip > div")]
  .filter((d) => d.getClientRects().length).map((d) => d.textContent);
found.push(seen());
slider.value = 0;
slider.oninput();
found.push(seen());
document.body.innerHTML = "";
document.body.textContent = JSON.stringify(found);
</script>
"""


def test_clicks_in_a_browser(workdir, browser):
    """Hidden curves, a logarithmic axis, values under the pointer, the slider."""
    text = report.page(workdir).replace("</body>", CLICKS + "</body>")
    (body,) = Reader(browser(text, "--dump-dom")).text["body"]
    first, hidden, log, none, both, last, earlier = json.loads(body)
    assert [state["lines"] for state in (first, hidden, log, none)] == [2, 1, 1, 0]
    assert float(first["ticks"][-2]) >= 20 or "30" in first["ticks"]
    assert max(map(float, hidden["ticks"][:-1])) < 10  # the axis follows what is shown
    assert log["ticks"] != hidden["ticks"]
    assert both["readout"] == "step 30"
    assert (last, earlier) == (["step 30"], ["step 10"])
