"""Accelerators: a device that torch keeps apart from the processor, as it does theirs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


def test_all_works_on_a_device_that_is_not_the_processor(tmp_path):
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        pytest.skip("needs a compiler for C++ (c++, or what CXX says)")
    library, installed = tmp_path / "elsewhere.so", Path(torch.__file__).parent
    folders = [installed / "include", installed / "include" / "torch" / "csrc" / "api" / "include"]
    built = subprocess.run(
        [
            *(compiler, "-std=c++20", "-O0", "-shared", "-fPIC", "-DAT_PER_OPERATOR_HEADERS"),
            str(HERE / "device.cpp"),
            *(f"-I{folder}" for folder in folders),
            *(f"-L{installed / 'lib'}", "-ltorch_cpu", "-lc10", "-o", str(library)),
        ],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider"),
            *sorted(HERE.glob("cases_*.py")),
        ],
        cwd=HERE,
        env=os.environ | {"ELSEWHERE": str(library)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout
