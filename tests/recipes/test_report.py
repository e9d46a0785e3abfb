"""The report: self-contained, complete, safe with odd names, and content with few files."""

import base64
import io
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jepa.recipes import page
from jepa.recipes.report import report
from jepa.recipes.results import shown

LOADING = {"src", "href", "xlink:href", "srcset", "data", "poster", "action"}


class Page(HTMLParser):
    """What the tests ask of a page: its tags, what they would load, table rows, all text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags, self.loaded, self.rows, self.text, self.episode = [], [], [], "", None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loaded += [value for name, value in attrs if name in LOADING]
        self.rows += [[]] if tag == "tr" else []
        if tag in ("th", "td"):
            self.rows[-1].append("")
        if (tag, "class") in ((tag, name) for name, value in attrs if value == "player"):
            self.episode = json.loads(dict(attrs)["data-episode"])

    def handle_data(self, data):
        self.text += data
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def measured(value, low, high):
    return {"value": value, "low": low, "high": high}


RESULT = {
    "recipe": "made <script>alert(1)</script>",
    "command": "jepa demo --name='<i>&amp;'",
    "seed": 3,
    "seconds": 61.5,
    "versions": {"python": "3.11.7", "torch": "2.14.1", "odd<b>": "1&2"},
    "metrics": {
        "linear_top1": measured(0.7094, 0.6939, 0.7244),
        "linear_top1/last4": measured(0.7012, 0.6856, 0.7163),
        "two_rooms_success": measured(0.875, 0.8066, 0.9216),
        "steps_median": measured(31.0, 31.0, 31.0),
        "lost": measured(float("nan"), float("nan"), float("nan")),
    },
    "baselines": {
        "raw_pixels/linear_top1": measured(0.4447, 0.4281, 0.4615),
        "random_encoder/linear_top1/last4": measured(0.5035, 0.4867, 0.5203),
        "random_policy/two_rooms_success": measured(0.0391, 0.0168, 0.0882),
        "oracle/two_rooms_success": measured(1.0, 0.9709, 1.0),
    },
}


def episode(steps: int = 5) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "frames": random.integers(0, 256, (steps, 16, 16, 3), dtype=np.uint8),
        "goal": random.integers(0, 256, (16, 16, 3), dtype=np.uint8),
        "positions": random.random((steps, 2)) * 16,
        "goal_position": np.array([3.0, 4.0]),
        "imagined": random.random((steps - 1, 3, 2)) * 16,
        "energy": random.random((9, 9)),
        "chosen_action": np.array([0.5, -0.5]),
        "action_low": np.array([-1.0, -1.0]),
        "action_high": np.array([1.0, 1.0]),
    }


@pytest.fixture
def run(tmp_path) -> Path:
    """A run with everything but pictures (those are in test_report_pictures.py)."""
    (tmp_path / "result.json").write_text(json.dumps(RESULT))
    (tmp_path / "config.yaml").write_text("seed: 3 # <u>\n")
    for place in ("encoder", "control/encoder"):
        (tmp_path / place).mkdir(parents=True)
        rows = [
            {"step": float(i), "seconds": i / 2, "loss": 1 / (i + 1), "momentum": 0.99}
            for i in range(90)
        ]
        (tmp_path / place / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    np.savez(tmp_path / "control/episode.npz", **episode())
    (tmp_path / "control/dynamics.json").write_text('{"horizon_error": [0.5, 0.7, 1.1]}')
    return tmp_path


def made(run: Path) -> Page:
    report(run=run)
    return Page(run / "report.html")


def test_loads_nothing_from_outside(run):
    found = made(run)
    assert found.loaded
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in found.loaded)
    assert not {"link", "iframe", "object", "embed", "base"} & set(found.tags)
    text = (run / "report.html").read_text()
    assert not any(word in text for word in ("http:", "https:", "file:", "@import", "url(//"))
    assert str(run) not in text


@pytest.mark.parametrize("probed_at_the_end", [True, False])
def test_steps_are_counted_though_rows_are_numbered_from_0(run, probed_at_the_end):
    probed = {"step": 90.0, "seconds": 45.0, "online/target/knn_top1": 0.5}
    with (run / "encoder/metrics.jsonl").open("a") as file:
        file.write("\n" + json.dumps(probed) if probed_at_the_end else "")
    made(run)
    assert "90 steps in" in (run / "report.html").read_text()
    assert "89 steps" not in (run / "report.html").read_text()


def test_prints_the_path_of_the_page(run, capsys):
    report(run=run)
    assert capsys.readouterr().out.strip() == str(run / "report.html")


def test_every_number_stands_in_its_row_with_its_interval(run):
    rows = [" ".join(row) for row in made(run).rows]
    for name, number in (RESULT["metrics"] | RESULT["baselines"]).items():
        value, _, interval = shown(number).partition(" ")
        first = name if name in RESULT["metrics"] else name.partition("/")[0].replace("_", " ")
        matching = [row for row in rows if row.startswith(first + " ") and value in row]
        assert any(interval.strip("()") in row for row in matching), name


def test_baselines_follow_their_own_metric(run):
    names = [row[0].split(" ")[0] for row in made(run).rows if len(row) == 4][1:]
    assert names == [
        *("linear_top1", "raw", "two_rooms_success", "random", "oracle", "steps_median", "lost"),
        *("number", "linear_top1/last4", "random"),
    ]


def test_names_are_escaped(run):
    found = made(run)
    assert found.tags.count("script") == 1
    assert not {"i", "u"} & set(found.tags) - {"i"}
    for text in (RESULT["recipe"], RESULT["command"], "odd<b>", "1&2", "# <u>"):
        assert text in found.text
    assert "u" not in found.tags


def test_each_part_is_there_when_its_files_are(run):
    headings = ("Pretraining", "Pretraining of the control encoder", "An episode", "Goals reached")
    text = made(run).text
    assert all(heading in text for heading in (*headings, "Error of the imagined position"))


def test_a_result_alone_is_enough(tmp_path):
    bare = RESULT | {"metrics": {"knn_top1": measured(0.5, 0.4, 0.6)}, "baselines": {}}
    (tmp_path / "result.json").write_text(json.dumps(bare))
    found = made(tmp_path)
    assert "0.4000 to 0.6000" in found.text
    assert "Pretraining" not in found.text
    assert "Control" not in found.text
    assert "svg" not in found.tags


@pytest.mark.parametrize(
    "lost", ["config.yaml", "encoder/metrics.jsonl", "control/episode.npz", "control/dynamics.json"]
)
def test_any_file_but_the_result_may_be_missing(run, lost):
    (run / lost).unlink()
    assert "0.7094" in made(run).text


def test_a_control_run_by_itself_is_found_too(run):
    (run / "control/encoder").rename(run / "own")
    for path in (run / "control").iterdir():
        path.rename(run / path.name)
    (run / "control").rmdir()
    found = made(run)
    assert found.episode is not None
    assert "Error of the imagined position" in found.text


def test_an_empty_curve_file_gives_no_curves(run):
    (run / "encoder/metrics.jsonl").write_text("")
    assert made(run).text.count("Pretraining") == 2  # the other encoder's: link and heading


def test_without_a_result_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no result\.json in .*--resume"):
        report(run=tmp_path)


def test_the_same_files_give_the_same_page(run):
    first = made(run) and (run / "report.html").read_bytes()
    assert made(run)
    assert (run / "report.html").read_bytes() == first


@pytest.mark.parametrize("steps", [2, 16, 17])
def test_player_holds_every_frame_exactly(steps):
    given = episode(steps)
    given["imagined"][0, 1] = np.nan
    html = page.player(*(given[k] for k in ("frames", "positions", "imagined", "goal_position")))
    path = html.partition('data-episode="')[2].partition('"')[0]
    held = json.loads(path.replace("&quot;", '"'))
    encoded = held["sheet"].partition("base64,")[2]
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))
    for i, frame in enumerate(given["frames"]):
        row, column = divmod(i, held["columns"])
        cut = sheet[row * 16 : (row + 1) * 16, column * 16 : (column + 1) * 16]
        np.testing.assert_array_equal(cut, frame)
    np.testing.assert_allclose(held["positions"], given["positions"], atol=0.005)
    assert [len(plan) for plan in held["imagined"]] == [2] + [3] * (steps - 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 0.5, 3.0])
def test_no_bar_for_what_is_no_share(value):
    assert page.bar(measured(value, value, value)) == ""


def test_bars_run_from_0_to_1():
    drawn = page.bar(measured(0.5, 0.25, 0.75))
    assert "width:50.00%" in drawn
    assert "left:25.00%;width:50.00%" in drawn


def test_no_bars_where_one_of_those_compared_is_no_share():
    near, far, share = measured(0.4, 0.3, 0.5), measured(1.6, 1.4, 1.8), measured(0.9, 0.8, 1.0)
    apart = [[("distance", "", near), ("random", "", far)], [("success", "", share)]]
    assert page.numbers(apart).count('class="bar"') == 1
