"""Photographs move as their labels say; only the order of frames tells which of a pair it is."""

import math

import numpy as np
import pytest
import torch

from jepa.datasets import motions as module
from jepa.datasets import views as views_module
from jepa.datasets.clips import open_clips
from jepa.datasets.photographs import PHOTOGRAPHS, load_photograph, places_of

SIZE, FRAMES = 32, 16
N = len(module.CLASSES)
PHOTOGRAPHS_BY_NUMBER = list(PHOTOGRAPHS)
TIME = torch.linspace(-0.5, 0.5, FRAMES, dtype=torch.float64)


@pytest.fixture(scope="module")
def clips():
    return open_clips("motions", "test")


def drawn(n=4 * N, seed=1):
    moves = module.draw_moves(n, torch.Generator().manual_seed(seed))
    views = views_module.draw_views(
        "test", n, sides=module.VIEW, reach=module.REACH, seed=seed, purpose="test"
    )
    return moves, views


def filmed(moves, views, time=TIME):
    return views_module.film(views, *moves.at(time), SIZE)


def test_the_other_of_a_pair_is_the_same_clip_backwards():
    moves, views = drawn()
    paired = moves.kind < 10
    other = moves._replace(kind=torch.where(paired, moves.kind ^ 1, moves.kind))
    forward, backward = filmed(moves, views), filmed(other, views).flip(1)
    difference = (forward.int() - backward.int()).abs()
    assert difference[paired].max() <= 1  # rounding
    assert difference[~paired].max() > 50  # a bounce of another phase: the same class


def test_a_bounce_backwards_is_a_bounce():
    moves, views = drawn()
    mirrored = moves._replace(phase=1 - moves.phase)
    bounces = moves.kind >= 10
    forward, backward = filmed(moves, views), filmed(mirrored, views).flip(1)
    assert (forward.int() - backward.int())[bounces].abs().max() <= 1


def test_the_middle_is_the_same_for_all_classes():
    moves, views = drawn()
    middle = torch.zeros(1, dtype=torch.float64)
    still = filmed(moves, views, middle)
    for kind in range(N):
        other = moves._replace(kind=torch.full_like(moves.kind, kind))
        assert torch.equal(filmed(other, views, middle), still)


def flow(moves, step=1e-6):
    """Velocity [n, 25, 2] at mid-clip of a grid of points of the view, in sides per clip, by
    finite differences of the inverse: where does a point of the picture go on the screen?"""
    shift, zoom, angle = moves.at(torch.tensor([0.0, step], dtype=torch.float64))
    grid = torch.linspace(-0.5, 0.5, 81, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), -1).flatten(0, 1)
    sine, cosine = (angle[:, 1].sin() * zoom[:, 1].exp(), angle[:, 1].cos() * zoom[:, 1].exp())
    x, y = points.unbind(-1)
    moved = torch.stack(
        [
            cosine[:, None] * x - sine[:, None] * y + shift[:, 1, None, 0],
            sine[:, None] * x + cosine[:, None] * y + shift[:, 1, None, 1],
        ],
        -1,
    )
    return points, (moved - points) / step


def test_speed_and_sense():
    moves, _ = drawn(50 * N)
    points, velocity = flow(moves)
    assert velocity.norm(dim=-1).mean(1).numpy() == pytest.approx(moves.travel.numpy(), rel=0.02)
    outward = (velocity * points).sum(-1).mean(1)
    clockwise = (points[:, 0] * velocity[..., 1] - points[:, 1] * velocity[..., 0]).mean(1)
    mean = velocity.mean(1)
    for kind, name in enumerate(module.CLASSES):
        rows = moves.kind == kind
        assert (outward[rows] > 1e-3).all() == (name == "zoom in")
        assert (outward[rows] < -1e-3).all() == (name == "zoom out")
        assert (clockwise[rows] > 1e-3).all() == (name == "rotate clockwise")
        assert (clockwise[rows] < -1e-3).all() == (name == "rotate counterclockwise")
        assert (mean[rows, 0] > 0.2).all() == (name == "pan right")
        assert (mean[rows, 1] < -0.2).all() == (name == "pan up")


def test_circles_turn_as_labelled_and_bounces_keep_to_their_axis():
    moves, _ = drawn(20 * N)
    shift = moves.at(torch.linspace(-0.5, 0.5, 400, dtype=torch.float64))[0]
    step = shift.diff(dim=1)
    turning = step[:, :-1, 0] * step[:, 1:, 1] - step[:, :-1, 1] * step[:, 1:, 0]
    way = step.norm(dim=-1).sum(1)
    for kind, sign in ((8, 1), (9, -1)):
        assert (sign * turning[moves.kind == kind] > 0).all()
    for kind, axis in ((10, 0), (11, 1)):
        assert step[moves.kind == kind][..., 1 - axis].abs().max() == 0
        back_and_forth = step[moves.kind == kind][..., axis].sign()
        assert ((back_and_forth > 0).any(1) & (back_and_forth < 0).any(1)).all()
    along = moves.kind >= 8
    assert way[along].numpy() == pytest.approx(moves.travel[along].numpy(), rel=0.02)


