"""Attention against its formula in float64, whatever the pieces that it is worked on in."""

import pytest
import torch

from jepa import attention, linear
from jepa.attention import attend, written_out


def given(dtype, tokens=11):
    draw = torch.randn(3, 2, 4, tokens, 8, generator=torch.Generator().manual_seed(0))
    return draw.to(dtype).unbind(0)


def formula(q, k, v):
    return ((q @ k.mT) / 8**0.5).softmax(dim=-1) @ v


def outcome(way, dtype):
    """Output, and gradients of its sum of squares."""
    parts = [part.clone().requires_grad_() for part in given(dtype)]
    output = way(*parts)
    return [output, *torch.autograd.grad(output.square().sum(), parts)]


def test_attention_is_softmax_of_products():
    torch.testing.assert_close(attend(*given(torch.float64)), formula(*given(torch.float64)))


@pytest.mark.parametrize("cache", [1, 8 * 4 * 11, 8 * 11 * 11 * 3, 1 << 20])
def test_rows_heads_or_all_at_once_give_the_same(cache, monkeypatch):
    """One row; a few rows; three heads; everything; and in no pieces."""
    monkeypatch.setattr(attention, "CACHE", cache)
    whole = outcome(formula, torch.float64)
    for many in (0, attention.MANY):
        monkeypatch.setattr(attention, "MANY", many)
        for ours, exact in zip(outcome(written_out, torch.float64), whole, strict=True):
            torch.testing.assert_close(ours, exact)


def test_long_float32_sequences_by_way_of_onednn(monkeypatch):
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("torch was built without oneDNN")
    for module, name, value in (
        (linear, "slow_mkl", lambda: True),
        (linear, "SMALLEST", 1),
        (attention, "LONG", 11),
        (attention, "CACHE", 4 * 11 * 5),
    ):
        monkeypatch.setattr(module, name, value)
    whole = outcome(formula, torch.float64)
    for ours, exact in zip(outcome(attend, torch.float32), whole, strict=True):
        torch.testing.assert_close(ours.double(), exact, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tiles", [True, False])
@pytest.mark.parametrize(
    ("many", "cache"),
    [(attention.MANY, attention.CACHE), (0, attention.CACHE), (0, 2 * 11 * 33), (0, 2 * 11 * 4)],
)
def test_bfloat16_is_as_near_as_its_digits(tiles, many, cache, monkeypatch):
    """Learning, and frozen on a processor with tiles and on one without; scores are kept, or
    recomputed, all at once, for three heads, and for four rows of one."""
    monkeypatch.setattr(attention, "TILES", tiles)
    monkeypatch.setattr(attention, "MANY", many)
    monkeypatch.setattr(attention, "CACHE", cache)
    exact, *gradients = outcome(formula, torch.float64)
    with torch.no_grad():
        frozen = attend(*given(torch.bfloat16))
    learning, *ours = outcome(attend, torch.bfloat16)
    for output in (frozen, learning):
        assert output.dtype == torch.bfloat16
        torch.testing.assert_close(output.double(), exact, atol=0.03, rtol=0.03)
    for gradient, true in zip(ours, gradients, strict=True):
        assert (gradient.double() - true).norm() < 0.02 * true.norm()


@pytest.mark.parametrize("asked", [11, 3])
def test_recomputed_scores_give_the_gradients_of_kept_ones_and_are_not_kept(asked, monkeypatch):
    q, k, v = given(torch.bfloat16)
    parts = [part.clone().requires_grad_() for part in (q[:, :, -asked:], k, v)]
    gradient = torch.ones(2, 4, 8, asked, dtype=torch.bfloat16).mT  # not contiguous
    found, kept = [], []
    for many in (attention.MANY, 0):
        monkeypatch.setattr(attention, "MANY", many)
        shapes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, shapes=shapes: shapes.append(x.shape[-2:]) or x, lambda x: x
        ):
            output = attend(*parts)
        kept.append((asked, 11) in shapes)
        found.append(torch.autograd.grad(output, parts, gradient))
    assert kept == [True, False]
    for ours, plain in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, plain, atol=0.02, rtol=0.02)
