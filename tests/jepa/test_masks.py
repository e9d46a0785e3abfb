"""Multi-block masks against their definition, on every grid from 4x4 to 32x32."""

import numpy as np
import pytest
import torch

from jepa import seeds
from jepa.masks import MultiBlockMasks, block_size, random_subset, uniform
from jepa.masks_reference import ReferenceMultiBlockMasks

GRIDS = [(side, side) for side in range(4, 33)] + [(4, 32), (32, 4), (7, 12), (5, 16), (1, 16)]


def is_rectangle(tokens, grid):
    rows, columns = {t // grid[1] for t in tokens}, {t % grid[1] for t in tokens}
    full = {r * grid[1] + c for r in rows for c in columns}
    dense = max(rows) - min(rows) + 1 == len(rows) and max(columns) - min(columns) + 1 == len(
        columns
    )
    return full == set(tokens) and dense


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_every_grid_gives_rectangles_and_a_disjoint_context(grid):
    sampler, tokens = MultiBlockMasks(), grid[0] * grid[1]
    for step in range(20):
        masks = sampler.sample(grid, 8, seeds.generator(0, "masks", step))
        assert masks.context.shape[0] == 8
        assert masks.targets.shape[:2] == (8, 4)
        for context, targets in zip(masks.context.tolist(), masks.targets.tolist(), strict=True):
            hidden = {t for block in targets for t in block}
            assert len(set(context)) == len(context) > 0
            assert context == sorted(context)
            assert not hidden & set(context)
            assert set(context) | hidden <= set(range(tokens))
            assert all(is_rectangle(block, grid) for block in targets)


def test_min_keep_is_met_where_the_grid_allows():
    sampler = MultiBlockMasks(min_keep=10)
    for step in range(100):
        masks = sampler.sample((14, 14), 64, seeds.generator(1, "masks", step))
        assert masks.context.shape[1] >= 10


def test_border_and_corners_are_covered_like_the_exact_probability():
    """A block's first row is uniform over H - h + 1 places: the counts have a closed form."""
    grid, batch = (6, 9), 4000
    sampler = MultiBlockMasks(
        targets=1, target_scale=(0.2, 0.2), target_aspect=(1.0, 1.0), min_keep=1, attempts=1
    )
    h, w = block_size(grid, 0.2, 1.0)
    targets = sampler.sample(grid, batch, seeds.generator(2, "masks")).targets
    seen = torch.bincount(targets.flatten(), minlength=54).reshape(grid) / batch

    def share(size, block):
        places = size - block + 1
        return torch.tensor(
            [sum(s <= i < s + block for s in range(places)) / places for i in range(size)]
        )

    expected = share(6, h)[:, None] * share(9, w)
    assert (seen - expected).abs().max() < 4 * (0.25 / batch) ** 0.5


def test_scale_and_aspect_are_independent():
    sampler = MultiBlockMasks()
    draws = torch.tensor([sampler._sizes(seeds.generator(s, "sizes")) for s in range(4000)])
    correlation = torch.corrcoef(draws.T)
    assert (correlation - torch.eye(3)).abs().max() < 0.06


def test_truncation_is_unbiased_over_the_allowed_tokens():
    allowed = np.zeros((6000, 30), dtype=bool)
    allowed[:, 5:25] = True
    picked = random_subset(allowed, 8, uniform(seeds.generator(3, "subset"), 6000, 30))
    counts = torch.bincount(picked.flatten(), minlength=30) / 6000
    assert counts[:5].sum() == counts[25:].sum() == 0
    assert (counts[5:25] - 8 / 20).abs().max() < 4 * (0.24 / 6000) ** 0.5


def test_a_subset_has_its_size_also_where_numbers_are_equal():
    allowed = np.array([[False, True, True, False, True, True]])
    draw = np.full((1, 6), 0.5, dtype=np.float32)
    assert random_subset(allowed, 3, draw).tolist() == [[1, 2, 4]]


def test_rows_of_the_context_are_used_evenly_at_large_batches():
    """The published sampler keeps mostly top rows at this batch; ours stays symmetric."""
    top, bottom = 0, 0
    for step in range(30):
        context = MultiBlockMasks().sample((14, 14), 256, seeds.generator(4, step)).context
        top += (context < 98).sum().item()
        bottom += (context >= 98).sum().item()
    assert abs(top - bottom) / (top + bottom) < 0.03


def test_same_generator_same_masks_and_other_step_other_masks():
    first, again, other = (
        MultiBlockMasks().sample((7, 7), 16, seeds.generator(5, "masks", step))
        for step in (1, 1, 2)
    )
    assert torch.equal(first.context, again.context)
    assert torch.equal(first.targets, again.targets)
    assert not torch.equal(first.targets, other.targets)


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sampler", [MultiBlockMasks(), ReferenceMultiBlockMasks()])
def test_masks_do_not_depend_on_torchs_default_type(sampler, default):
    expected = sampler.sample((14, 14), 4, seeds.generator(6, "masks"))
    torch.set_default_dtype(default)
    try:
        masks = sampler.sample((14, 14), 4, seeds.generator(6, "masks"))
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(masks.context, expected.context)
    assert torch.equal(masks.targets, expected.targets)


@pytest.mark.parametrize(
    "bad",
    [
        {"target_scale": (0.2, 0.1)},
        {"target_scale": (0.9, 0.95)},
        {"context_scale": (0.5, 1.2)},
        {"targets": 0},
    ],
    ids=str,
)
def test_nonsense_is_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        MultiBlockMasks(**bad)


def test_a_grid_of_one_token_is_refused_with_advice():
    with pytest.raises(ValueError, match="larger image"):
        MultiBlockMasks().sample((1, 1), 2, seeds.generator(0))


@pytest.mark.parametrize("sampler", [MultiBlockMasks(), ReferenceMultiBlockMasks()])
def test_a_grid_of_clips_is_refused_with_the_samplers_for_it(sampler):
    with pytest.raises(ValueError, match=r"masks images.*\(2, 6, 6\): use TubeBlockMasks"):
        sampler.sample((2, 6, 6), 2, seeds.generator(0))


def published_sampler(grid, batch, rng):
    """The published procedure, image by image, with Python's loops; for comparison only."""
    import math

    def size(scale, aspect, u):
        area = int(grid[0] * grid[1] * (scale[0] + u * (scale[1] - scale[0])))
        ratio = aspect[0] + u * (aspect[1] - aspect[0])
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        while h >= grid[0]:
            h -= 1
        while w >= grid[1]:
            w -= 1
        return h, w

    def block(h, w):
        top, left = rng.randrange(0, grid[0] - h), rng.randrange(0, grid[1] - w)
        return {r * grid[1] + c for r in range(top, top + h) for c in range(left, left + w)}

    th, tw = size((0.15, 0.2), (0.75, 1.5), rng.random())
    ch, cw = size((0.85, 1.0), (1.0, 1.0), rng.random())
    contexts, targets = [], []
    for _ in range(batch):
        blocks = [block(th, tw) for _ in range(4)]
        tries, kept_out = 0, 4
        while True:
            context = block(ch, cw).difference(*blocks[:kept_out])
            tries += 1
            if len(context) > 10:
                break
            if tries % 20 == 0:
                kept_out -= 1
        contexts.append(sorted(context))
        targets.append([sorted(b) for b in blocks])
    shortest = min(map(len, contexts))
    return [c[:shortest] for c in contexts], targets


def test_reference_mode_has_the_published_distribution():
    """Context length and the use of every token, over many batches, against the plain loops."""
    import random

    rng, grid, steps, batch = random.Random(0), (14, 14), 150, 32
    usage = {"loops": torch.zeros(2, 196), "ours": torch.zeros(2, 196)}
    lengths = {"loops": [], "ours": []}
    for step in range(steps):
        context, targets = published_sampler(grid, batch, rng)
        masks = ReferenceMultiBlockMasks().sample(grid, batch, seeds.generator(6, step))
        for name, c, t in (
            ("loops", torch.tensor(context), torch.tensor(targets)),
            ("ours", masks.context, masks.targets),
        ):
            usage[name][0] += torch.bincount(c.flatten(), minlength=196)
            usage[name][1] += torch.bincount(t.flatten(), minlength=196)
            lengths[name].append(float(c.shape[1]))
    mean = {name: torch.tensor(values).mean() for name, values in lengths.items()}
    spread = torch.tensor(lengths["loops"]).std() / steps**0.5
    assert abs(mean["loops"] - mean["ours"]) < 4 * 2**0.5 * spread
    for which in (0, 1):
        loops, ours = (usage[n][which] / (steps * batch) for n in ("loops", "ours"))
        assert (loops - ours).abs().max() < 0.08
        assert loops.reshape(grid)[-1].sum() == ours.reshape(grid)[-1].sum() == 0


def test_reference_mode_refuses_grids_on_which_the_published_code_hangs():
    with pytest.raises(ValueError, match="never end"):
        ReferenceMultiBlockMasks().sample((4, 4), 2, seeds.generator(0))
