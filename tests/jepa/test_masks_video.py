"""Masks of clips against plain loops: legal, unbiased, reproducible, on every grid."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from jepa import seeds
from jepa.masks_video import CausalMasks, MaskGroups, RandomTubeMasks, TubeBlockMasks, cut

GRIDS = [(t, h, w) for t, h, w in itertools.product((1, 2, 3, 8), (2, 4, 7, 14), (2, 4, 9, 14))]
SHORT, LONG = MaskGroups().groups


def rows(masks):
    return zip(masks.context.tolist(), masks.targets[:, 0].tolist(), strict=True)


@pytest.mark.parametrize(
    "sampler",
    [
        SHORT,
        LONG,
        replace(LONG, truncation="tubes"),
        RandomTubeMasks(),
        CausalMasks(seen=(0.2, 0.8)),
    ],
    ids=repr,
)
def test_every_grid_ends_and_gives_disjoint_sorted_tokens_inside_the_clip(sampler):
    for grid in GRIDS:
        if isinstance(sampler, CausalMasks) and grid[0] == 1:
            continue
        masks = sampler.sample(grid, 4, seeds.generator(0, *grid))
        for context, target in rows(masks):
            assert context
            assert target
            assert context == sorted(set(context))
            assert target == sorted(set(target))
            assert not set(context) & set(target)
            assert 0 <= min(context + target) <= max(context + target) < math.prod(grid)


def is_block(hidden):
    """Whether the True entries of [t, h, w] are one box."""
    box = np.ix_(*(np.flatnonzero(hidden.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))))
    return hidden[box].all()


def test_one_block_is_a_box_of_the_asked_size_that_lasts_the_whole_clip():
    sampler = TubeBlockMasks(blocks=1, scale=0.25, aspect=(1.0, 1.0))
    masks = sampler.sample((4, 8, 8), 16, seeds.generator(1))
    for context, target in rows(masks):
        hidden = np.zeros(256, dtype=bool)
        hidden[target] = True
        assert is_block(hidden.reshape(4, 8, 8))
        assert len(target) == 4 * 4 * 4
        assert sorted(context + target) == list(range(256))


def test_a_block_may_last_for_a_part_of_the_clip():
    sampler = TubeBlockMasks(blocks=1, scale=0.25, time=0.5)
    starts = set()
    for step in range(20):
        masks = sampler.sample((8, 8, 8), 8, seeds.generator(2, step))
        for _, target in rows(masks):
            times = sorted({token // 64 for token in target})
            assert times == list(range(times[0], times[0] + 4))
            starts.add(times[0])
    assert starts == set(range(5)), "every start, the last one included"


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "sampler",
    [SHORT, replace(LONG, time=(0.5, 1.0)), RandomTubeMasks(), CausalMasks(seen=(0.2, 0.8))],
    ids=repr,
)
def test_masks_of_clips_do_not_depend_on_torchs_default_type(sampler, default):
    expected = sampler.sample((8, 7, 7), 4, seeds.generator(6, "masks"))
    torch.set_default_dtype(default)
    try:
        masks = sampler.sample((8, 7, 7), 4, seeds.generator(6, "masks"))
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(masks.context, expected.context)
    assert torch.equal(masks.targets, expected.targets)


@pytest.mark.parametrize("sampler", [SHORT, MaskGroups(), RandomTubeMasks(), CausalMasks()])
def test_a_grid_of_images_is_refused_with_the_sampler_for_it(sampler):
    with pytest.raises(ValueError, match=r"masks clips.*\(6, 6\): use MultiBlockMasks"):
        sampler.sample((6, 6), 2, seeds.generator(0))


def test_the_border_is_covered():
    covered = np.zeros((14, 14), dtype=int)
    for step in range(40):
        masks = SHORT.sample((1, 14, 14), 24, seeds.generator(3, step))
        np.add.at(covered.reshape(-1), masks.targets.flatten().numpy(), 1)
    assert covered[[0, -1]].min() > 0
    assert covered[:, [0, -1]].min() > 0
    mirrored = np.abs(covered - covered[::-1, ::-1]).mean() / covered.mean()
    assert mirrored < 0.15, "no corner is preferred"


def times_of_context(sampler, batch=24):
    counts = np.zeros(8)
    for step in range(30):
        context = sampler.sample((8, 14, 14), batch, seeds.generator(4, step)).context
        counts += np.bincount(context.flatten().numpy() // 196, minlength=8)
    return counts / counts.sum()


def test_no_time_is_preferred_and_the_published_cut_prefers_the_first():
    """Reference, measured: at batch 24, 82 % of the long-range context in the first 3 of 8."""
    ours = times_of_context(LONG)
    np.testing.assert_allclose(ours, 1 / 8, atol=0.01)
    published = times_of_context(TubeBlockMasks(blocks=2, scale=0.7, truncation="first"))
    assert 0.75 < published[:3].sum() < 0.9


@pytest.mark.parametrize("sampler", [SHORT, LONG], ids=["short", "long"])
def test_what_is_seen_of_a_place_may_be_cut_for_all_times_alike(sampler):
    sampler = replace(sampler, truncation="tubes")
    masks = sampler.sample((8, 14, 14), 24, seeds.generator(10))
    for tokens in (masks.context, masks.targets[:, 0]):
        times = tokens.view(24, 8, -1) - 196 * torch.arange(8)[:, None]
        assert torch.equal(times, times[:, :1].expand_as(times))
    counts = masks.context.shape[1] + masks.targets.shape[2]
    assert counts < 1568, "something was cut"


def test_what_is_kept_of_a_clip_is_any_subset_alike():
    """Of 8 tokens 3 are seen by the second clip: of the first one's 5 each pair stays as often."""
    seen = np.array([[1, 1, 0, 1, 1, 0, 1, 0], [0, 0, 1, 0, 1, 0, 1, 0]], dtype=bool)
    generator, draws = seeds.generator(11), 8000
    kept = np.zeros((draws, 2, 8))
    for draw in kept:
        masks = cut(seen, generator, "random")
        assert masks.context[1].tolist() == [2, 4, 6]
        assert masks.targets[0, 0].tolist() == [2, 5, 7]
        draw[0, masks.context[0]] = 1
        draw[1, masks.targets[1, 0]] = 1
    for clip, tokens in ((kept[:, 0], seen[0]), (kept[:, 1], ~seen[1])):
        assert (clip.sum(axis=1) == 3).all()
        together = clip.T @ clip / draws
        wanted = np.outer(tokens, tokens) * (0.3 + 0.3 * np.eye(8))
        np.testing.assert_allclose(together, wanted, atol=0.03)


