"""Batches of clips are functions of (seed, step, rank); a clip's frames share crop and flip."""

import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from jepa.datasets.batch_loaders import EvaluationLoader, TrainLoader
from jepa.datasets.clip_datamodule import ClipDataModule
from jepa.datasets.clip_loaders import EvaluationClipBatches, TrainClipBatches, motion
from jepa.datasets.clips import ClipSet, InMemoryClips, UnreadableVideoError, open_clips
from jepa.datasets.crops import draw_crops, draws
from jepa.datasets.images import InMemoryImages
from jepa.datasets.loaders import TrainBatches
from jepa.datasets.reading import TooManyUnreadableError, scan
from jepa.datasets.stills import MixedBatches, Stills
from jepa.seeds import derive

N, T = 13, 4


def in_memory(n=N, channels=1, height=12, width=12):
    pixels = torch.randint(
        0, 256, (n, channels, T, height, width), generator=torch.Generator().manual_seed(0)
    )
    return InMemoryClips(
        pixels.to(torch.uint8),
        torch.arange(n),
        classes=[str(i) for i in range(n)],
        title="made",
        targets={},
    )


class Videos(ClipSet):
    """Videos of 50 frames of one grey each: its number; `bad` ones cannot be read."""

    channels, frames, size, targets, fingerprint = 3, T, None, {}, "0" * 16

    def __init__(self, n=N, bad=(), height=12, width=20):
        self.labels, self.classes = torch.arange(n), [str(i) for i in range(n)]
        self.bad, self.shape = bad, (height, width)

    def clip(self, index, position):
        if index in self.bad:
            raise UnreadableVideoError(self.name(index), "made so")
        start = round(position * (50 - T))
        grey = torch.arange(start, start + T, dtype=torch.uint8)[:, None, None]
        column = torch.arange(self.shape[1], dtype=torch.uint8) * 10
        clip = (grey if self.shape[0] == self.shape[1] else column).expand(T, *self.shape)
        return clip.expand(3, -1, -1, -1).contiguous()

    def name(self, index):
        return f"video {index}"


