"""The precision of a run on processors with and without products of bfloat16."""

import warnings

import pytest

from jepa.recipes import hardware
from jepa.recipes.hardware import Hardware


@pytest.mark.parametrize(("able", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_auto_is_what_the_processor_is_fast_at(monkeypatch, able, expected):
    monkeypatch.setattr(hardware, "processor", lambda: {"avx512_bf16": able})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Hardware(accelerator="cpu").lightning_precision() == expected
        assert Hardware(accelerator="cpu", precision="float32").lightning_precision() == "32-true"


def test_bf16_on_a_processor_that_only_emulates_it_is_done_and_warned_of(monkeypatch):
    asked = Hardware(accelerator="cpu", precision="bf16")
    monkeypatch.setattr(hardware, "processor", lambda: {"avx2": True})
    with pytest.warns(UserWarning, match="use precision=auto or float32"):
        assert asked.lightning_precision() == "bf16-mixed"
    monkeypatch.setattr(hardware, "processor", lambda: {"amx_bf16": True})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert asked.lightning_precision() == "bf16-mixed"
