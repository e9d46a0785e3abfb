"""What joint embeddings share: the projector, one view at a time; and two ranks as one process."""

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from jepa.encoder import VisionTransformer
from jepa.frozen import Normalize
from jepa.joint import mlp, of_each_view
from jepa.masks import MultiBlockMasks
from jepa.ranks import gathered, total
from jepa.sigreg import LeJEPA
from jepa.training import Optimisation, Pretraining
from jepa.vicreg import VICReg

VIEWS = torch.randn(8, 2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def build(name):
    """Without batch norm, which would see one rank's samples only."""
    torch.manual_seed(0)
    encoder = VisionTransformer(image_size=8, patch_size=4, channels=1, dim=12, depth=1, heads=2)
    if name == "vicreg":
        return VICReg(encoder, projector=(6,))
    return LeJEPA(encoder, projector=(6,), weight=0.5, directions=7)


def gradients_of(model, views):
    """Named losses, and the gradient of their sum in one vector."""
    losses = model(views, torch.Generator().manual_seed(3)).losses
    torch.stack(list(losses.values())).sum().backward()
    values = {name: loss.item() for name, loss in losses.items()}
    return values, torch.cat([p.grad.flatten() for p in model.parameters()])


def together(rank, out):
    mine = VIEWS[4 * rank : 4 * rank + 4]
    found = {
        name: gradients_of(DistributedDataParallel(build(name)), mine)
        for name in ("vicreg", "lejepa")
    }
    found["gathered"] = gathered(mine.flatten(1))
    found["total"] = total(mine)
    torch.save(found, out / f"{rank}.pt")


def test_two_ranks_have_the_losses_and_gradients_of_one_process(on_two_ranks, tmp_path):
    on_two_ranks(together)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert all(torch.equal(r["gathered"], VIEWS.flatten(1)) for r in ranks)
    assert all(torch.equal(r["total"], VIEWS[:4] + VIEWS[4:]) for r in ranks)
    for name in ("vicreg", "lejepa"):
        losses, gradients = gradients_of(build(name), VIEWS)
        for rank in ranks:
            theirs, averaged = rank[name]
            torch.testing.assert_close(averaged, gradients, rtol=1e-4, atol=1e-5)
            for whole in losses.keys() - {"invariance"}:
                assert theirs[whole] == pytest.approx(losses[whole], rel=1e-5)
        mean = sum(rank[name][0]["invariance"] for rank in ranks) / 2
        assert mean == pytest.approx(losses["invariance"], rel=1e-5)


def test_batch_norm_sees_one_view_at_a_time():
    torch.manual_seed(0)
    head = mlp((3, 5, 4))
    assert [type(part).__name__ for part in head] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    features = torch.randn(16, 2, 3) + torch.tensor([0.0, 50.0])[:, None]
    both = of_each_view(head, features)
    torch.testing.assert_close(both[:, 1], head(features[:, 1]))
    together = head(features.flatten(0, 1)).unflatten(0, (16, 2))
    assert (both - together).abs().max() > 0.1


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="at least one layer"):
        VICReg(build("vicreg").encoder, projector=())
    with pytest.raises(ValueError, match="two views"):
        build("vicreg")(VIEWS[:, :1], torch.Generator())
    parts = {"normalize": Normalize((0.5,), (0.25,)), "optimisation": Optimisation(steps=1)}
    with pytest.raises(ValueError, match="got VICReg and masks MultiBlock"):
        Pretraining(model=build("vicreg"), masks=MultiBlockMasks(), **parts)
