"""`elsewhere`, the device of device.cpp, for torch and for Lightning in this process."""

from __future__ import annotations

import os
import types

import torch
from lightning_fabric import connector as fabric
from lightning_fabric import strategies as fabric_strategies
from lightning_fabric.accelerators import ACCELERATOR_REGISTRY
from pytorch_lightning.accelerators import Accelerator, AcceleratorRegistry
from pytorch_lightning.strategies import SingleDeviceStrategy
from pytorch_lightning.trainer.connectors import accelerator_connector

torch.ops.load_library(os.environ["ELSEWHERE"])
torch.utils.rename_privateuse1_backend("elsewhere")
module = types.ModuleType("torch.elsewhere")
vars(module).update(
    is_available=lambda: True,
    device_count=lambda: 1,
    current_device=lambda: 0,
    set_device=lambda device: None,
    synchronize=lambda device=None: None,
    manual_seed_all=lambda seed: None,
    get_rng_state=lambda device=0: torch.zeros(1, dtype=torch.uint8),
    set_rng_state=lambda state, device=0: None,
    get_amp_supported_dtype=lambda: [torch.bfloat16],
    _is_in_bad_fork=lambda: False,
)
torch._register_device_module("elsewhere", module)
torch.utils.generate_methods_for_privateuse1_backend()

DEVICE = torch.device("elsewhere:0")


class Elsewhere(Accelerator):
    """One such device, for Lightning."""

    def setup_device(self, device):
        pass

    def teardown(self):
        pass

    def get_device_stats(self, device):
        return {}

    @staticmethod
    def parse_devices(devices):
        return [0]

    @staticmethod
    def get_parallel_devices(devices):
        return [DEVICE]

    @staticmethod
    def auto_device_count():
        return 1

    @staticmethod
    def is_available():
        return True

    @staticmethod
    def name():
        return "elsewhere"


for registry in (AcceleratorRegistry, ACCELERATOR_REGISTRY):
    registry.register("elsewhere", Elsewhere, description="for tests")
for connector, strategy in (
    (accelerator_connector._AcceleratorConnector, SingleDeviceStrategy),
    (fabric._Connector, fabric_strategies.SingleDeviceStrategy),
):

    def choose(self, usual=connector._choose_strategy, strategy=strategy):
        return strategy(DEVICE) if self._accelerator_flag == "elsewhere" else usual(self)

    connector._choose_strategy = choose
