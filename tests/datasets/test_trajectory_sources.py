"""Importers of what people have, against arrays that were known beforehand."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import h5py
import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from jepa import optional as optional_module
from jepa.datasets.trajectories import Trajectories, read_episode
from jepa.datasets.trajectory_sources import open_trajectories
from jepa.datasets.windows import Windows

FIXTURES = Path(__file__).parent.parent / "fixtures"
LENGTHS = (4, 7, 2)
RANDOM = np.random.default_rng(0)


def made(steps):
    return {
        "observations.image": RANDOM.integers(0, 255, (steps + 1, 4, 4, 3), dtype=np.uint8),
        "observations.state": RANDOM.normal(size=(steps + 1, 3)).astype(np.float32),
        "actions": RANDOM.normal(size=(steps, 2)).astype(np.float32),
        "rewards": RANDOM.normal(size=steps),
        "terminations": np.arange(steps) == steps - 1,
    }


EPISODES = [made(steps) for steps in LENGTHS]


def same(data, wanted):
    assert isinstance(data, Trajectories)
    assert data.lengths.tolist() == [len(episode["actions"]) for episode in wanted]
    for number, episode in enumerate(wanted):
        found = read_episode(data, number)
        assert found.keys() == episode.keys()
        for name, array in episode.items():
            assert np.array_equal(found[name], array), name
    batch = Windows(data, length=1, skip=2, names=["actions"])
    assert len(batch) == sum(len(episode["actions"]) - 1 for episode in wanted)


def write_minari(folder):
    """The layout of Minari's documentation, `Dataset Standards`."""
    (folder / "data").mkdir(parents=True)
    with h5py.File(folder / "data/main_data.hdf5", "w", track_order=True) as file:
        for number in (2, 0, 1):
            group = file.create_group(f"episode_{number}")
            for name, array in EPISODES[number].items():
                group[name.replace(".", "/")] = array
            steps = LENGTHS[number]
            group["truncations"] = np.zeros(steps, bool)
            group["infos/depth/metres"] = np.arange(steps + 1.0)
            group["infos/said"] = ["text"] * (steps + 1)
    return folder / "data/main_data.hdf5"


def test_minari(tmp_path):
    write_minari(tmp_path)
    extra = [
        {"truncations": np.zeros(n, bool), "infos.depth.metres": np.arange(n + 1.0)}
        for n in LENGTHS
    ]
    wanted = [episode | more for episode, more in zip(EPISODES, extra, strict=True)]
    same(open_trajectories(f"minari:{tmp_path}"), wanted)


def test_minari_as_minari_writes_it(tmp_path):
    """Three episodes n of 2 + n steps, recorded by minari 0.5.4 with its DataCollector."""
    (tmp_path / "data").mkdir()
    packed = FIXTURES / "minari_0.5.4.hdf5.gz"
    (tmp_path / "data/main_data.hdf5").write_bytes(gzip.decompress(packed.read_bytes()))
    data = open_trajectories(f"minari:{tmp_path}")
    assert data.lengths.tolist() == [2, 3, 4]
    for n in range(3):
        found, t = read_episode(data, n), np.arange(3.0 + n)
        pictures = np.zeros((3 + n, 32, 40, 3)) + (60 + 10 * n + t)[:, None, None, None]
        if n == 1:
            pictures[1::2, :16] += 100  # such pictures have files of different sizes
        assert np.abs(found.pop("observations.pixels") - pictures).max() <= 3  # JPEG
        done = np.arange(2 + n) == 1 + n
        wanted = {
            "observations.pose.0": np.stack([np.full(3 + n, n), t / 4], axis=1),
            "observations.pose.1": t,
            "infos.depth": n + t / 8,
            "infos.inner.where": np.stack([np.full(3 + n, n), t], axis=1),
            "actions": np.stack([np.full(2 + n, n / 4), t[:-1] / 4], axis=1),
            "rewards": n + t[1:] / 2,
            "terminations": done & (n != 1),
            "truncations": done & (n == 1),
        }
        assert found.keys() == wanted.keys()
        assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def write_robomimic(path, *, after):
    with h5py.File(path, "w") as file:
        for number, episode in enumerate(EPISODES):
            group = file.create_group(f"data/demo_{number}")
            for name in ("image", "state"):
                array = episode[f"observations.{name}"]
                group[f"obs/{name}"] = array[:-1]
                if after:
                    group[f"next_obs/{name}"] = array[1:]
            group["actions"], group["rewards"] = episode["actions"], episode["rewards"]
            group["dones"] = episode["terminations"]
            group["states"] = np.zeros((LENGTHS[number], 9))
    return path


