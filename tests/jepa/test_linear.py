"""The layer by way of oneDNN, against float64 and against torch's own."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from jepa import linear
from jepa.linear import Linear, OneDNNLinear

pytestmark = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="torch was built without oneDNN"
)


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("biased", [True, False])
def test_product_and_gradients_are_those_of_float64(biased):
    x, weight, bias = draw(70, 24, seed=0), draw(40, 24, seed=1), draw(40, seed=2)
    gradient = draw(40, 70, seed=3).T  # not contiguous
    found = []
    for to, product in ((torch.float64, F.linear), (torch.float32, OneDNNLinear.apply)):
        given = [t.to(to).requires_grad_() for t in (x, weight, bias)[: 3 if biased else 2]]
        output = product(*given) if biased else product(*given, None)
        output.backward(gradient.to(to))
        found.append([output.detach(), *(t.grad for t in given)])
    for exact, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours.double(), exact, atol=2e-5, rtol=1e-5)


def test_the_layer_takes_this_way_where_it_pays_and_gives_the_same(monkeypatch):
    calls = []
    monkeypatch.setattr(linear, "slow_mkl", lambda: True)
    monkeypatch.setattr(linear, "SMALLEST", 1000)
    product = linear.product
    monkeypatch.setattr(linear, "product", lambda *given: calls.append(given) or product(*given))
    layer, x = Linear(8, 6), draw(2, 3, 5, 8, seed=4)
    plain = nn.Linear(8, 6)
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x), plain(x))
    assert len(calls) == 1
    layer(x[:1, :1])  # too small
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert len(calls) == 1
    monkeypatch.setattr(linear, "SMALLEST", 1)
    torch.testing.assert_close(layer(x[0, 0, 0]), plain(x[0, 0, 0]))  # a single row, [D]
    assert len(calls) == 2


@pytest.mark.skipif(
    not linear.processor().get("avx512_bf16"), reason="the processor multiplies no bfloat16"
)
@pytest.mark.parametrize("learning", [True, False])
def test_under_autocast_the_numbers_are_those_of_torch(learning, monkeypatch):
    """To the last of bfloat16's digits, whose rounding another processor may do otherwise."""
    calls = []
    product = linear.product
    monkeypatch.setattr(linear, "product", lambda *given: calls.append(given) or product(*given))
    found = []
    for least in (2 * 3 * 5 * 6 + 1, 2 * 3 * 5 * 6):  # numbers of an output: torch, and oneDNN
        monkeypatch.setattr(linear, "BIASES", least)
        given = [draw(2, 3, 5, 8, seed=4), draw(6, 8, seed=5), draw(6, seed=6)]
        x, weight, bias = (part.requires_grad_(learning) for part in given)
        with torch.autocast("cpu", torch.bfloat16):
            output = linear.linear(x, weight, bias)
            linear.linear(x, weight)  # without biases there is nothing to gain
        assert output.dtype == torch.bfloat16
        found.append([output.detach()])
        if learning:
            output.backward(draw(2, 3, 5, 6, seed=7).bfloat16())
            found[-1] += [part.grad for part in given]
    assert len(calls) == 1
    for torchs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=2**-8, atol=2**-8)


def test_what_is_part_of_longer_rows_is_copied_and_transposes_are_not():
    whole = draw(6, 8, seed=5)
    part = linear.without_gaps(whole[:, 2:5])
    assert part.is_contiguous()
    assert torch.equal(part, whole[:, 2:5])
    assert linear.without_gaps(whole.T).data_ptr() == whole.data_ptr()
