"""Tables that are kept serve every later caller, whatever the first one was doing."""

import pytest
import torch

from jepa.encoder import VisionTransformer
from jepa.tables import shared_table

CLIPS = torch.rand(2, 1, 4, 16, 16, generator=torch.Generator().manual_seed(0))


def encoder(positions, width):
    """Of another width in each test: what is kept is kept for all of them."""
    return VisionTransformer(
        image_size=16,
        patch_size=4,
        channels=1,
        frames=4,
        tubelet_size=2,
        positions=positions,
        dim=width,
        depth=1,
        heads=2,
    )


@pytest.mark.parametrize("positions", ["sincos", "rope", "rope_legacy"])
def test_what_was_asked_for_first_in_inference_mode_is_learnt_with_later(positions):
    network = encoder(positions, 36)
    with torch.inference_mode():
        before = network(CLIPS)
    after = network(CLIPS)
    after.sum().backward()
    assert torch.equal(before, after)


@pytest.mark.parametrize("positions", ["sincos", "rope", "rope_legacy"])
def test_what_was_asked_for_first_by_an_export_has_numbers_later(positions):
    network = encoder(positions, 60).eval()
    with torch.no_grad():
        exported = torch.export.export(network, (CLIPS,)).module()
        torch.testing.assert_close(network(CLIPS), exported(CLIPS), rtol=1e-5, atol=1e-5)


def test_a_table_is_made_once_for_each_arguments():
    calls = []

    @shared_table
    def table(size, device):
        calls.append(size)
        return torch.zeros(size, device=device)

    here, elsewhere = torch.device("cpu"), torch.device("meta")
    assert table(3, here) is table(3, here)
    assert table(3, elsewhere).device == elsewhere
    assert table(4, here).shape == (4,)
    assert calls == [3, 3, 4]
