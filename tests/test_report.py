"""The page of a workdir: complete, self-contained, readable by people and by screen readers."""

import html.parser
import json
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from configs import default
from ebm_jax.io import files, plotting, report
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
        if tag not in ("img", "meta", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.text.setdefault(self.open[-1], []).append(data)


@pytest.fixture
def workdir(tmp_path):
    config = default.get_config()
    path = tmp_path / "run"
    files.write_json(path / "config.json", {"layout": 2, **config.to_dict()})
    (path / "checkpoints" / "30").mkdir(parents=True)
    lines = [
        {"step": step, "time": 0.0, "loss": 1 / step, "gap/level_0": step, "gap/level_1": "NaN"}
        for step in (10, 20, 30)
    ]
    (path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 4')
    for name in ("samples/step_0000010", "samples/step_0000030", "ood/sets"):
        image = RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        plotting.save_image(path / f"{name}.png", image)
    interval = {"value": 0.75, "low": 0.7, "high": 0.8}
    files.write_json(
        path / "ood/ood.json",
        {
            "mode": "ood",
            "measured_on": {"checkpoint_step": 30},
            "inside": "<digits>",
            "auroc": {"noise": {"energy": interval}, "flipped": {"energy": interval}},
        },
    )
    files.write_json(path / "new_mode/new_mode.json", {"figure": 1234.5})
    return path


def test_everything_is_there_once(workdir):
    read = Reader(report.page(workdir))
    assert read.text["h1"] == ["cifar10: recovery likelihood"]
    assert read.text["h2"] == [
        "Training", "Samples during training", "Out-of-distribution detection", "new mode",
        "This run",
    ]  # fmt: skip
    assert [image["alt"] for image in read.images] == [
        "Training curves: loss, gap", "Samples during training: step 0000030",
        "Out-of-distribution detection: sets",
    ]  # fmt: skip
    assert read.text["td"] == ["<digits>", "0.75 (0.7, 0.8)", "0.75 (0.7, 0.8)", "1234"]
    assert any('"checkpoint_step": 30' in text for text in read.text["pre"])


@pytest.mark.parametrize("section", ["data", "method", "network", "seed"])
def test_a_config_without_some_section(workdir, section):
    config = json.loads((workdir / "config.json").read_text())
    del config[section]
    (workdir / "config.json").write_text(json.dumps(config))
    read = Reader(report.page(workdir))
    assert ("unknown" in read.text["h1"][0] + read.text["p"][0]) == (section != "seed")


def test_it_needs_nothing_else(workdir):
    text = report.page(workdir)
    urls = Reader(text).urls
    assert all(url.startswith(("data:", "#section-")) for url in urls)
    for word in ("<script", "http:", "https:", "@import", "url("):
        assert word not in text


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
    other = default.get_config()
    other.network.width = 7
    with pytest.raises(task.ConfigError, match="holds a run of another config"):
        task.main(other, str(workdir))


def test_in_a_browser(workdir, tmp_path):
    """The screenshot is not blank, and the console has nothing to say."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser is installed; looked for {', '.join(BROWSERS)}")
    (tmp_path / "page.html").write_text(report.page(workdir))
    shot = tmp_path / "shot.png"
    done = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--enable-logging=stderr", "--window-size=1000,2400", f"--screenshot={shot}",
            f"--user-data-dir={tmp_path}/profile", (tmp_path / "page.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr
    with Image.open(shot) as picture:
        pixels = np.asarray(picture.convert("L"))
    assert pixels.shape == (2400, 1000)
    assert pixels.std() > 5
    assert np.mean(pixels < 250) > 0.02
