"""V-JEPA 2-AC as a world model: what a robot's camera will see, token by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from tensordict import TensorDict
from torch import Tensor, nn
from torch.nn import functional as F

from jepa.frozen import FrozenEncoder

from .ac_predictor import ActionConditionedPredictor, Past
from .poses import moved
from .protocols import ActionSpace

HAND_AND_GRIPPER = (0, 1, 2, 6)  # what the published planner decides; rotations stay as they are


@dataclass(frozen=True, kw_only=True)
class RobotContext:
    """The last frames that a robot saw, the newest last; one is enough.

    frames: images, channels last, uint8 or float in [0, 1].
    poses: of the hand at each frame, see `poses`.
    actions: taken between the frames.
    extrinsics: the camera's pose, for a predictor that uses it.
    """

    frames: UInt8[Tensor, "B T H W C"] | Float[Tensor, "B T H W C"]
    poses: Float[Tensor, "B T P"]
    actions: Float[Tensor, "B T1 A"] | None = None
    extrinsics: Float[Tensor, "B E"] | None = None

    def __post_init__(self) -> None:
        frames = self.frames.shape[1]
        taken = 0 if self.actions is None else self.actions.shape[1]
        if self.poses.shape[1] != frames or taken != frames - 1:
            raise ValueError(
                f"{frames} frames have {frames} poses and {frames - 1} actions between them; got "
                f"{self.poses.shape[1]} poses and {taken} actions"
            )


class RobotWorldModel(nn.Module):
    """Foresees frames as tokens of a frozen encoder, and poses from the actions themselves.

    Assran et al. 2025 (arXiv:2506.09985, section 3). Each frame is encoded alone, as a clip that
    stands still; tokens are layer-normed. States have the entries

    - `latent` [B, N, D], the tokens of the newest frame, and `pose` [B, 7];
    - `keys` and `values` [B, layers, heads, n, d] of the frames before it, computed once: all
      plans of an environment share them. States of a rollout do not have them;
    - `extrinsics` [B, E], if the predictor uses them.

    The newest frame is computed anew for every plan: its tokens attend to the action taken there.

    Args:
        encoder: of clips, frozen.
        predictor: action-conditioned; frozen from here on.
        controls: components of the predictor's action that are planned; the others stay 0. None:
            all.
    """

    controls: Tensor

    def __init__(
        self,
        *,
        encoder: FrozenEncoder,
        predictor: ActionConditionedPredictor,
        controls: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if predictor.actions != 7:
            raise ValueError(
                "poses follow from actions of 7 components; the predictor's have "
                f"{predictor.actions}"
            )
        self.encoder, self.predictor = encoder, predictor.requires_grad_(False).eval()
        planned = torch.arange(predictor.actions) if controls is None else torch.tensor(controls)
        self.register_buffer("controls", planned, persistent=False)

    @torch.no_grad()
    def tokens(
        self, frames: UInt8[Tensor, "*B H W C"] | Float[Tensor, "*B H W C"]
    ) -> Float[Tensor, "*B N D"]:
        """The tokens of single frames, uint8 or float in [0, 1]."""
        images = frames.flatten(0, -4).movedim(-1, 1)
        return normed(self.encoder(images)).unflatten(0, frames.shape[:-3])

    def goal(self, frames: UInt8[Tensor, "B H W C"] | Float[Tensor, "B H W C"]) -> TensorDict:
        """What the camera shall see: states with `latent` only, for `GoalDistance`."""
        return TensorDict({"latent": self.tokens(frames)}, batch_size=[len(frames)])

    @torch.no_grad()
    def encode(self, observation: RobotContext) -> TensorDict:
        """The context's frames to a state, all but the newest as keys and values."""
        seen, poses = self.tokens(observation.frames), observation.poses
        state = TensorDict({"latent": seen[:, -1], "pose": poses[:, -1]}, batch_size=[len(poses)])
        if observation.extrinsics is not None:
            state["extrinsics"] = observation.extrinsics
        if observation.actions is not None and observation.actions.shape[1]:
            _, past = self.predictor.extend(
                seen[:, None, :-1],
                observation.actions[:, None],
                poses[:, None, :-1],
                camera_of(state, seen.shape[1] - 1),
            )
            state["keys"], state["values"] = stacked(past)
        return state

    @torch.no_grad()
    def observe(
        self, state: TensorDict, action: Float[Tensor, "B A"], observation: RobotContext
    ) -> TensorDict:
        """The state after an action, when the frame and the pose that came of it are known.

        The same as encoding one more frame of context. The context grows; to forget, encode the
        last frames anew. Raises ValueError for an observation of several frames.
        """
        if observation.frames.shape[1] != 1:
            raise ValueError(
                f"one new frame is observed after an action; got {observation.frames.shape[1]}: "
                "several at once are encoded"
            )
        seen = self.encode(observation).select("latent", "pose")
        return self.step(state, action).update(seen)

    def step(self, state: TensorDict, action: Float[Tensor, "B A"]) -> TensorDict:
        """The state after one action; what was the newest frame is one of those before."""
        latent, pose, past = self._foresee(
            state, state["latent"][:, None], state["pose"][:, None], action[:, None], past_of(state)
        )
        after = state.copy().update({"latent": latent[:, 0], "pose": pose[:, 0]})
        for name, new in zip(("keys", "values"), stacked(past), strict=True):
            after[name] = torch.cat([state[name], new], dim=3) if name in state else new
        return after

    def rollout(self, state: TensorDict, actions: Float[Tensor, "*S B H A"]) -> TensorDict:
        """The states [*S, B, H] after each action: `latent` and `pose`.

        Each step computes one frame for every plan, however long the context is.
        """
        plans = actions.reshape(-1, *actions.shape[-3:]).transpose(0, 1)
        latent, pose = state["latent"][:, None], state["pose"][:, None]
        pasts, states = past_of(state), []
        for action in plans.unbind(dim=2):
            latent, pose, past = self._foresee(state, latent, pose, action, pasts)
            pasts.append(past)
            states.append(TensorDict({"latent": latent, "pose": pose}, batch_size=pose.shape[:2]))
        return TensorDict.stack(states, dim=2).transpose(0, 1).reshape(actions.shape[:-1])

    def _foresee(
        self,
        state: TensorDict,
        latent: Float[Tensor, "B s N D"],
        pose: Float[Tensor, "B s P"],
        action: Float[Tensor, "B S A"],
        pasts: Sequence[Past],
    ) -> tuple[Float[Tensor, "B S N D"], Float[Tensor, "B S P"], Past]:
        """Tokens and pose of the next frame, and what the present one is to later ones."""
        still = action.new_zeros(*action.shape[:-1], self.predictor.actions)
        whole = still.index_copy(-1, self.controls, action)
        after, past = self.predictor.extend(
            latent[:, :, None], whole[:, :, None], pose[:, :, None], camera_of(state, 1), pasts
        )
        return normed(after[:, :, 0]), moved(pose.expand_as(whole), whole), past