def test_pans_by_phase_correlation(clips):
    """Measured on the rendered pixels, with nothing from the code under test."""
    window = torch.hann_window(SIZE, periodic=False)
    window = window[:, None] * window
    errors = []
    for kind, (x, y) in enumerate(((1, 0), (-1, 0), (0, 1), (0, -1))):
        rows = (clips.labels == kind).nonzero()[:60, 0]
        moving = clips.images[rows, 0].double()
        speed = clips.targets["speed"][rows]
        gap = 3
        spectra = torch.fft.rfft2((moving - moving.mean((2, 3), keepdim=True)) * window)
        cross = spectra[:, gap:] * spectra[:, :-gap].conj()
        peak = torch.fft.irfft2((cross / cross.abs().clamp_min(1e-9).sqrt()).sum(1))
        place = peak.flatten(1).argmax(1)
        down, right = place // SIZE, place % SIZE
        down, right = (down + 16) % SIZE - 16, (right + 16) % SIZE - 16
        errors.append(torch.stack([right - gap * speed * x, down - gap * speed * y], 1))
    assert torch.cat(errors).abs().amax(1).median() < 1  # to the pixel, over three frames


def test_clips_never_leave_their_tile():
    moves, views = drawn(40 * N)
    slope, offset = views_module.to_photograph(views, *moves.at(TIME))
    corners = torch.tensor([[-0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [0.5, 0.5]])
    place = slope[:, :, None] @ corners[:, :, None]
    place = (place[..., 0] + offset[:, :, None]).flatten(1, 2)  # n 4T 2, from -1 to 1
    for row, number in enumerate(views.photograph.tolist()):
        name = PHOTOGRAPHS_BY_NUMBER[number]
        height, width = load_photograph(name).shape
        seen = (place[row].double() + 1) / 2 * torch.tensor([width, height])
        low, high = seen.min(0).values - 0.5, seen.max(0).values + 0.5  # bilinear neighbours
        tiles = torch.from_numpy(places_of(name, "test", 1))
        inside = (
            (tiles[:, 1] <= low[0])
            & (tiles[:, 0] <= low[1])
            & (tiles[:, 1] + tiles[:, 3] >= high[0])
            & (tiles[:, 0] + tiles[:, 2] >= high[1])
        )
        assert inside.any(), name


def test_film_samples_bilinearly():
    """One frame against a loop in float64."""
    moves, views = drawn(N)
    clip = filmed(moves, views)
    row, frame = 5, 11
    shift, zoom, angle = (part[row, frame] for part in moves.at(TIME))
    pixels = load_photograph(PHOTOGRAPHS_BY_NUMBER[views.photograph[row]]).astype(np.float64)
    top, left, side, _ = views.boxes[row].tolist()
    view = pixels[top : top + side, left : left + side]
    turn = -float(angle + views.tilt[row])
    for i, j in ((0, 0), (7, 30), (16, 15), (31, 31)):
        x, y = (j + 0.5) / SIZE - 0.5 - float(shift[0]), (i + 0.5) / SIZE - 0.5 - float(shift[1])
        back_x = (math.cos(turn) * x - math.sin(turn) * y) / math.exp(zoom)
        back_y = (math.sin(turn) * x + math.cos(turn) * y) / math.exp(zoom)
        px, py = left + side * (0.5 + back_x) - 0.5, top + side * (0.5 + back_y) - 0.5
        x0, y0 = math.floor(px), math.floor(py)
        level = sum(
            (1 - abs(px - x)) * (1 - abs(py - y)) * pixels[y, x]
            for y in (y0, y0 + 1)
            for x in (x0, x0 + 1)
        )
        expected = (level - view.mean()) / view.std() * 40 + 128
        assert int(clip[row, frame, i, j]) == pytest.approx(min(max(expected, 0), 255), abs=1)


def test_the_set(clips):
    assert tuple(clips.images.shape) == (200 * N, 1, FRAMES, SIZE, SIZE)
    assert clips.labels.bincount().tolist() == [200] * N
    assert clips.classes == list(module.CLASSES)
    speed = clips.targets["speed"]
    fast = speed[(clips.labels < 4) | (clips.labels > 5)]
    assert fast.max() <= 0.9 * SIZE / (FRAMES - 1)
    assert fast.min() >= 0.25 * SIZE / (FRAMES - 1)
    again = module.motions.__wrapped__("test")
    assert again.fingerprint == clips.fingerprint
    train_tiles = {
        1000 * number + tile
        for number, name in enumerate(PHOTOGRAPHS)
        for tile in views_module.tile_numbers(load_photograph(name), places_of(name, "train"))
    }
    assert not set(clips.groups.tolist()) & train_tiles