def test_min_keep_counts_tokens_of_the_whole_clip():
    sampler = TubeBlockMasks(blocks=2, scale=0.5, min_keep=30, attempts=50, truncation="tubes")
    sizes = [
        sampler.sample((8, 6, 6), 8, seeds.generator(12, step)).context.shape[1]
        for step in range(20)
    ]
    assert 32 <= min(sizes) < 48, "4 whole tubes of 8 tokens are the first that are 30"


def test_shares_hidden_are_the_published_ones():
    """Untruncated, one clip at a time: 37 / 63 % seen and hidden short, 20 / 80 % long."""
    for sampler, hidden in ((SHORT, 0.63), (LONG, 0.80)):
        shares = [
            sampler.sample((8, 14, 14), 1, seeds.generator(5, step)).targets.shape[2] / 1568
            for step in range(300)
        ]
        assert abs(np.mean(shares) - hidden) < 0.03


def test_tubes_hide_the_same_places_in_every_frame():
    masks = RandomTubeMasks(ratio=0.75).sample((4, 6, 6), 8, seeds.generator(6))
    for _, target in rows(masks):
        places = [{token % 36 for token in target if token // 36 == t} for t in range(4)]
        assert all(p == places[0] for p in places)
        assert len(places[0]) == 27


def test_causal_masks_hide_the_future_only():
    lengths = set()
    for step in range(40):
        masks = CausalMasks(seen=(0.25, 0.75)).sample((8, 3, 3), 2, seeds.generator(7, step))
        for context, target in rows(masks):
            assert context + target == list(range(72))
            assert len(context) % 9 == 0
            lengths.add(len(context) // 9)
    assert lengths == {2, 3, 4, 5, 6}


def test_groups_are_drawn_one_after_the_other_and_are_a_function_of_the_seed():
    groups = MaskGroups()
    first = groups.sample((4, 8, 8), 6, seeds.generator(8, "masks", 5))
    again = groups.sample((4, 8, 8), 6, seeds.generator(8, "masks", 5))
    other = groups.sample((4, 8, 8), 6, seeds.generator(8, "masks", 6))
    assert len(first) == 2
    for one, two in zip(first, again, strict=True):
        assert torch.equal(one.context, two.context)
        assert torch.equal(one.targets, two.targets)
    assert not all(
        a.targets.shape == b.targets.shape and torch.equal(a.targets, b.targets)
        for a, b in zip(first, other, strict=True)
    )
    nested = MaskGroups(groups=(*groups.groups, CausalMasks())).sample(
        (4, 8, 8), 2, seeds.generator(9)
    )
    assert len(nested) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TubeBlockMasks(scale=1.5), "share"),
        (lambda: TubeBlockMasks(scale=(0.5, 0.2)), "ascending"),
        (lambda: TubeBlockMasks(blocks=0), "at least 1"),
        (lambda: TubeBlockMasks(time=0.5, truncation="tubes"), "whole clip, time=1.0"),
        (lambda: RandomTubeMasks(ratio=1.0), "between 0 and 1"),
        (lambda: CausalMasks(seen=0.0), "between 0 and 1"),
        (lambda: TubeBlockMasks().sample((2, 1, 1), 1, seeds.generator(0)), "nothing to hide"),
        (lambda: CausalMasks().sample((1, 4, 4), 1, seeds.generator(0)), "2 tubelets"),
        (lambda: RandomTubeMasks().sample((4, 1, 1), 1, seeds.generator(0)), "2 patches"),
    ],
)
def test_nonsense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