class Moving(Videos):
    """Noise that changes from frame to frame by at most its video's number, and a cut."""

    def clip(self, index, position):
        source = torch.Generator().manual_seed(1000 * index + round(1000 * position))
        steps = torch.randint(0, index + 1, (T, *self.shape), generator=source)
        clip = steps.cumsum(0)
        clip[T // 2 :] += 100
        return clip.to(torch.uint8).expand(3, -1, -1, -1)


def train(clips, **options):
    settings = {"batch_size": 5, "image_size": 12, "channels": clips.channels, "seed": 3}
    return TrainClipBatches(clips, **(settings | options))


def first(loader, count):
    return list(itertools.islice(iter(loader), count))


def same(left, right):
    return all(
        torch.equal(a.images, b.images)
        and torch.equal(a.rows, b.rows)
        and torch.equal(a.labels, b.labels)
        and a.unreadable == b.unreadable
        for a, b in zip(left, right, strict=True)
    )


AUGMENTED = {"crop_scale": (0.3, 1.0), "flip": True}


@pytest.mark.parametrize(
    ("clips", "candidates"),
    [(in_memory(), 1), (Videos(bad=(4,)), 1), (Moving(bad=(4,)), 3)],
    ids=["memory", "read", "chosen"],
)
def test_a_start_at_any_step_in_any_process_gives_the_tail(clips, candidates):
    made = train(clips, candidates=candidates, **AUGMENTED)
    whole = first(TrainLoader(made), 8)
    for start in (1, 7):
        tail = first(TrainLoader(made, start=lambda start=start: start), 8 - start)
        assert same(tail, whole[start:])
    assert same(first(TrainLoader(made, workers=2), 8), whole)
    assert same([pickle.loads(pickle.dumps(made))[3]], [whole[3]])


@pytest.mark.parametrize("crop_scale", [None, (0.3, 1.0)])
def test_of_the_candidates_the_one_that_moves_most_is_taken(crop_scale):
    """Against float64, on the crops as they are before they are resized."""
    clips = Moving()
    all_of_them = train(clips, batch_size=15, crop_scale=crop_scale)
    made = train(clips, batch_size=5, crop_scale=crop_scale, candidates=3)
    rows = []
    for step in range(4):
        shown, batch = all_of_them[step], made[step]
        seeds = all_of_them.samples.at(step)[1]
        places = draws([derive(seed, "position") for seed in seeds], 1)[:, 0].tolist()
        boxes = draw_crops(seeds, clips.shape, crop_scale or (1.0, 1.0)).tolist()
        moves = []
        for row, place, (top, left, h, w) in zip(shown.rows.tolist(), places, boxes, strict=True):
            pixels = clips.clip(row, place)[0].double().numpy()
            if crop_scale:
                pixels = pixels[:, top : top + h, left : left + w]
            differences = np.abs(np.diff(pixels[:, ::2, ::2], axis=0)).mean((1, 2))
            moves.append(np.sort(differences)[1])  # the middle one of three
        best = np.arange(0, 15, 3) + np.reshape(moves, (5, 3)).argmax(1)
        assert torch.equal(batch.images, shown.images[best])
        assert torch.equal(batch.rows, shown.rows[best])
        rows += batch.rows.tolist()
    assert np.mean(rows) > 1.3 * np.mean(range(N))


def test_motion_is_that_of_most_frames():
    still = torch.full((1, 9, 4, 4), 7, dtype=torch.uint8)
    cut = still.clone()
    cut[:, 5:] = 200
    sliding = still + 3 * torch.arange(9, dtype=torch.uint8)[:, None, None]
    assert [motion(clip) for clip in (still, cut, sliding)] == [0.0, 0.0, 3.0]


@pytest.mark.parametrize(("clips", "candidates"), [(in_memory(), 2), (Videos(), 0)])
def test_candidates_are_of_files_and_one_at_least(clips, candidates):
    with pytest.raises(ValueError, match=f"got {candidates}: leave it out"):
        train(clips, candidates=candidates)


@pytest.mark.parametrize("clips", [in_memory(), Videos()], ids=["memory", "read"])
def test_ranks_share_out_the_global_batch(clips):
    alone = train(clips, batch_size=15, **AUGMENTED)
    ranks = [train(clips, rank=r, world_size=3, **AUGMENTED) for r in range(3)]
    for step in range(4):
        parts = [rank[step] for rank in ranks]
        assert torch.equal(torch.cat([p.images for p in parts]), alone[step].images)
        assert torch.equal(torch.cat([p.rows for p in parts]), alone[step].rows)


def test_each_pass_shows_each_video_once():
    made = train(in_memory(), batch_size=N)
    for step in range(3):
        assert sorted(made[step].rows.tolist()) == list(range(N))
    assert not torch.equal(made[0].rows, made[1].rows)


def test_all_frames_of_a_clip_share_their_crop():
    """Against torchvision's crop of each frame, at the box drawn for the clip."""
    clips = in_memory(channels=3)
    made = train(clips, batch_size=N, image_size=10, crop_scale=(0.3, 1.0))
    batch = made[0]
    boxes = draw_crops(made.samples.at(0)[1], (12, 12), (0.3, 1.0))
    for clip, row, box in zip(batch.images, batch.rows, boxes, strict=True):
        for time in range(T):
            frame = clips.images[row, :, time].float()
            expected = F.resized_crop(frame, *box.tolist(), [10, 10], antialias=True)
            assert (clip[:, time] - expected).abs().max() <= 0.501
    read = train(Videos(height=14), batch_size=N, image_size=10, crop_scale=(0.3, 1.0))
    boxes = draw_crops(read.samples.at(0)[1], (14, 20), (0.3, 1.0)).tolist()
    for clip, row, box in zip(read[0].images, read[0].rows.tolist(), boxes, strict=True):
        whole = Videos(height=14).clip(row, 0.0)  # the same at all times
        expected = F.resized_crop(whole.transpose(0, 1), *box, [10, 10], antialias=True)
        assert torch.equal(clip.transpose(0, 1), expected)


@pytest.mark.parametrize("clips", [in_memory(), Videos(height=12, width=12)])
def test_a_still_video_stays_still_under_augmentation(clips):
    still = InMemoryClips(
        clips.clip(0, 0.0)[None, :, :1].expand(N, -1, T, -1, -1).contiguous(),
        torch.arange(N),
        classes=clips.classes,
        title="still",
        targets={},
    )
    images = train(still, batch_size=N, **AUGMENTED)[0].images
    assert torch.equal(images, images[:, :, :1].expand_as(images))


def test_flips_mirror_whole_clips():
    clips = in_memory()
    batch = train(clips, batch_size=N, flip=True)[0]
    original = clips.images[batch.rows]
    mirrored = (batch.images == original.flip(-1)).flatten(1).all(1)
    kept = (batch.images == original).flatten(1).all(1)
    assert (mirrored ^ kept).all()
    assert mirrored.any()
    assert kept.any()


def test_places_in_time_are_uniform_and_differ_between_passes():
    made = train(Videos(n=40, height=12, width=12), batch_size=40)
    starts = torch.stack([made[step].images[:, 0, 0, 0, 0].long() for step in range(25)])
    assert starts.min() == 0
    assert starts.max() == 46
    assert abs(starts.double().mean() - 23) < 4 * 13.3 / math.sqrt(1000)
    times = made[0].images[:, 0, :, 0, 0].long()
    assert torch.equal(times - times[:, :1], torch.arange(T).expand(40, -1))


def test_colours_change_frame_by_frame():
    grey = train(in_memory(), channels=3)[0].images
    assert tuple(grey.shape) == (5, 3, T, 12, 12)
    assert torch.equal(grey, grey[:, :1].expand_as(grey))
    coloured, batch = in_memory(channels=3), train(in_memory(channels=3), channels=1)[0]
    for clip, row in zip(batch.images, batch.rows, strict=True):
        for time in range(T):
            assert torch.equal(clip[:, time], F.rgb_to_grayscale(coloured.images[row, :, time]))


def test_unreadable_videos_are_replaced_counted_and_named():
    clips = Videos(bad=(3, 4))
    loader = TrainLoader(train(clips, batch_size=N), max_unreadable=0.2)
    batch = first(loader, 1)[0]
    expected = [5 if i in (3, 4) else i for i in train(in_memory(), batch_size=N)[0].rows.tolist()]
    assert batch.rows.tolist() == batch.labels.tolist() == expected
    assert set(loader.unreadable.found) == {"video 3: made so", "video 4: made so"}
    with pytest.raises(TooManyUnreadableError, match=r"2 of 13 videos.*accepted 10%"):
        first(TrainLoader(train(clips, batch_size=N)), 1)
    with pytest.raises(TooManyUnreadableError, match="2 of 13 videos"):
        scan(clips, 0.1)
    assert len(scan(clips, 0.2)) == 2


def test_evaluation_takes_clips_uniformly_in_time():
    made = EvaluationClipBatches(
        Videos(bad=(1,), height=12, width=12), batch_size=8, image_size=12, channels=3, times=3
    )
    loader = EvaluationLoader(made, max_unreadable=0.2)
    batches = list(loader)
    assert len(batches) == len(loader) == 7
    rows = torch.cat([batch.rows for batch in batches])
    assert rows.tolist() == [i for i in range(N) if i != 1 for _ in range(3)]
    starts = torch.cat([batch.images[:, 0, 0, 0, 0] for batch in batches])
    assert starts.tolist() == [0, 23, 46] * (N - 1)
    assert list(loader.unreadable.found) == ["video 1: made so"]
    single = EvaluationClipBatches(
        Videos(height=9, width=9), batch_size=2, image_size=9, channels=3
    )
    assert single[0].images[:, 0, 0, 0, 0].tolist() == [23, 23]


def test_evaluation_takes_squares_along_the_longer_side():
    clips = Videos(n=2)  # 12 x 20, grey ten times the column
    batch = EvaluationClipBatches(
        clips, batch_size=64, image_size=12, channels=3, times=2, squares=3
    )[0]
    assert batch.rows.tolist() == [0] * 6 + [1] * 6
    assert (batch.images[:, 0, 0, 0, 0] // 10).tolist() == [0, 4, 8] * 4
    middle = EvaluationClipBatches(clips, batch_size=1, image_size=12, channels=3)[0]
    assert torch.equal(middle.images[0, :, 0], F.center_crop(clips.clip(0, 0.5)[:, 0], [12, 12]))
    kept = in_memory()
    batch = EvaluationClipBatches(
        kept, batch_size=4, image_size=12, channels=1, rows=torch.tensor([7, 2]), times=2
    )[0]
    assert batch.rows.tolist() == [7, 7, 2, 2]
    assert torch.equal(batch.images, kept.images[batch.rows])


def test_a_batch_without_a_readable_video_is_empty():
    made = EvaluationClipBatches(Videos(bad=(0,)), batch_size=1, image_size=8, channels=3)
    assert tuple(made[0].images.shape) == (0, 3, T, 8, 8)


@pytest.mark.parametrize("weight", [0.5, 0.3, 0.125])
def test_images_are_mixed_in_by_weight(weight):
    pictures = InMemoryImages(
        torch.arange(7, dtype=torch.uint8)[:, None, None, None].expand(7, 1, 12, 12).contiguous(),
        torch.arange(7),
        classes=list("abcdefg"),
        title="pictures",
    )
    clips = train(in_memory())
    images = TrainBatches(pictures, batch_size=5, image_size=12, channels=1, seed=3)
    mixed = MixedBatches(clips, images, weight=weight, seed=3)
    batches = [mixed[step] for step in range(160)]
    kinds = [batch.images.shape[2] for batch in batches]
    assert set(kinds) == {1, T}
    for length in (40, 160):
        assert abs(kinds[:length].count(1) - weight * length) <= 1
    videos = [batch for batch, kind in zip(batches, kinds, strict=True) if kind == T]
    assert same(videos, [clips[k] for k in range(len(videos))])
    stills = torch.cat([b.labels for b, kind in zip(batches, kinds, strict=True) if kind == 1])
    for start in range(0, len(stills) - 6, 7):
        assert sorted(stills[start : start + 7].tolist()) == list(range(7))


def test_the_datamodule_mixes_images_of_another_source():
    data = ClipDataModule(
        source="sprites", batch_size=4, stills=Stills(source="photographs", weight=0.5)
    )
    data._sets["train"] = in_memory(height=32, width=32)
    shapes = {tuple(batch.images.shape) for batch in first(data.train_loader(), 4)}
    assert shapes == {(4, 1, 1, 32, 32), (4, 1, T, 32, 32)}
    with pytest.raises(ValueError, match="above 0 and below 1; got 1"):
        Stills(source="photographs", weight=1.0)


def test_files_through_the_datamodule(tmp_path, write, shown, monkeypatch):
    """Real files, two worker processes, one damaged file: the frames are those of the file."""
    monkeypatch.chdir(tmp_path)
    for name in ("train/walk/a.mp4", "train/run/b.mp4", "test/walk/c.mp4", "test/run/d.mp4"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / "set" / name, range(30))
    (tmp_path / "set/test/run/e.mp4").write_bytes(b"")
    data = ClipDataModule(
        source=f"videos:{tmp_path / 'set'}",
        frames=4,
        step=2,
        image_size=64,
        batch_size=3,
        clips_per_video=2,
        workers=2,
        max_unreadable=0.4,
    )
    loader = data.evaluation_loader("test", batch_size=2)
    batches = list(loader)
    assert torch.cat([batch.rows for batch in batches]).tolist() == [0, 0, 2, 2]
    assert [name for name in loader.unreadable.found if "e.mp4" in name]
    squares = torch.cat([batch.images for batch in batches])
    assert tuple(squares.shape) == (4, 3, 4, 64, 64)
    clip = data.images("test").clip(0, 1.0)
    assert shown(clip.permute(1, 2, 3, 0).numpy()) == [23, 25, 27, 29]
    once, again = (first(data.train_loader(), 2) for _ in range(2))
    assert same(once, again)
    assert tuple(once[0].images.shape) == (3, 3, 4, 64, 64)


def test_unknown_sources_name_the_nearest():
    with pytest.raises(ValueError, match=r"unknown clip source 'sprite'.*Did you mean sprites\?"):
        open_clips("sprite", "train")
    with pytest.raises(ValueError, match=r"unknown clip source 'video:x'.*Did you mean videos:DIR"):
        open_clips("video:x", "train")
    with pytest.raises(ValueError, match=r"unknown clip source 'videos'"):
        open_clips("videos", "train")
    with pytest.raises(ValueError, match="step and fps are for files; sprites"):
        open_clips("sprites", "train", fps=8.0)
    with pytest.raises(FileNotFoundError):
        open_clips("videos:nowhere", "train")


def test_bad_settings_say_what_was_given():
    with pytest.raises(ValueError, match="rank 2 of 2"):
        train(in_memory(), rank=2, world_size=2)
    with pytest.raises(ValueError, match="0 < low <= high <= 1; got"):
        train(in_memory(), crop_scale=(0.5, 0.3))
    with pytest.raises(ValueError, match="at least 1; got 4, 0, 1"):
        EvaluationClipBatches(in_memory(), batch_size=4, image_size=12, channels=1, times=0)
