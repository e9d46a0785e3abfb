"""One import package: `datasets` and the other rooms never reach the user's site-packages."""

import configparser
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("datasets", "probes", "planning", "recipes")

PIP_WHEEL = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
FOREIGN = "where = 'the other project'\n"
PROBE = (
    "import datasets, jepa.datasets.images, jepa.probes.knn, jepa.planning.cem, jepa.recipes.cli;"
    "print(datasets.where, '|', jepa.__file__)"
)


def test_every_room_is_listed():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    assert listed == {"jepa", *(f"jepa.{room}" for room in ROOMS)}
    with_code = {path.parent.name for path in ROOT.glob("*/*.py")} - {"tests", "benchmarks"}
    assert with_code == {"jepa", *ROOMS}
    assert not list(ROOT.glob("datasets/__init__.py")) + list(ROOT.glob("recipes/__init__.py"))
    nested = [p for room in ROOMS for p in (ROOT / room).glob("*/*.py")]
    assert not nested, "sub-packages must be listed in setup.cfg"


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """A site folder with somebody else's package called `datasets`."""
    site = tmp_path_factory.mktemp("others")
    (site / "datasets").mkdir()
    (site / "datasets" / "__init__.py").write_text(FOREIGN)
    return site


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [*PIP_WHEEL, "--wheel-dir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (path,) = folder.glob("*.whl")
    return path


def run(paths, cwd):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    done = subprocess.run(
        [sys.executable, "-c", PROBE], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().split(" | ")


def test_from_the_checkout(others):
    """The current folder is first on the path and has a folder `datasets` without code of ours."""
    where, _ = run([others], ROOT)
    assert where == "the other project"


def test_editable_install_elsewhere(others, tmp_path):
    where, _ = run([others], tmp_path)
    assert where == "the other project"


def test_wheel(others, wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"jepa"}
    assert (tmp_path / "site/jepa/recipes/configs").is_dir()
    where, path = run([others, tmp_path / "site"], tmp_path)
    assert where == "the other project"
    assert Path(path).is_relative_to(tmp_path)


def test_the_architecture_lists_every_file():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for folder in ("jepa", *ROOMS, "benchmarks"):
        for path in (ROOT / folder).glob("*.py"):
            assert f"| `{path.name}` |" in text, f"{folder}/{path.name} is not in ARCHITECTURE.md"
