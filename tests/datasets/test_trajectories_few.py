"""Too few windows for a batch are told, not trained on silently."""

import numpy as np
import pytest

from jepa.datasets.trajectories import Windows, window_loader


def test_fewer_windows_than_a_batch_are_refused():
    shard = {"observations": np.zeros((2, 9, 3)), "actions": np.zeros((2, 8, 1))}
    windows = Windows([shard], length=8)
    with pytest.raises(ValueError, match="2 windows of 8 actions do not fill one batch of 4"):
        window_loader(windows, batch_size=4, seed=0)
    assert len(window_loader(windows, batch_size=4)) == 1
