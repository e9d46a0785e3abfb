"""Trees, lists, csv files and folders of frames as labelled clips."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from jepa.datasets import videos as videos_module
from jepa.datasets.clip_times import ClipTimes
from jepa.datasets.clips import UnreadableVideoError
from jepa.datasets.video_lists import natural
from jepa.datasets.videos import video_files

EVERY = ClipTimes(4, step=3)


@pytest.fixture(scope="module")
def good(write, tmp_path_factory):
    return write(tmp_path_factory.mktemp("good") / "good.mp4", range(40), options={"g": "10"})


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def numbers(shown, clip):
    return shown(clip.permute(1, 2, 3, 0).numpy())


@pytest.mark.parametrize("test", ["test", "val"])
def test_a_tree_with_halves(good, shown, tmp_path, test):
    for place in ("train/run/10.mp4", "train/run/9.mp4", "train/walk/a/b.mp4", f"{test}/run/1.mp4"):
        touch(tmp_path / place)
        shutil.copy(good, tmp_path / place)
    touch(tmp_path / "train/walk/notes.txt", tmp_path / test / "walk/x.MKV")
    options = {"times": EVERY, "manifest": tmp_path / "manifest"}
    train = video_files("videos", tmp_path, "train", **options)
    assert (train.classes, train.labels.tolist()) == (["run", "walk"], [0, 0, 1])
    assert [os.path.basename(train.name(i)) for i in range(3)] == ["9.mp4", "10.mp4", "b.mp4"]
    assert len(video_files("videos", tmp_path, "test", **options)) == 2
    first, last = train.clip(0, 0.0), train.clip(0, 1.0)
    assert (first.shape, first.dtype, first.is_contiguous()) == ((3, 4, 96, 128), torch.uint8, True)
    assert numbers(shown, first) == [0, 3, 6, 9]
    assert numbers(shown, last) == [30, 33, 36, 39]
    assert (train.frames, train.channels, train.size, train.targets) == (4, 3, None, {})


def test_a_tree_without_halves_keeps_each_file_on_its_side(tmp_path):
    touch(*(tmp_path / kind / f"{i}.mp4" for kind in "ab" for i in range(60)))
    halves = [video_files("videos", tmp_path, half) for half in ("train", "test")]
    names = [{half.name(i) for i in range(len(half))} for half in halves]
    assert len(names[0] | names[1]) == 120
    assert not names[0] & names[1]
    assert 10 < len(names[1]) < 40
    touch(tmp_path / "a" / "new.mp4")
    again = video_files("videos", tmp_path, "train")
    assert names[0] <= {again.name(i) for i in range(len(again))}
    assert again.fingerprint != halves[0].fingerprint


def test_lists_of_the_vjepa_repositories(good, tmp_path):
    shutil.copy(good, tmp_path / "a b.mp4")
    (tmp_path / "train.csv").write_text(f"a b.mp4 3\n\n{good} 0\nmissing.mp4 1\n")
    (tmp_path / "val.csv").write_text(f"{good}::5\n")
    options = {"times": EVERY, "manifest": tmp_path / "manifest", "size": 48}
    train = video_files("list", tmp_path / "{split}.csv", "train", **options)
    assert train.labels.tolist() == [3, 0, 1]
    assert train.classes == ["0", "1", "2", "3", "4", "5"]
    assert video_files("list", tmp_path / "{split}.csv", "test", **options).labels.tolist() == [5]
    assert train.clip(0, 0.0).shape == (3, 4, 48, 64)
    with pytest.raises(UnreadableVideoError, match=r"missing\.mp4"):
        train.clip(2, 0.0)


def test_csv_with_words_and_groups(good, tmp_path):
    rows = "".join(f"{good},{'run' if i % 2 else 'walk'},film {i // 4}\n" for i in range(80))
    (tmp_path / "all.csv").write_text("path,label,group\n" + rows)
    halves = [video_files("csv", tmp_path / "all.csv", half) for half in ("train", "test")]
    assert halves[0].classes == ["run", "walk"]
    groups = [set(half.groups.tolist()) for half in halves]
    assert len(groups[0] | groups[1]) == 20
    assert not groups[0] & groups[1], "a film is in one half only"
    touch(*(tmp_path / f"{i}.mp4" for i in range(20)))
    (tmp_path / "plain.csv").write_text(
        "label,path\n" + "".join(f"{i % 8},{i}.mp4\n" for i in range(20))
    )
    plain = video_files("csv", tmp_path / "plain.csv", "train")
    assert plain.groups is None
    assert len(plain.classes) == 8


@pytest.mark.parametrize(
    ("kind", "text"), [("csv", "path,label\na.mp4,0\n"), ("list", "a.mp4 0\n")]
)
def test_a_byte_order_mark_is_no_part_of_a_list(tmp_path, kind, text):
    touch(tmp_path / "a.mp4")
    for half in ("train", "test"):
        (tmp_path / half).write_text(text, encoding="utf-8-sig")
    listed = video_files(kind, tmp_path / "{split}", "train")
    assert listed.name(0) == str(tmp_path / "a.mp4")


def test_numbers_with_zeros_before_them_are_numbers(tmp_path):
    touch(*(tmp_path / f"{i}.mp4" for i in range(3)))
    for half in ("train", "test"):
        (tmp_path / half).write_text("0.mp4 000\n1.mp4 2\n2.mp4 002\n")
    listed = video_files("list", tmp_path / "{split}", "train")
    assert listed.labels.tolist() == [0, 2, 2]
    assert listed.classes == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("kind", "text", "error", "message"),
    [
        ("list", "a.mp4 0\nb.mp4\n", ValueError, r"line 2: expected a path, a space and a whole"),
        ("list", "a.mp4 0.5\n", ValueError, "line 1"),
        ("list", "a.mp4 123456789\n", ValueError, "has the label 123456789"),
        ("list", "a.mp4 0\n", FileNotFoundError, "none of the .* videos .* relative paths are"),
        ("csv", "a.mp4,0\n", ValueError, r"begin with the header path,label .* got a\.mp4,0"),
        ("csv", "path,label\na.mp4,\n", ValueError, "row 2: path or label is missing"),
        ("csv", "path,label\na.mp4\n", ValueError, "row 2: path or label is missing"),
        ("csv", "path,label,group\na.mp4,0,g\nb.mp4,0,\n", ValueError, "row 3: group is missing"),
        ("csv", "path,label,group\na.mp4,0\n", ValueError, "row 2: group is missing; a video that"),
    ],
)
def test_malformed_lists_say_what_is_wrong(tmp_path, kind, text, error, message):
    (tmp_path / "list").write_text(text)
    with pytest.raises(error, match=message):
        video_files(kind, tmp_path / "list", "train")


def test_what_is_not_there(tmp_path):
    for kind, message in (("videos", "is not a folder"), ("list", "there is no list")):
        with pytest.raises(FileNotFoundError, match=message):
            video_files(kind, tmp_path / "nothing", "train")
    (tmp_path / "a").mkdir()
    with pytest.raises(FileNotFoundError, match=r"one folder per class with videos"):
        video_files("videos", tmp_path, "train")
    touch(tmp_path / "train/a/1.mp4")
    with pytest.raises(FileNotFoundError, match="neither test nor val/"):
        video_files("videos", tmp_path, "train")
    (tmp_path / "train").rename(tmp_path / "test")
    with pytest.raises(FileNotFoundError, match="has test/ but no train/"):
        video_files("videos", tmp_path, "train")
    (tmp_path / "test").rename(tmp_path / "train")
    touch(tmp_path / "val/b/1.mp4")
    with pytest.raises(ValueError, match="only one of them has a, b"):
        video_files("videos", tmp_path, "train")


def test_folders_of_frames_in_natural_order(tmp_path):
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (12, 20, 30, 3), dtype=np.uint8)
    for half in ("train", "test"):
        folder = tmp_path / half / "run" / "film 1"
        folder.mkdir(parents=True)
        for i, image in enumerate(pixels):
            Image.fromarray(image).save(folder / f"frame{i + 1}.png")
        (folder / "notes.txt").touch()
    videos = video_files("frames", tmp_path, "train", times=EVERY)
    expected = torch.from_numpy(pixels).permute(3, 0, 1, 2)
    assert torch.equal(videos.clip(0, 0.0), expected[:, [0, 3, 6, 9]])
    assert torch.equal(videos.clip(0, 1.0), expected[:, [2, 5, 8, 11]])
    long = video_files("frames", tmp_path, "train", times=ClipTimes(5, step=3))
    assert torch.equal(long.clip(0, 0.7), expected[:, [0, 3, 6, 9, 11]])
    small = video_files("frames", tmp_path, "train", times=EVERY, size=10)
    assert small.clip(0, 0.0).shape == (3, 4, 10, 15)
    with pytest.raises(ValueError, match="use step, not fps=8"):
        video_files("frames", tmp_path, "train", times=ClipTimes(4, fps=8.0))
    (tmp_path / "train/run/film 1/frame4.png").write_bytes(b"no image")
    with pytest.raises(UnreadableVideoError, match=r"film 1: .*frame4\.png"):
        videos.clip(0, 0.0)
    shutil.rmtree(tmp_path / "train/run/film 1")
    with pytest.raises(UnreadableVideoError, match="film 1"):
        videos.clip(0, 0.0)


def test_natural_order():
    names = ["f10.png", "f9.png", "a", "f9b2", "f9b10", "10", "9"]
    assert sorted(names, key=natural) == ["9", "10", "a", "f9.png", "f9b2", "f9b10", "f10.png"]


def test_each_file_is_looked_into_once(good, tmp_path, monkeypatch):
    shutil.copy(good, tmp_path / "v.mp4")
    for half in ("train", "test"):
        (tmp_path / half).write_text("v.mp4 0\n")
    options = {"times": EVERY, "manifest": tmp_path / "manifest", "reader": "pyav"}
    looked, look = [], videos_module.ask

    def counting(path, limit, call, *arguments):
        looked.append(call.__name__)
        return look(path, limit, call, *arguments)

    monkeypatch.setattr(videos_module, "ask", counting)

    def clip():
        looked.clear()
        video_files("list", tmp_path / "{split}", "train", **options).clip(0, 0.5)
        return looked.count("plan")

    assert [clip(), clip(), clip()] == [1, 0, 0]
    (entry,) = (tmp_path / "manifest").rglob("*.json")
    known = json.loads(entry.read_text())
    assert known["plan"]["reader"] == "pyav"
    assert known["of"]["path"] == str(tmp_path / "v.mp4")
    os.utime(tmp_path / "v.mp4", (1, 1))
    assert [clip(), clip()] == [1, 0], "a file that has changed is looked into again"
    entry.write_text("{damaged")
    assert [clip(), clip()] == [1, 0]
    shutil.rmtree(tmp_path / "manifest")
    (tmp_path / "manifest").touch()
    assert [clip(), clip()] == [1, 1], "without a place to remember it still reads"