def cut(episode, actions, observations):
    counts = {True: observations, False: actions}
    return {n: a[: counts[n.startswith("observations")]] for n, a in episode.items()}


@pytest.mark.parametrize("after", [True, False])
def test_robomimic(tmp_path, after):
    path = write_robomimic(tmp_path / "demos.hdf5", after=after)
    wanted = [e if after else cut(e, n - 1, n) for e, n in zip(EPISODES, LENGTHS, strict=True)]
    same(open_trajectories(f"robomimic:{path}"), wanted)


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def write_table(path, columns):
    def column(array):
        if array.dtype == np.uint8:
            return [{"bytes": png(image), "path": None} for image in array]
        if array.ndim == 1:
            return array
        return pyarrow.FixedSizeListArray.from_arrays(array.ravel(), array.shape[1])

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table({k: column(v) for k, v in columns.items()}), path)


def write_lerobot(folder, write, version):
    """The layouts of LeRobot's documentation: a file per episode, and files of several."""
    data, begin, videos = [], 0, {}
    for number, episode in enumerate(EPISODES):
        frames = LENGTHS[number] + 1

        def padded(array):
            return np.concatenate([array, array[-1:]])

        data.append(
            {
                "observation.state": episode["observations.state"],
                "observation.wrist": episode["observations.image"],
                "action": padded(episode["actions"]),
                "next.reward": padded(episode["rewards"]),
                "next.done": padded(episode["terminations"]),
                "timestamp": (np.arange(frames) / 30).astype(np.float32),
                "frame_index": np.arange(frames),
                "episode_index": np.full(frames, number),
                "index": np.arange(begin, begin + frames),
                "task_index": np.zeros(frames, np.int64),
            }
        )
        videos[number] = range(begin, begin + frames)
        begin += frames
    (folder / "meta").mkdir(parents=True)
    if version == "v2.1":
        template = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
        video = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
        for number, columns in enumerate(data):
            write_table(folder / f"data/chunk-000/episode_{number:06d}.parquet", columns)
            place = folder / f"videos/chunk-000/observation.images.top/episode_{number:06d}.mp4"
            place.parent.mkdir(parents=True, exist_ok=True)
            write(place, videos[number])
    else:
        template = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
        video = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
        files, key = [[0, 1], [2]], "videos/observation.images.top"
        rows = {k: [] for k in ("episode_index", f"{key}/chunk_index", f"{key}/file_index")}
        rows[f"{key}/from_timestamp"] = []
        for file, numbers in enumerate(files):
            joined = {k: np.concatenate([data[n][k] for n in numbers]) for k in data[0]}
            write_table(folder / f"data/chunk-000/file-{file:03d}.parquet", joined)
            place = folder / f"{key}/chunk-000/file-{file:03d}.mp4"
            place.parent.mkdir(parents=True, exist_ok=True)
            shown = [frame for n in numbers for frame in videos[n]]
            write(place, shown)
            for n in numbers:
                since = shown.index(videos[n][0]) / 30
                for name, value in zip(rows, (n, 0, file, since), strict=True):
                    rows[name].append(value)
        write_table(
            folder / "meta/episodes/chunk-000/file-000.parquet",
            {name: np.array(values) for name, values in rows.items()},
        )
    kinds = {
        "observation.images.top": ("video", [96, 128, 3]),
        "observation.state": ("float32", [3]),
        "action": ("float32", [2]),
        "next.reward": ("float64", [1]),
        "next.done": ("bool", [1]),
        "timestamp": ("float32", [1]),
        "frame_index": ("int64", [1]),
        "episode_index": ("int64", [1]),
        "index": ("int64", [1]),
        "task_index": ("int64", [1]),
        "observation.wrist": ("image", [4, 4, 3]),
        "observation.matrix": ("float32", [2, 2]),
    }
    info = {
        "codebase_version": version,
        "fps": 30,
        "chunks_size": 1000,
        "data_path": template,
        "video_path": video,
        "features": {k: {"dtype": d, "shape": s} for k, (d, s) in kinds.items()},
    }
    (folder / "meta/info.json").write_text(json.dumps(info))
    return videos


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_lerobot(tmp_path, write, shown, version):
    videos = write_lerobot(tmp_path, write, version)
    data = open_trajectories(f"lerobot:{tmp_path}")
    assert data.lengths.tolist() == list(LENGTHS)
    for number, wanted in enumerate(EPISODES):
        found = read_episode(data, number)
        for name in ("actions", "rewards", "terminations", "observations.state"):
            assert np.array_equal(found[name], wanted[name]), name
            assert found[name].dtype == wanted[name].dtype
        assert np.array_equal(found["observations.wrist"], wanted["observations.image"])
        assert np.allclose(found["infos.timestamp"], np.arange(LENGTHS[number] + 1) / 30)
        assert shown(found["observations.images.top"]) == list(videos[number])
    windows = Windows(data, length=2, skip=2, names=["observations.images.top"])
    batch = windows[[0, 2]]["observations.images.top"].numpy()
    assert shown(batch[0]) == [0, 2, 4]
    assert shown(batch[1]) == [videos[1][1 + 2 * step] for step in range(3)]


