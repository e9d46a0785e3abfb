"""V-JEPA 2.1's losses against plain loops in float64, their schedule, and where gradients go."""

import itertools

import pytest
import torch

from jepa.dense import Dense, DenseJEPA, nearest
from jepa.encoder import VisionTransformer
from jepa.losses import VarianceCovariance
from jepa.masks import MultiBlockMasks
from jepa.masks_video import CausalMasks, MaskGroups, TubeBlockMasks
from jepa.model import JEPA
from jepa.predictor import Predictor

GRID = (2, 4, 4)
BLOCKS = (0, 1)
ALWAYS = {"first_step": 0, "last_step": 1}


def parts():
    torch.manual_seed(0)
    encoder = VisionTransformer(
        image_size=16,
        patch_size=4,
        channels=1,
        frames=4,
        tubelet_size=2,
        positions="rope",
        dim=24,
        depth=3,
        heads=2,
    )

    def predictor(width, grid):
        return Predictor(width, grid, dim=24, depth=1, heads=2, mask_tokens=2, positions="rope")

    return encoder, predictor


def dense_jepa(**changes):
    encoder, predictor = parts()
    return DenseJEPA(encoder=encoder, predictor=predictor, dense=Dense(**changes))


def drawn():
    generator = torch.Generator().manual_seed(1)
    masks = MaskGroups(groups=(TubeBlockMasks(blocks=2, scale=0.3), CausalMasks()))
    clips = torch.randn(3, 1, 4, 16, 16, generator=generator)
    return clips, masks.sample(GRID, 3, generator)


def distance_to_nearest(token, targets, grid):
    where = list(itertools.product(*map(range, grid)))
    return min(
        sum((a - b) ** 2 for a, b in zip(where[token], where[target], strict=True)) ** 0.5
        for target in targets
    )


@torch.no_grad()
def test_both_losses_are_those_of_a_plain_loop():
    model, (clips, masks) = dense_jepa(blocks=BLOCKS, weight=0.5, **ALWAYS), drawn()
    model.begin(1)
    ours = model(clips, masks).losses
    model.double()
    theirs, outputs = {"prediction": 0.0, "context": 0.0}, []
    named = model.target.encoder.encoder.layers(clips.double(), ["blocks.0", "blocks.1", "norm"])
    norms = zip(model.target.encoder.norms, BLOCKS, strict=True)
    levels = [norm(named[f"blocks.{block}"]) for norm, block in norms]
    for level in (*levels, named["norm"]):
        middle = level - level.mean(-1, keepdim=True)
        outputs.append(middle / (level.var(-1, correction=0, keepdim=True) + 1e-5).sqrt())
    truth = torch.cat(outputs, dim=-1)
    for number, group in enumerate(masks):
        context = model.encoder(clips.double(), group.context)
        tokens = model.predictor.tokens(context, group.context, group.targets, GRID, number)
        tokens = model.predictor.predictor_norm(tokens)[:, 0]
        for sample in range(3):
            seen, hidden = group.context[sample].tolist(), group.targets[sample, 0].tolist()
            for row, token in enumerate(seen + hidden):
                if row < len(seen):
                    name, layer, count = "context", model.projection, len(seen)
                    weight = 0.5 / distance_to_nearest(token, hidden, GRID) ** 0.5
                else:
                    name, layer, count = "prediction", model.predictor.predictor_proj, len(hidden)
                    weight = 1.0
                error = (layer(tokens[sample, row]) - truth[sample, token]).abs().mean().item()
                theirs[name] += weight * error / count / 3 / 2
    assert ours["prediction"].item() == pytest.approx(theirs["prediction"], abs=1e-5)
    assert ours["context"].item() == pytest.approx(theirs["context"], abs=1e-5)


def test_distances_of_several_blocks_on_an_image():
    grid, draw = (6, 5), torch.Generator().manual_seed(2)
    masks = MultiBlockMasks(min_keep=3).sample(grid, 2, draw)
    ours = nearest(masks.context, masks.targets, grid)
    for sample, block in itertools.product(range(2), range(masks.targets.shape[1])):
        hidden = masks.targets[sample, block].tolist()
        exact = [distance_to_nearest(t, hidden, grid) for t in masks.context[sample].tolist()]
        torch.testing.assert_close(ours[sample, block], torch.tensor(exact))


