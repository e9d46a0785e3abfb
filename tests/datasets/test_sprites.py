"""Sprites move as their labels say, and no single frame tells where to."""

import math

import pytest
import torch
from sklearn.linear_model import RidgeClassifier

from jepa.datasets import sprites as module
from jepa.datasets.clips import open_clips
from jepa.seeds import generator

SIZE, FRAMES = 32, 16


@pytest.fixture(scope="module")
def clips():
    return {split: open_clips("sprites", split) for split in ("train", "test")}


def drawn(n=240):
    """Motions over backgrounds that differ."""
    motion = module.draw_motion(n, SIZE, torch.Generator().manual_seed(1))
    noise = torch.rand(n, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    return motion, 128 + 20 * noise


def test_the_sprite_moves_as_labelled():
    motion, _ = drawn(480)
    flat = torch.full((480, SIZE, SIZE), 128.0)
    clips = module.render(motion, flat, FRAMES)[:, 0].double() - 128
    wave = torch.exp(2j * math.pi * torch.arange(SIZE, dtype=torch.float64) / SIZE)
    weights = clips.abs().to(torch.complex128)
    down = torch.einsum("ntyx,y->nt", weights, wave)
    right = torch.einsum("ntyx,x->nt", weights, wave)
    for axis, harmonic in enumerate((down, right)):
        step = (harmonic[:, 1:] / harmonic[:, :-1]).angle() * SIZE / (2 * math.pi)
        angle = motion.direction * math.pi / 4
        expected = motion.speed * (angle.sin() if axis == 0 else angle.cos())
        assert (step.mean(1) - expected).abs().max() < 0.01
        assert (step - expected[:, None]).abs().max() < 0.2  # antialiasing: no whole-pixel jumps


def test_names_of_directions():
    motion, _ = drawn(8)
    for name, (down, right) in zip(module.DIRECTIONS, motion.velocity().tolist(), strict=True):
        assert ("down" in name) == (down > 1e-6)
        assert ("up" in name) == (down < -1e-6)
        assert ("right" in name) == (right > 1e-6)
        assert ("left" in name) == (right < -1e-6)


def test_the_opposite_direction_played_backwards_has_the_same_frames():
    motion, background = drawn()
    opposite = motion._replace(
        start=motion.path(FRAMES)[:, -1], direction=(motion.direction + 4) % 8
    )
    forward = module.render(motion, background, FRAMES).int()
    backward = module.render(opposite, background, FRAMES).flip(2).int()
    assert (forward - backward).abs().max() <= 1  # rounding


@pytest.mark.parametrize("time", [0, 5, 15])
def test_every_frame_belongs_to_every_direction_and_speed(time):
    """For each clip and time there is an equally likely clip of any other direction with that frame
    at that time: the start, uniform on the torus, moves by a fixed shift."""
    motion, background = drawn()
    other = motion._replace(
        direction=(motion.direction + 3) % 8, speed=motion.speed.flip(0).contiguous()
    )
    shift = motion.path(FRAMES)[:, time] - other.path(FRAMES)[:, time]
    other = other._replace(start=(other.start + shift) % SIZE)
    frame = module.render(motion, background, FRAMES)[:, 0, time].int()
    same = module.render(other, background, FRAMES)[:, 0, time].int()
    assert (frame - same).abs().max() <= 1


def test_shapes_have_the_area_that_their_outline_encloses():
    radius = 5.0
    area = {
        "disc": math.pi * radius**2,
        "ring": math.pi * radius**2 * (1 - 0.4**2),
        "square": (1.7 * radius) ** 2,
        "diamond": 2 * (0.85 * math.sqrt(2) * radius) ** 2,
        "cross": (4 / 3 + 8 / 9) * radius**2,
        "triangle": 3 * math.sqrt(3) / 4 * radius**2,
    }
    assert set(area) == set(module.SHAPES)
    n = len(module.SHAPES)
    motion, _ = drawn(n)
    motion = motion._replace(
        shape=torch.arange(n),
        radius=torch.full((n,), radius).double(),
        level=torch.full((n,), 200.0),
    )
    clips = module.render(motion, torch.zeros(n, SIZE, SIZE), FRAMES).double() / 200
    for name, covered in zip(module.SHAPES, clips.sum((1, 2, 3, 4)) / FRAMES, strict=True):
        assert covered == pytest.approx(area[name], rel=0.03)


def accuracy(train, test, train_labels, test_labels):
    return RidgeClassifier(alpha=100.0).fit(train, train_labels).score(test, test_labels)


def test_a_frame_is_at_chance_on_direction_and_a_bag_of_frames_on_its_sign(clips):
    labels = [clips[split].labels.numpy() for split in ("train", "test")]
    for time in (0, 15):
        frames = [clips[s].images[:, 0, time].float().flatten(1) / 255 for s in clips]
        assert abs(accuracy(*frames, *labels) - 1 / 8) < 0.025  # 3.4 standard errors
    streaks = [mean_spectrum(clips[s]) for s in clips]
    assert accuracy(*streaks, *(y % 4 for y in labels)) > 0.6  # the axis can be seen
    axis = [y % 4 == 0 for y in labels]
    streaks = [part[torch.from_numpy(rows)] for part, rows in zip(streaks, axis, strict=True)]
    sense = [y[rows] for y, rows in zip(labels, axis, strict=True)]
    assert abs(accuracy(*streaks, *sense) - 1 / 2) < 0.075  # 3.4 standard errors of 500


def mean_spectrum(clips):
    """Amplitudes of the mean frame's contrast to the background: no place, only form."""
    moving = clips.images[:, 0].float()
    mean = (moving - moving.median(1, keepdim=True).values).abs().mean(1)
    return torch.fft.rfft2(mean).abs().flatten(1).log1p()


def test_labels_targets_and_backgrounds(clips):
    for split, made in clips.items():
        n = module.CLIPS[split]
        assert tuple(made.images.shape) == (n, 1, FRAMES, SIZE, SIZE)
        assert made.labels.bincount().tolist() == [n // 8] * 8
        speed, shape = made.targets["speed"], made.targets["shape"]
        assert 0.5 <= speed.min() < 0.51
        assert 2.49 < speed.max() <= 2.5
        assert set(shape.tolist()) == set(range(len(module.SHAPES)))
        for target in (speed, shape):
            by_class = torch.stack([target[made.labels == k].mean() for k in range(8)])
            assert by_class.std() < 3 * target.std() / math.sqrt(n / 8)
    assert not set(clips["train"].groups.tolist()) & set(clips["test"].groups.tolist())


def test_the_background_stands_still_and_is_a_photograph():
    made = module.sprites("test", clutter=20.0)
    motion = module.draw_motion(len(made), SIZE, generator(0, "sprites", "test"))
    background = made.images[:, 0].median(1).values.float()
    assert background.std((1, 2)).mean() == pytest.approx(20, abs=4)
    covered = (made.images[:, 0].float() - background[:, None]).abs() > 30
    assert covered.float().mean() < 0.1
    assert torch.equal(motion.direction, made.labels)


def test_the_same_seed_gives_the_same_clips(clips):
    again = module.sprites.__wrapped__("test")
    assert again.fingerprint == clips["test"].fingerprint
    assert module.sprites("test", seed=1).fingerprint != again.fingerprint
    assert not torch.equal(clips["train"].images[:2000], clips["test"].images)


def test_length_and_size_are_as_asked():
    made = module.sprites("test", frames=1, image_size=24)
    assert tuple(made.images.shape[1:]) == (1, 1, 24, 24)
    assert (made.frames, made.size) == (1, (24, 24))