def test_lerobot_as_lerobot_writes_it(tmp_path, shown):
    """Three episodes of 5, 8 and 3 frames, recorded with LeRobotDataset of lerobot 0.4.4 (AV1)."""
    with tarfile.open(FIXTURES / "lerobot_0.4.4.tar.xz") as packed:
        packed.extractall(tmp_path, filter="data")
    data = open_trajectories(f"lerobot:{tmp_path}")
    assert data.lengths.tolist() == [4, 7, 2]
    for number, begin in enumerate((0, 5, 13)):
        found, t = read_episode(data, number), np.arange(data.lengths[number] + 1)
        frames = begin + t
        assert shown(found["observations.images.top"]) == frames.tolist()
        wanted = np.stack([np.full(len(t), number), t, frames], axis=1)
        assert np.array_equal(found["observations.state"], wanted)
        assert np.array_equal(found["actions"], np.stack([frames, -t], axis=1)[:-1])
        assert np.array_equal(found["rewards"], t[:-1] / 2)


def write_folder(folder, write, extra):
    for number, episode in enumerate(EPISODES):
        frames = range(40 * number, 40 * number + LENGTHS[number] + extra)
        write(folder / f"take_{number}.mp4", frames)
        fields = {n: a for n, a in episode.items() if n != "observations.image"}
        if not extra:
            fields["observations.state"] = fields["observations.state"][:-1]
        np.savez(folder / f"take_{number}.npz", **fields)


@pytest.mark.parametrize("extra", [1, 0])
def test_a_folder_of_videos(tmp_path, write, shown, extra):
    write_folder(tmp_path, write, extra)
    data = open_trajectories(f"videos:{tmp_path}")
    for number, steps in enumerate(LENGTHS):
        known = steps + extra - 1
        wanted = cut(EPISODES[number], known, known + 1)
        found = read_episode(data, number)
        frames = found.pop("observations.pixels")
        assert shown(frames) == list(range(40 * number, 40 * number + known + 1))
        assert found.keys() == wanted.keys() - {"observations.image"}
        assert all(np.array_equal(found[name], wanted[name]) for name in found)


