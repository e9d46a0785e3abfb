"""Poses against scipy's rotations."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from jepa.planning.poses import angles, moved, rotation


def draw(*shape, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return scale * (2 * torch.rand(*shape, generator=generator, dtype=torch.float64) - 1)


def test_rotations_and_angles_are_scipys():
    given = draw(200, 3, scale=3.1) * torch.tensor([1.0, 0.5, 1.0])
    matrices = rotation(given)
    wanted = Rotation.from_euler("xyz", given.numpy())
    np.testing.assert_allclose(matrices, wanted.as_matrix(), atol=1e-14)
    np.testing.assert_allclose(angles(matrices), wanted.as_euler("xyz"), atol=1e-12)
    torch.testing.assert_close(angles(matrices), given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_poses_after_actions_are_scipys(dtype):
    poses, actions = draw(4, 50, 7, scale=3).to(dtype), draw(4, 50, 7, seed=1).to(dtype)
    found = moved(poses, actions).flatten(0, 1).double().numpy()
    old, change = poses.flatten(0, 1).double().numpy(), actions.flatten(0, 1).double().numpy()
    atol = 1e-12 if dtype == torch.float64 else 1e-5
    np.testing.assert_allclose(found[:, :3], old[:, :3] + change[:, :3], atol=atol)
    np.testing.assert_allclose(found[:, 6], np.clip(old[:, 6] + change[:, 6], 0, 1), atol=atol)
    turned = Rotation.from_euler("xyz", change[:, 3:6]) * Rotation.from_euler("xyz", old[:, 3:6])
    again = Rotation.from_euler("xyz", found[:, 3:6])
    assert (turned * again.inv()).magnitude().max() < atol
    level = np.cos(found[:, 4]) > 0.1  # angles are well conditioned away from a quarter turn
    assert level.sum() > 150
    away = found[:, 3:6] - turned.as_euler("xyz")
    assert np.abs((away[level] + np.pi) % (2 * np.pi) - np.pi).max() < 10 * atol


@pytest.mark.parametrize("pitch", [np.pi / 2, -np.pi / 2])
def test_at_a_quarter_turn_of_the_pitch_the_rotation_is_kept(pitch):
    given = torch.stack([draw(20), torch.full((20,), pitch).double(), draw(20, seed=1)], dim=1)
    kept = rotation(angles(rotation(given)))
    torch.testing.assert_close(kept, rotation(given), atol=1e-12, rtol=0)


def test_gradients_of_the_pose():
    poses, actions = draw(3, 7, scale=0.4), draw(3, 7, scale=0.4, seed=1)
    poses[:, 6] = 0.5
    actions.requires_grad_()
    assert torch.autograd.gradcheck(moved, (poses, actions))
