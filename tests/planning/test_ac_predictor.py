"""V-JEPA 2-AC's network: equal to the reference to 1e-5, and to brute force in float64."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from jepa.checkpoint import load_frozen_encoder
from jepa.planning.ac_official import load_official_ac
from jepa.planning.ac_predictor import ActionConditionedPredictor
from jepa.planning.ac_world import RobotWorldModel

FIXTURES = Path(__file__).parent.parent / "fixtures"
CHECKPOINT = FIXTURES / "vjepa2_ac_checkpoint.pt"
B, T, N, D = 2, 4, 6, 10


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def tiny(**changes):
    torch.manual_seed(0)
    sizes = dict(actions=3, states=5, extrinsics=4, dim=24, depth=2, heads=2, positions="rope")
    predictor = ActionConditionedPredictor(D, (2, 3), **sizes | changes).double()
    for parameter in predictor.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return predictor


def inputs(frames=T):
    return draw(B, frames, N, D), draw(B, frames, 3, seed=1), draw(B, frames, 5, seed=2)


def test_equal_to_the_reference():
    expected = load_file(FIXTURES / "vjepa2_ac_io.safetensors")
    predictor = load_official_ac(CHECKPOINT, heads=2, grid=(4, 4))
    tokens = expected["context_tokens"].unflatten(1, (4, 16))
    for frames, name in ((4, "predicted"), (2, "predicted_prefix")):
        given = (expected[key][:, :frames] for key in ("actions", "states"))
        with torch.no_grad():
            found = predictor(tokens[:, :frames], *given).flatten(1, 2)
        torch.testing.assert_close(found, expected[name], atol=1e-5, rtol=0)


@pytest.mark.parametrize("which", ["encoder", "target_encoder"])
def test_frames_are_encoded_as_in_the_reference(which):
    expected = load_file(FIXTURES / "vjepa2_ac_io.safetensors")
    encoder = load_frozen_encoder(CHECKPOINT, which=which, heads=2)
    predictor = load_official_ac(CHECKPOINT, heads=2, grid=(4, 4))
    world = RobotWorldModel(encoder=encoder, predictor=predictor)
    encoder.normalize = torch.nn.Identity()  # the fixture's frames are normalised already
    found = world.tokens(expected["frames"].movedim(1, -1))
    torch.testing.assert_close(found, expected["frame_tokens"], atol=1e-5, rtol=0)


def turned(x, place, legacy):
    """Channels of one head at (t, h, w), two at a time, by the definition."""
    d, out = 2 * (len(x) // 3 // 2), x.clone()
    for axis, position in enumerate(place):
        for i in range(d // 2):
            a, b = axis * d + 2 * i, axis * d + 2 * i + 1
            frequencies = ((2 * i) % (d // 2), (2 * i + 1) % (d // 2)) if legacy else (i, i)
            one, two = (position * 10000 ** -(f / (d / 2)) for f in frequencies)
            out[a] = x[a] * math.cos(one) - x[b] * math.sin(one)
            out[b] = x[b] * math.cos(two) + x[a] * math.sin(two)
    return out


def brute_force(predictor, tokens, actions, states, extrinsics, legacy):
    """Every token with its place; attention token by token under a dense mask."""
    out = []
    for b in range(len(tokens)):
        rows, places = [], []
        for t in range(tokens.shape[1]):
            rows += [
                predictor.action_encoder(actions[b, t]),
                predictor.state_encoder(states[b, t]),
            ]
            if extrinsics is not None:
                rows.append(predictor.extrinsics_encoder(extrinsics[b, t]))
            places += [(t, 0, 0)] * (len(rows) - len(places))
            rows += list(predictor.predictor_embed(tokens[b, t]))
            places += [(t, h, w) for h in range(2) for w in range(3)]
        x = torch.stack(rows)
        visible = torch.tensor([[k[0] <= q[0] for k in places] for q in places])
        for block in predictor.predictor_blocks:
            qkv = block.attn.qkv(block.norm1(x)).unflatten(1, (3, 2, -1))
            heads = []
            for head in range(2):
                q, k = (
                    torch.stack(
                        [turned(y, p, legacy) for y, p in zip(qkv[:, i, head], places, strict=True)]
                    )
                    for i in (0, 1)
                )
                scores = (q @ k.T / q.shape[1] ** 0.5).masked_fill(~visible, -torch.inf)
                heads.append(scores.softmax(1) @ qkv[:, 2, head])
            x = x + block.attn.proj(torch.cat(heads, 1))
            x = x + block.mlp(block.norm2(x))
        x = predictor.predictor_proj(predictor.predictor_norm(x))
        per_frame = x.unflatten(0, (tokens.shape[1], -1))
        out.append(per_frame[:, -tokens.shape[2] :])
    return torch.stack(out)


@torch.no_grad()
@pytest.mark.parametrize("positions", ["rope", "rope_legacy"])
@pytest.mark.parametrize("camera", [False, True])
def test_equal_to_brute_force(positions, camera):
    predictor = tiny(positions=positions, use_extrinsics=camera)
    extrinsics = draw(B, T, 4, seed=3) if camera else None
    found = predictor(*inputs(), extrinsics)
    wanted = brute_force(predictor, *inputs(), extrinsics, positions == "rope_legacy")
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)  # float32 position tables


def test_a_frame_is_foreseen_from_all_of_the_frames_up_to_it_and_from_no_other():
    """Jacobian of each prediction with respect to each input, frame by frame."""
    predictor = tiny()
    given = [x.requires_grad_() for x in inputs()]
    predicted = predictor(*given)
    for t in range(T):
        slopes = torch.autograd.grad(predicted[:, t].square().sum(), given, retain_graph=True)
        for slope in slopes:
            reached = slope.flatten(2).abs().amax(dim=(0, 2)) > 0
            assert reached.tolist() == [s <= t for s in range(T)]


@torch.no_grad()
def test_frames_in_portions_and_shared_by_plans_are_the_frames_at_once():
    predictor, plans = tiny(), 3
    tokens, actions, states = inputs()
    several = draw(B, plans, T, 3, seed=4)
    several[:, :, :2] = actions[:, None, :2]
    wanted = torch.stack([predictor(tokens, several[:, s], states) for s in range(plans)], dim=1)
    tokens, states = tokens[:, None], states[:, None]
    first, past = predictor.extend(tokens[:, :, :2], several[:, :1, :2], states[:, :, :2])
    torch.testing.assert_close(first[:, 0], wanted[:, 0, :2], atol=1e-12, rtol=0)
    pasts = [past]
    for t in (2, 3):
        after, past = predictor.extend(
            tokens[:, :, t : t + 1], several[:, :, t : t + 1], states[:, :, t : t + 1], None, pasts
        )
        pasts.append(past)
        torch.testing.assert_close(after[:, :, 0], wanted[:, :, t], atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: w.pop("module.extrinsics_encoder.weight"),
            "missing 'extrinsics_encoder.weight'",
        ),
        (lambda w: w.pop("module.predictor_norm.bias"), "missing 'predictor_norm.bias'"),
        (lambda w: w.update({"module.extra": torch.zeros(1)}), "unexpected 'extra'"),
        (
            lambda w: w.update({"module.predictor_proj.bias": torch.zeros(3)}),
            r"'predictor_proj.bias' is \(3,\), expected \(64,\)",
        ),
    ],
)
def test_a_damaged_file_is_refused_by_the_name_of_its_fault(tmp_path, change, message):
    checkpoint = torch.load(CHECKPOINT, weights_only=True)
    change(checkpoint["predictor"])
    torch.save(checkpoint, tmp_path / "damaged.pt")
    with pytest.raises(ValueError, match=message):
        load_official_ac(tmp_path / "damaged.pt", heads=2, grid=(4, 4))


def test_other_files_and_what_no_tensor_tells_are_asked_for(tmp_path):
    with pytest.raises(ValueError, match=r"pass heads="):
        load_official_ac(CHECKPOINT)
    torch.save({"model": {}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="no 'predictor' in it"):
        load_official_ac(tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"missing 'action_encoder\.weight'"):
        load_official_ac(FIXTURES / "vjepa2_checkpoint.pt", heads=2)


def test_frames_of_another_size_and_a_missing_camera_are_refused():
    tokens, actions, states = inputs()
    with pytest.raises(ValueError, match="2x3 patches; got 5"):
        tiny()(tokens[:, :, 1:], actions, states)
    with pytest.raises(ValueError, match="extrinsics are missing"):
        tiny(use_extrinsics=True)(tokens, actions, states)
    with pytest.raises(ValueError, match="extrinsics are given"):
        tiny()(tokens, actions, states, draw(B, T, 4))
