"""Weights in shards: each rank keeps its part, and what they compute is what one process would."""

import torch
from torch.distributed.device_mesh import init_device_mesh

from jepa.encoder import VisionTransformer
from jepa.masks import MultiBlockMasks
from jepa.model import JEPA
from jepa.predictor import Predictor
from jepa.shapes import Grid
from jepa.sharded import gathered, shard, whole

IMAGES = torch.randn(8, 1, 24, 24, generator=torch.Generator().manual_seed(0))
MASKS = MultiBlockMasks().sample(Grid((6, 6)), 4, torch.Generator().manual_seed(1))


def build():
    torch.manual_seed(0)
    encoder = VisionTransformer(image_size=24, patch_size=4, channels=1, dim=16, depth=2, heads=2)
    return JEPA(encoder=encoder, predictor=Predictor(16, Grid((6, 6)), dim=8, depth=1, heads=2))


def gradients_of(model, parts):
    """Of the mean loss of the parts; the target follows."""
    losses = [model(part, MASKS).losses["prediction"] for part in parts]
    torch.stack(losses).mean().backward()
    model.follow(0.5)
    return {name: gathered(p.grad) for name, p in model.named_parameters() if p.grad is not None}


def together(rank, out):
    model = build()
    shard(model, init_device_mesh("cpu", (2,)))
    kept = sum(p.to_local().numel() for p in model.parameters())
    before = whole(model).state_dict()
    gradients = gradients_of(model, [IMAGES[4 * rank : 4 * rank + 4]])
    with torch.no_grad():
        for p in model.encoder.parameters():
            p.add_(1.0)
    model.follow(0.25)
    after = whole(model).eval()
    found = dict(kept=kept, before=before, gradients=gradients, after=after.state_dict())
    found["said"] = after.encoder(IMAGES)
    torch.save(found, out / f"{rank}.pt")


def test_two_ranks_keep_half_each_and_compute_what_one_process_does(on_two_ranks, tmp_path):
    on_two_ranks(together)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    model = build()
    number = sum(p.numel() for p in model.parameters())
    assert sum(rank["kept"] for rank in ranks) == number
    assert all(rank["kept"] < 0.55 * number for rank in ranks)
    start = {k: v.clone() for k, v in model.state_dict().items()}
    gradients = gradients_of(model, IMAGES.split(4))
    assert whole(model) is model
    with torch.no_grad():
        for p in model.encoder.parameters():
            p.add_(1.0)
    model.follow(0.25)
    for rank in ranks:
        torch.testing.assert_close(rank["before"], start, rtol=0, atol=0)
        torch.testing.assert_close(rank["gradients"], gradients, rtol=0, atol=1e-6)
        torch.testing.assert_close(rank["after"], dict(model.state_dict()), rtol=0, atol=1e-6)
        torch.testing.assert_close(rank["said"], model.encoder(IMAGES), rtol=0, atol=1e-5)


def halves_together(rank, out):
    model = build()
    shard(model, init_device_mesh("cpu", (2,)))
    model.bfloat16()
    gradients = gradients_of(model, [IMAGES[4 * rank : 4 * rank + 4].bfloat16()])
    with torch.no_grad():
        for p in model.encoder.parameters():
            p.add_(1.0)
    model.follow(0.999)
    assert all(gradient.dtype == torch.bfloat16 for gradient in gradients.values())
    torch.save(whole(model).state_dict(), out / f"{rank}.pt")


def test_in_shards_of_bfloat16_the_target_moves_as_in_float32(on_two_ranks, tmp_path):
    on_two_ranks(halves_together)
    model = build()
    start = {name: value.clone() for name, value in model.target.encoder.state_dict().items()}
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, value in start.items():
            fast = found[f"encoder.{name}"]
            before = 0.5 * (value + value.bfloat16().float())  # the first step
            moved = before + 0.001 * (fast.float() - before)
            torch.testing.assert_close(found[f"target.encoder.{name}"], moved, rtol=0, atol=1e-6)
            assert fast.dtype == torch.bfloat16
