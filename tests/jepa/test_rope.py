"""Rotary positions against complex numbers in float64, and what they are for: differences."""

import cmath
import itertools

import numpy as np
import pytest
import torch

from jepa.encoder import VisionTransformer
from jepa.predictor import Predictor
from jepa.rope import Rope, rope_table, split_order, split_rows, turn, turned

GRID = (3, 4, 5)


def turned_by_complex_numbers(x, grid):
    """Each pair of channels as a complex number times e^(i * position * omega)."""
    d = x.shape[1]
    each = 2 * (d // 3 // 2)
    out = x.copy()
    for token, place in enumerate(itertools.product(*map(range, grid))):
        for axis, position in enumerate(place):
            for i in range(each // 2):
                c = axis * each + 2 * i
                z = complex(x[token, c], x[token, c + 1])
                z *= cmath.exp(1j * position * 10000 ** (-i / (each / 2)))
                out[token, c], out[token, c + 1] = z.real, z.imag
    return out


def rotated(x, rope):
    """[N, d], as a new tensor."""
    out = torch.empty_like(x)
    turn(x, *rope, out=out)
    return out


@pytest.mark.parametrize("head_dim", [6, 8, 14, 20, 32, 64])
def test_equal_to_complex_rotation(head_dim):
    x = torch.randn(60, head_dim, generator=torch.Generator().manual_seed(0))
    order = split_order(head_dim)
    ours = torch.empty_like(x)
    ours[:, order] = rotated(x[:, order], rope_table(head_dim, GRID))
    np.testing.assert_allclose(ours, turned_by_complex_numbers(x.numpy(), GRID), atol=1e-5)


def scores(style, shift):
    """Query at (0, 0, 0) + shift times key at (1, 2, 1) + shift."""
    grid = (6, 8, 8)
    generator = torch.Generator().manual_seed(1)
    q, k = torch.randn(2, 1, 32, generator=generator)
    table = rope_table(32, grid, style)

    def at(x, place):
        index = np.ravel_multi_index(place, grid)
        return rotated(x, table.take(torch.tensor([int(index)])))

    moved = tuple(s + p for s, p in zip(shift, (1, 2, 1), strict=True))
    return (at(q, shift) * at(k, moved)).sum().item()


def test_attention_depends_on_differences_only_but_not_in_the_legacy_style():
    shifts = [(0, 0, 0), (1, 0, 0), (0, 3, 0), (2, 1, 4), (4, 5, 6)]
    correct = [scores("rope", shift) for shift in shifts]
    legacy = [scores("rope_legacy", shift) for shift in shifts]
    assert np.ptp(correct) < 1e-5
    assert np.ptp(legacy) > 0.1


@pytest.mark.parametrize("style", ["rope", "rope_legacy"])
def test_gradients_of_the_turn_and_of_the_rows_are_those_of_their_formulas(style):
    """Numerical derivatives, in float64, with a table of the whole grid and of kept tokens."""
    table = Rope(*(t.double() for t in rope_table(8, (1, 2, 2), style)))
    draw = torch.Generator().manual_seed(9)
    qkv = torch.randn(2, 4, 3, 2, 8, generator=draw, dtype=torch.float64, requires_grad=True)
    kept = table.take(torch.tensor([[3, 0, 1, 2], [1, 1, 2, 0]]))
    for rope in (table, kept):
        assert torch.autograd.gradcheck(lambda x, rope=rope: turned(x, rope), qkv)
    weight = torch.randn(48, 3, generator=draw, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: split_rows(x, 2), weight)
    assert torch.equal(split_rows(weight, 2)[32:], weight[32:])


def test_an_image_grid_is_a_clip_of_one_tubelet():
    for ours, theirs in zip(rope_table(24, (4, 5)), rope_table(24, (1, 4, 5)), strict=True):
        assert torch.equal(ours, theirs)


def test_too_narrow_heads_are_refused():
    for head_dim in (4, 13):
        with pytest.raises(ValueError, match="even number"):
            rope_table(head_dim, GRID)


def video_encoder(**changes):
    sizes = dict(image_size=16, patch_size=4, channels=1, frames=4, tubelet_size=2)
    sizes |= dict(dim=24, depth=2, heads=2, positions="rope")
    return VisionTransformer(**sizes | changes).eval()


@torch.no_grad()
def test_a_rotary_encoder_does_not_care_where_in_time_a_clip_begins():
    """The second half of a long clip, seen alone, gives the latents that it gives at its place."""
    encoder = video_encoder()
    clip = torch.randn(2, 1, 8, 16, 16, generator=torch.Generator().manual_seed(2))
    keep = torch.arange(32, 64).expand(2, -1)
    torch.testing.assert_close(encoder(clip, keep), encoder(clip[:, :, 4:]), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("positions", ["sincos", "rope", "rope_legacy"])
def test_any_length_any_aspect_and_single_images(positions):
    encoder = video_encoder(positions=positions)
    assert encoder(torch.zeros(1, 1, 6, 8, 20)).shape == (1, 3 * 2 * 5, 24)
    image = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(3))
    still = image[:, :, None].expand(-1, -1, 2, -1, -1)
    assert torch.equal(encoder(image), encoder(still))
    assert torch.equal(encoder(image[:, :, None]), encoder(still))
    assert encoder.grid(image) == (1, 4, 4)


@torch.no_grad()
@pytest.mark.parametrize("positions", ["sincos", "rope"])
def test_masked_equals_attention_on_a_subset(positions):
    encoder = video_encoder(positions=positions, depth=1)
    clip = torch.randn(2, 1, 4, 16, 16, generator=torch.Generator().manual_seed(4))
    everything = torch.arange(32).expand(2, -1)
    torch.testing.assert_close(encoder(clip, everything), encoder(clip), atol=1e-5, rtol=0)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(5)).expand(2, -1)
    torch.testing.assert_close(encoder(clip, order), encoder(clip)[:, order[0]], atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_predictor_knows_where_it_is_asked_at_every_resolution():
    predictor = Predictor(24, (2, 4, 4), dim=24, depth=1, heads=2, mask_tokens=2, positions="rope")
    context = torch.randn(1, 3, 24, generator=torch.Generator().manual_seed(6))
    seen, asked = torch.tensor([[0, 5, 9]]), torch.tensor([[[20], [33]]])
    one = predictor(context, seen, asked, (2, 4, 5))
    two = predictor(context, seen, asked, (2, 5, 4))
    assert (one - two).abs().max() > 1e-4
    assert (one - predictor(context, seen, asked, (2, 4, 5), 1)).abs().max() > 1e-4
    with pytest.raises(ValueError, match="mask tokens"):
        predictor(context, seen, asked, (2, 4, 5), 2)


def test_checkpointed_activations_give_the_same_gradients():
    clip = torch.randn(2, 1, 4, 16, 16, generator=torch.Generator().manual_seed(7))
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(8)
        encoder = video_encoder()
        encoder.blocks.activation_checkpointing = checkpointing
        encoder(clip).square().sum().backward()
        gradients.append([p.grad for p in encoder.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)
