"""The published objective of V-JEPA 2-AC, written out, and that training lowers it."""

import pytest
import pytorch_lightning as lightning
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from jepa.planning.ac_predictor import ActionConditionedPredictor
from jepa.planning.ac_training import ActionConditionedTraining, foresight_losses

B, T, N, D = 2, 4, 4, 12


def tiny(**changes):
    torch.manual_seed(0)
    sizes = dict(dim=24, depth=1, heads=2) | changes
    return ActionConditionedPredictor(D, (2, 2), **sizes)


def window(seed=0, batch=B):
    generator = torch.Generator().manual_seed(seed)
    sizes = ((T, N, D), (T - 1, 7), (T, 7), (T, 6))
    tokens, *others = (torch.randn(batch, *size, generator=generator) for size in sizes)
    return [F.layer_norm(tokens, (D,)), *others]


@torch.no_grad()
@pytest.mark.parametrize("camera", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_both_losses_written_out(steps, camera):
    predictor = tiny(use_extrinsics=camera).double()
    z, a, s, e = (x.double() for x in window())

    def after(frames, t):
        """The frame foreseen from these t."""
        out = predictor(frames, a[:, :t], s[:, :t], e[:, :t] if camera else None)
        return F.layer_norm(out[:, -1:], (D,))

    forced = torch.cat([after(z[:, :t], t) for t in range(1, T)], dim=1)
    frames = z[:, :1]
    for t in range(1, steps + 1):
        frames = torch.cat([frames, after(frames, t)], dim=1)
    losses = foresight_losses(predictor, z, a, s, e if camera else None, steps=steps)
    wanted = {
        "teacher_forced": (forced - z[:, 1:]).abs().mean(),
        "rollout": (frames[:, 1:] - z[:, 1 : steps + 1]).abs().mean(),
    }
    torch.testing.assert_close(losses, wanted, atol=1e-10, rtol=0)


def test_windows_too_short_for_the_rollout_are_refused():
    with pytest.raises(ValueError, match="4 steps needs 5 frames or more; got 4"):
        foresight_losses(tiny(), *window()[:3], steps=4)
    with pytest.raises(ValueError, match="shares of the steps"):
        ActionConditionedTraining(tiny(), warmup=0.6, anneal=0.6)


def test_the_rate_rises_stays_and_falls():
    training = ActionConditionedTraining(tiny(), start=0.2, warmup=0.1, anneal=0.2)
    rates = [training.rate(step, 100) for step in (0, 5, 10, 50, 80, 90, 100)]
    assert rates == pytest.approx([0.2, 0.6, 1, 1, 1, 0.5, 0])


def test_only_parameters_of_several_dimensions_decay():
    """As published: V-JEPA 2's release excludes biases and all that has one dimension."""
    training = ActionConditionedTraining(tiny(), weight_decay=0.5)
    options = dict(max_epochs=1, logger=False, enable_checkpointing=False, accelerator="cpu")
    options |= dict(enable_progress_bar=False, enable_model_summary=False)
    tokens, actions, states, _ = window()
    row = {"observations": tokens[0], "actions": actions[0], "states": states[0]}
    trainer = lightning.Trainer(**options)
    trainer.fit(training, DataLoader([row]))
    decays = {
        id(weight): group["weight_decay"]
        for group in trainer.optimizers[0].param_groups
        for weight in group["params"]
    }
    learnt = {name: p for name, p in training.predictor.named_parameters() if p.requires_grad}
    assert len(decays) == len(learnt)
    for name, weight in learnt.items():
        free = name.endswith("bias") or weight.ndim == 1
        assert decays[id(weight)] == (0.0 if free else 0.5), name


def test_training_lowers_both_losses():
    """The next frame is the present one shifted by one channel, whatever is done."""
    tokens, actions, states, _ = window(batch=32)
    tokens = torch.stack([tokens[:, 0].roll(t, dims=-1) for t in range(T)], dim=1)
    rows = [
        {"observations": z, "actions": a, "states": s}
        for z, a, s in zip(tokens, actions, states, strict=True)
    ]
    training = ActionConditionedTraining(tiny(dim=48), learning_rate=1e-2)
    before = foresight_losses(training.predictor, tokens, actions, states)
    trainer = lightning.Trainer(
        max_epochs=15, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(training, DataLoader(rows, batch_size=16))
    after = foresight_losses(training.predictor, tokens, actions, states)
    assert all(after[name] < 0.8 * before[name] for name in before)