def test_broken_hdf5_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no data/main_data.hdf5 in .*data_format"):
        open_trajectories(f"minari:{tmp_path}")
    path = write_minari(tmp_path)
    whole = path.read_bytes()
    with h5py.File(path, "a") as file:
        del file["episode_1/rewards"]
    with pytest.raises(ValueError, match="lacks episode_1/rewards"):
        open_trajectories(f"minari:{tmp_path}")
    with h5py.File(path, "a") as file:
        file["episode_1/rewards"] = np.zeros(3)
    with pytest.raises(
        ValueError, match="episode_1 has 7 actions; `rewards` should have 7 rows, has 3"
    ):
        open_trajectories(f"minari:{tmp_path}")
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged, or no HDF5 file"):
        open_trajectories(f"minari:{tmp_path}")
    demos = write_robomimic(tmp_path / "demos.hdf5", after=False)
    with h5py.File(demos, "a") as file:
        del file["data/demo_0/actions"]
    with pytest.raises(ValueError, match=r"demo_0 needs `actions` and `obs/...`; has \['dones'"):
        open_trajectories(f"robomimic:{demos}")
    for short in (1, 0):
        write_robomimic(demos, after=False)
        with h5py.File(demos, "a") as file:
            group = file["data/demo_1"]
            for name in ("actions", "rewards", "dones", "obs/image", "obs/state"):
                rows = group[name][:short]
                del group[name]
                group[name] = rows
        with pytest.raises(ValueError, match=f"demos.hdf5: data/demo_1 has {short} actions, none"):
            open_trajectories(f"robomimic:{demos}")
    with pytest.raises(FileNotFoundError, match="no file"):
        open_trajectories("robomimic:nowhere.hdf5")


def test_broken_videos_are_named(tmp_path, write):
    with pytest.raises(FileNotFoundError, match=r"NAME.npz for every NAME.mp4; it has 0"):
        open_trajectories(f"videos:{tmp_path}")
    write_folder(tmp_path, write, 1)
    write(tmp_path / "take_1.mp4", range(5))
    with pytest.raises(
        ValueError, match=r"take_1.mp4 has 5 frames for episode 1; its 7 actions need 8"
    ):
        open_trajectories(f"videos:{tmp_path}")
    (tmp_path / "take_1.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"take_1.mp4 cannot be read as a video"):
        open_trajectories(f"videos:{tmp_path}")
    (tmp_path / "take_0.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(ValueError, match=r"take_0.npz is damaged"):
        open_trajectories(f"videos:{tmp_path}")
    (tmp_path / "take_2.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"none for take_2.mp4"):
        open_trajectories(f"videos:{tmp_path}")


def test_broken_lerobot_sets_are_named(tmp_path, write):
    with pytest.raises(FileNotFoundError, match=r"no meta/info.json"):
        open_trajectories(f"lerobot:{tmp_path}")
    write_lerobot(tmp_path, write, "v3.0")
    table = tmp_path / "meta/episodes/chunk-000/file-000.parquet"
    whole = parquet.read_table(table)
    parquet.write_table(whole.slice(0, 2), table)
    with pytest.raises(ValueError, match=r"does not tell of episodes \[2\]"):
        open_trajectories(f"lerobot:{tmp_path}")
    table.write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"file-000.parquet is damaged"):
        open_trajectories(f"lerobot:{tmp_path}")
    info = tmp_path / "meta/info.json"
    info.write_text(info.read_text().replace("v3.0", "v1.6"))
    with pytest.raises(ValueError, match=r"expected version v2.x or v3.x .* got v1.6"):
        open_trajectories(f"lerobot:{tmp_path}")


def test_unknown_forms_and_missing_packages_say_what_to_type(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"unknown form 'minary': expected .* minari:"):
        open_trajectories("minary:somewhere")

    def missing(name):
        raise ModuleNotFoundError(name)

    path = write_robomimic(tmp_path / "demos.hdf5", after=False)
    monkeypatch.setattr(optional_module.importlib, "import_module", missing)
    with pytest.raises(ModuleNotFoundError, match=r"needs h5py: .*'jepa-toolkit\[hdf5\]'"):
        open_trajectories(f"robomimic:{path}")
