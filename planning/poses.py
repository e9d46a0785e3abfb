"""Poses of a robot's hand, and where actions move them: in torch, batched, on the device.

A pose is (x, y, z, roll, pitch, yaw, gripper): position in metres, angles in radians about the
fixed axes x, then y, then z (scipy's "xyz"), and how far the gripper is closed, in [0, 1]. An
action is the change of each, as in V-JEPA 2-AC (Assran et al. 2025, arXiv:2506.09985, section 3).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def moved(pose: Float[Tensor, "*B 7"], action: Float[Tensor, "*B 7"]) -> Float[Tensor, "*B 7"]:
    """The pose after an action: positions add up, rotations compose in the fixed frame
    (R' = dR R), and the gripper stays within [0, 1]."""
    turned = rotation(action[..., 3:6]) @ rotation(pose[..., 3:6])
    gripper = (pose[..., 6:] + action[..., 6:]).clamp(0, 1)
    return torch.cat([pose[..., :3] + action[..., :3], angles(turned), gripper], dim=-1)


def rotation(angles: Float[Tensor, "*B 3"]) -> Float[Tensor, "*B 3 3"]:
    """R_z(yaw) R_y(pitch) R_x(roll)."""
    (sx, sy, sz), (cx, cy, cz) = angles.sin().unbind(-1), angles.cos().unbind(-1)
    rows = [
        [cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx],
        [sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx],
        [-sy, cy * sx, cy * cx],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def angles(rotation: Float[Tensor, "*B 3 3"]) -> Float[Tensor, "*B 3"]:
    """The angles of `rotation`, the pitch within a quarter turn.

    At a pitch of a quarter turn roll and yaw are the same movement; all of it is given to yaw.
    """
    r = rotation
    level = torch.hypot(r[..., 0, 0], r[..., 1, 0])  # cosine of the pitch
    upright = level < 10 * torch.finfo(r.dtype).eps
    roll = torch.where(upright, 0.0, torch.atan2(r[..., 2, 1], r[..., 2, 2]))
    pitch = torch.atan2(-r[..., 2, 0], level)
    yaw = torch.where(
        upright,
        torch.atan2(-r[..., 0, 1], r[..., 1, 1]),
        torch.atan2(r[..., 1, 0], r[..., 0, 0]),
    )
    return torch.stack([roll, pitch, yaw], dim=-1)