class PresentFrame:
    """A robot's world model for agents, which begins anew with every frame that it is shown.

    As published, the newest frame is all the context that a plan has, so that a long episode costs
    no more than a short one.

    Args:
        world: what foresees.
    """

    def __init__(self, world: RobotWorldModel) -> None:
        self.world = world

    def encode(self, observation: Mapping[str, Tensor]) -> TensorDict:
        """`image` [B, H, W, C], as frames of a `RobotContext`, and `pose` [B, 7]; a goal, which no
        plan starts from, may be without `pose`. Raises ValueError where there is no `image`."""
        if not isinstance(observation, Mapping) or "image" not in observation:
            given = sorted(observation) if isinstance(observation, Mapping) else type(observation)
            raise ValueError(f"expected a dictionary with `image` and `pose`; got {given}")
        if "pose" not in observation:
            return self.world.goal(observation["image"])
        poses = observation["pose"].float()[:, None]
        return self.world.encode(RobotContext(frames=observation["image"][:, None], poses=poses))

    def step(self, state: TensorDict, action: Float[Tensor, "B A"]) -> TensorDict:
        """As the model."""
        return self.world.step(state, action)

    def rollout(self, state: TensorDict, actions: Float[Tensor, "*S B H A"]) -> TensorDict:
        """As the model."""
        return self.world.rollout(state, actions)


def hand_and_gripper(step: float = 0.05, grip: float = 0.75) -> ActionSpace:
    """The published planner's bounds on `HAND_AND_GRIPPER`: metres, and share of the opening."""
    high = torch.tensor([step, step, step, grip])
    return ActionSpace(-high, high)


def normed(tokens: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
    """Layer norm without weights: of what is foreseen and of what is compared with it."""
    return F.layer_norm(tokens, tokens.shape[-1:])


def camera_of(state: TensorDict, frames: int) -> Float[Tensor, "B 1 T E"] | None:
    """The camera's pose for every frame; it stands still."""
    if "extrinsics" not in state:
        return None
    return state["extrinsics"][:, None, None].expand(-1, -1, frames, -1)


def past_of(state: TensorDict) -> list[Past]:
    """The frames before the newest, shared by all plans."""
    if "keys" not in state:
        return []
    both = (state[name][:, :, None].unbind(dim=1) for name in ("keys", "values"))
    return [list(zip(*both, strict=True))]


def stacked(past: Past) -> tuple[Tensor, Tensor]:
    """Keys and values [B, layers, heads, n, d] of frames that all plans share."""
    keys, values = (torch.stack(layers, dim=1)[:, :, 0] for layers in zip(*past, strict=True))
    return keys, values