def test_the_weight_is_a_line_between_two_steps():
    dense = Dense(weight=0.4, first_step=10, last_step=30)
    given = [dense.weight_at(step) for step in (0, 10, 15, 20, 30, 1000)]
    assert given == pytest.approx([0, 0, 0.1, 0.2, 0.4, 0.4])
    model, (clips, masks) = dense_jepa(weight=0.4, first_step=10, last_step=30), drawn()
    context = []
    for step in (10, 20, 30):
        model.begin(step)
        context.append(model(clips, masks).losses["context"].item())
    assert context[0] == 0
    assert context[1] == pytest.approx(context[2] / 2)


@pytest.mark.parametrize("step", [0, 1])
def test_gradients_reach_every_level_and_both_projections(step):
    model, (clips, masks) = dense_jepa(blocks=BLOCKS, **ALWAYS), drawn()
    model.begin(step)
    sum(model(clips, masks).losses.values()).backward()
    weights = [norm.weight for norm in (*model.encoder.norms, model.encoder.encoder.norm)]
    weights += [layer.weight for layer in model.predictor.predictor_embed[::2]]
    weights += [model.predictor.predictor_proj.weight]
    assert all(weight.grad.abs().sum() > 0 for weight in weights)
    by_level = model.projection.weight.grad.unflatten(0, (3, 24)).abs().sum(dim=(1, 2))
    assert (by_level > 0).tolist() == [bool(step)] * 3
    assert all(weight.grad is None for weight in model.target.parameters())


def test_a_jepa_when_everything_is_off():
    clips, masks = drawn()
    encoder, predictor = parts()
    plain = JEPA(
        encoder=encoder,
        predictor=predictor(24, GRID),
        distance="l1",
        regulariser=VarianceCovariance(),
    )
    encoder, predictor = parts()
    dense = DenseJEPA(
        encoder=encoder,
        predictor=predictor,
        dense=Dense(weight=0.0),
        regulariser=VarianceCovariance(),
    )
    losses = []
    for model in (plain, dense):
        output = model(clips, masks)
        sum(output.losses.values()).backward()
        losses.append(output.losses)
    assert losses[0].keys() == losses[1].keys()
    for name, loss in losses[0].items():
        assert torch.equal(loss, losses[1][name])
    for one, other in zip(plain.parameters(), dense.parameters(), strict=True):
        assert torch.equal(one, other)
        assert one.grad is None or torch.equal(one.grad, other.grad)
    assert dense.encoders["student"] is encoder
    assert isinstance(dense.encoders["target"], VisionTransformer)


def test_the_target_follows_in_all_its_levels():
    model = dense_jepa(blocks=BLOCKS)
    torch.nn.init.constant_(model.encoder.norms[1].weight, 3.0)
    model.follow(0.5)
    torch.testing.assert_close(model.target.encoder.norms[1].weight, torch.full((24,), 2.0))


@pytest.mark.parametrize("blocks", [(2,), (1, 0), (0, 0), (-1,)])
def test_blocks_that_are_none_are_refused(blocks):
    with pytest.raises(ValueError, match="0 to 1"):
        dense_jepa(blocks=blocks)


def test_a_schedule_that_ends_before_it_begins_is_refused():
    with pytest.raises(ValueError, match="first_step"):
        Dense(first_step=10, last_step=10)


def test_in_bfloat16_targets_are_of_float32_and_take_the_same_clips():
    model, (clips, masks) = dense_jepa(blocks=BLOCKS, **ALWAYS).bfloat16(), drawn()
    sum(model(clips.bfloat16(), masks).losses.values()).backward()
    said = {name: part(clips.bfloat16()) for name, part in model.encoders.items()}
    assert said["student"].dtype == torch.bfloat16
    assert said["target"].dtype == torch.float32
    torch.testing.assert_close(said["student"].float(), said["target"], rtol=0.1, atol=0.1)
