"""Which frames make a clip, against brute force."""

import numpy as np
import pytest

from jepa.datasets.clip_times import ClipTimes, nearest


@pytest.mark.parametrize("frames", [1, 16, 64])
@pytest.mark.parametrize("step", [1, 4])
@pytest.mark.parametrize("n", [300, 253, 64, 16, 5, 1])
def test_steps(frames, step, n):
    times = ClipTimes(frames, step=step)
    seconds = np.arange(n) / 30
    span = (frames - 1) * step
    for position in (0.0, 0.3, 1.0):
        picked = times.pick(seconds, position)
        start = round(position * (n - 1 - span)) if n > span else 0
        assert picked.tolist() == [min(start + i * step, n - 1) for i in range(frames)]
    if n > span:
        assert times.pick(seconds, 0.0)[0] == 0
        assert times.pick(seconds, 1.0)[-1] == n - 1


def test_every_start_is_reached_about_equally_often():
    times, seconds = ClipTimes(4, step=2), np.arange(11.0)
    positions = np.linspace(0, 1, 4001)
    starts = [times.pick(seconds, position)[0] for position in positions]
    assert set(starts) == set(range(5))


@pytest.mark.parametrize("fps", [2.0, 7.5, 30.0, 75.0])
@pytest.mark.parametrize("even", [True, False])
def test_frames_per_second_are_the_nearest_in_time(fps, even):
    draw = np.random.default_rng(0)
    seconds = np.arange(200) / 25 if even else np.cumsum(draw.uniform(0.01, 0.1, 200))
    times = ClipTimes(8, fps=fps)
    for position in (0.0, 0.5, 1.0):
        picked = times.pick(seconds, position)
        slack = max(seconds[-1] - seconds[0] - 7 / fps, 0)
        wanted = seconds[0] + position * slack + np.arange(8) / fps
        assert picked.tolist() == [int(np.abs(seconds - t).round(9).argmin()) for t in wanted]


def test_a_tie_goes_to_the_earlier_frame():
    assert nearest(np.array([0.0, 1.0, 2.0]), np.array([0.5, 1.5, 9.0])).tolist() == [0, 1, 2]
    assert nearest(np.array([3.0]), np.array([0.0, 9.0])).tolist() == [0, 0]


@pytest.mark.parametrize(("rate", "fps"), [(10, 5.0), (30, 10.0), (30, 5.0), (25, 5.0)])
def test_frames_of_a_constant_rate_are_evenly_spaced(rate, fps):
    for n in range(100, 200):
        for seconds in (np.arange(n) / rate, np.arange(n) * (1 / rate) + 3600.1):
            picked = ClipTimes(16, fps=fps).pick(seconds, 0.5)
            assert set(np.diff(picked).tolist()) == {rate / fps}
    assert ClipTimes(4, fps=5.0).pick(np.arange(20) * 0.1, 0.5).tolist() == [6, 8, 10, 12]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give either step=4"),
        ({"step": 4, "fps": 8.0}, "give either step=4"),
        ({"step": 0}, "step is at least 1"),
        ({"fps": 0.0}, "fps above 0"),
        ({"frames": 0, "step": 1}, "at least one frame"),
    ],
)
def test_nonsense_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ClipTimes(**settings)


def test_a_position_outside_is_refused():
    with pytest.raises(ValueError, match=r"in \[0, 1\]; got 1.5"):
        ClipTimes(4, step=1).pick(np.arange(9.0), 1.5)
