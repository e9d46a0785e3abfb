"""Videos decoded once: the right frames, every second of them, and never twice."""

import logging

import numpy as np
import pytest

from jepa.datasets import decoded
from jepa.datasets.clip_times import ClipTimes
from jepa.datasets.clips import open_clips
from jepa.datasets.decoded import decoded_clips, stretches
from jepa.datasets.videos import VideoClips

EVERY = ClipTimes(4, step=2)


@pytest.fixture
def folder(write, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(decoded, "BLOCK", 16)
    (tmp_path / "videos/b").mkdir(parents=True)
    write(tmp_path / "videos/long.mp4", range(50), options={"g": "10"})
    write(tmp_path / "videos/b/short.mkv", range(100, 112))
    return tmp_path / "videos"


def test_frames_are_those_of_the_file_and_test_follows_train(folder, shown):
    halves = {half: decoded_clips(folder, half, times=EVERY, size=48) for half in ("train", "test")}
    seen: dict[str, dict[str, set[int]]] = {}
    for half, clips in halves.items():
        assert clips.classes == ["b/short.mkv", "long.mp4"]
        assert (clips.channels, clips.frames, clips.size) == (3, 4, None)
        for index in range(len(clips)):
            for position in np.linspace(0, 1, 20):
                clip = clips.clip(index, float(position))
                assert clip.shape == (3, 4, 48, 64)
                numbers = shown(clip.permute(1, 2, 3, 0).numpy())
                assert np.diff(numbers).tolist() == [2, 2, 2]
                name = clips.classes[int(clips.labels[index])]
                seen.setdefault(name, {}).setdefault(half, set()).update(numbers)
    assert seen["long.mp4"] == {"train": set(range(40)), "test": set(range(40, 50))}
    assert seen["b/short.mkv"] == {"train": set(range(100, 112))}  # no clip fits its last fifth
    assert halves["train"].fingerprint != halves["test"].fingerprint


def test_each_file_is_decoded_once_until_it_changes(folder, write, monkeypatch):
    before = decoded_clips(folder, "train", times=EVERY, size=48)
    read, asked = VideoClips.read, []

    def counting(self, index, how, numbers):
        asked.append(self.name(index))
        return read(self, index, how, numbers)

    monkeypatch.setattr(VideoClips, "read", counting)
    decoded_clips(folder, "test", times=ClipTimes(2, fps=5.0), size=48)
    assert asked == []
    write(folder / "long.mp4", range(60, 120))
    after = decoded_clips(folder, "train", times=EVERY, size=48)
    assert set(asked) == {str(folder / "long.mp4")}
    assert before.fingerprint != after.fingerprint
    assert after.seconds[1].shape == (60,)


def test_what_cannot_be_read_is_named_and_left_out(folder, caplog):
    (folder / "a.mp4").write_bytes(b"no video")
    with caplog.at_level(logging.WARNING):
        clips = decoded_clips(folder, "train", times=EVERY, size=48)
    assert "a.mp4" in caplog.text
    assert {clips.classes[label] for label in clips.labels} == {"b/short.mkv", "long.mp4"}


@pytest.mark.parametrize("times", [EVERY, ClipTimes(4, fps=7.0), ClipTimes(1, step=1)])
@pytest.mark.parametrize("frames", [1, 3, 7, 8, 36, 100, 101])
def test_every_start_of_a_clip_is_in_one_stretch(times, frames):
    seconds = np.arange(frames) / 28
    found = {half: stretches(seconds, times, half) for half in ("train", "test")}
    span = int(times.pick(seconds, 0.0)[-1]) + 1
    cut = min([first for first, _ in found["test"]], default=frames)
    assert found["train"]
    for half, (begin, end) in {"train": (0, cut), "test": (cut, frames)}.items():
        starts = [
            s for first, last in found[half] for s in range(first, max(last - span, first) + 1)
        ]
        assert starts == (list(range(begin, max(end - span, begin) + 1)) if begin < end else [])


def test_where_there_is_nothing_to_decode(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        open_clips(f"decoded:{tmp_path / 'nothing'}", "train", image_size=32)
    (tmp_path / "x.avi").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="1 have the name of one"):
        open_clips(f"decoded:{tmp_path}", "train", image_size=32)
    with pytest.raises(ValueError, match="give an image_size"):
        open_clips(f"decoded:{tmp_path}", "train")
