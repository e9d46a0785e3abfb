"""The command: errors say what to type, a run folder is never overwritten, runs go on."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from jepa.checkpoint import load_frozen_encoder
from jepa.datasets.datamodule import ImageDataModule
from jepa.recipes.cli import main
from jepa.recipes.commands import COMMANDS, command, summary
from jepa.recipes.folder import claim, differences, stored_config
from jepa.recipes.parsing import parser_of
from jepa.recipes.pretrain import Online, online_probes

TINY = {
    "data": {"source": "photographs", "batch_size": 4, "image_size": 32},
    "encoder": {
        "image_size": 32,
        "patch_size": 8,
        "channels": 1,
        "dim": 16,
        "depth": 1,
        "heads": 2,
    },
    "predictor": {"dim": 16, "depth": 1, "heads": 2},
    "masks": {"min_keep": 4},
    "optimisation": {"steps": 3},
    "online": None,
    "probe": False,
    "log_every": 1,
}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


ABSENT = "mps" if torch.cuda.is_available() else "cuda"


def failing(capsys, *arguments):
    """Exit status and what was printed of a command that must fail before it starts."""
    try:
        status = main(arguments)
    except SystemExit as stop:
        status = stop.code
    printed = capsys.readouterr()
    return status, printed.err + printed.out


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--encoder.din=8"], "Did you mean encoder.dim?"),
        (["--encoder.dephts=2"], "Did you mean encoder.depth?"),
        (["--optimisation.stepz=2"], "Did you mean optimisation.steps?"),
        (["--mask.targets=2"], "Did you mean masks.targets?"),
        (["--sead=1"], "Did you mean seed?"),
        (["--predictor.dept=2"], "Did you mean predictor.depth?"),
    ],
)
def test_unknown_keys_are_refused_with_the_nearest(capsys, config, tmp_path, arguments, hint):
    status, printed = failing(
        capsys, "pretrain", "--config", str(config), "--out", str(tmp_path / "run"), *arguments
    )
    assert status == 2
    assert hint in printed
    assert not (tmp_path / "run").exists()


def test_unknown_keys_in_the_file_are_refused(capsys, tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(TINY | {"optimization": {"steps": 1}}))
    status, printed = failing(
        capsys, "pretrain", "--config", str(path), "--out", str(tmp_path / "r")
    )
    assert status == 2
    assert "Did you mean optimisation" in printed


def test_wrong_types_are_refused(capsys, config, tmp_path):
    status, printed = failing(
        capsys, "pretrain", "--config", str(config), "--out", str(tmp_path / "r"), "--seed=x"
    )
    assert status == 2
    assert "seed" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.source=photograph"], "photographs"),
        (["--data.source=folder:nowhere"], "nowhere"),
        (["--encoder.channels=3"], "--encoder.channels=1"),
        (["--init_from=nowhere.safetensors"], "no encoder at nowhere"),
        ([f"--hardware.accelerator={ABSENT}"], "torch does not find here: give cpu, or auto"),
        (["--hardware.accelerator=abacus"], "accelerator"),
        (["--data.workers=-1"], "workers are at least 0; got -1"),
    ],
)
def test_mistakes_are_told_before_the_first_step(capsys, config, tmp_path, arguments, message):
    status, printed = failing(
        capsys, "pretrain", "--config", str(config), "--out", str(tmp_path / "r"), *arguments
    )
    assert status == 1
    assert message in printed
    assert not (tmp_path / "r" / "last.ckpt").exists()


def test_unknown_command_lists_the_commands(capsys):
    status, printed = failing(capsys, "pretrian")
    assert status == 2
    assert "Did you mean pretrain?" in printed


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_for_every_option(capsys, name):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert f"jepa {name}" in printed


def test_overview_lists_every_command(capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    for name in COMMANDS:
        says = (inspect.getdoc(command(name)) or "").partition("\n")[0]
        assert says == summary(name)
        assert f"  {name:10}{says}\n" in printed


def test_overview_imports_nothing_that_takes_seconds():
    told = "import sys; from jepa.recipes.cli import main; main([]); main(['pretrian'])"
    seen = f"{told}; print('torch' in sys.modules, 'numpy' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True, check=True)
    assert "Did you mean pretrain?" in ran.stdout
    assert ran.stdout.endswith("False False\n")


def test_of_what_others_log_only_warnings_are_told():
    told = "import logging; from jepa.recipes.cli import quiet; quiet(); log = logging.getLogger"
    ours = "log('jepa.probes.tables').info('ours')"
    others = "log('faiss.loader').info('loading'); log('faiss.loader').warning('slow')"
    code = f"{told}; {others}; {ours}"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stderr == "WARNING faiss.loader: slow\nINFO jepa.probes.tables: ours\n"


def test_a_run_from_yaml_then_refused_then_resumed_and_extended_by_init_from(
    capsys, config, tmp_path
):
    out = tmp_path / "run"
    arguments = ["pretrain", "--config", str(config), "--out", str(out)]
    assert main(arguments) == 0
    encoder = load_frozen_encoder(out)
    assert encoder.dim == 16
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert rows
    status, printed = failing(capsys, *arguments)
    assert status == 1
    assert "--resume" in printed
    status, printed = failing(capsys, *arguments, "--resume", "--encoder.dim=32")
    assert status == 1
    assert "encoder.init_args.dim was 16, now 32" in printed
    before = encoder.fingerprint()
    assert main(["pretrain", "--out", str(out), "--resume"]) == 0
    assert load_frozen_encoder(out).fingerprint() == before
    other = tmp_path / "other"
    status = main(
        ["pretrain", "--config", str(config), "--out", str(other), f"--init_from={out}", "--seed=1"]
    )
    assert status == 0
    assert load_frozen_encoder(other).fingerprint() != before


def test_a_checkpoint_without_its_configuration_is_not_taken_up(capsys, config, tmp_path):
    """A killed run may leave a last.ckpt behind in a folder that was then removed."""
    out = tmp_path / "run"
    out.mkdir()
    (out / "last.ckpt").write_bytes(b"another run's")
    status, printed = failing(capsys, "pretrain", f"--config={config}", f"--out={out}", "--resume")
    assert status == 1
    assert "no run to go on with" in printed


def test_same_seed_same_weights_other_seed_other_weights(config, tmp_path):
    prints = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        torch.manual_seed(len(prints))
        out = tmp_path / name
        assert main(["pretrain", "--config", str(config), f"--out={out}", f"--seed={seed}"]) == 0
        prints.append(load_frozen_encoder(out).fingerprint())
    assert prints[0] == prints[1] != prints[2]


def test_a_run_that_is_not_there_is_not_gone_on_with(capsys, tmp_path):
    out = tmp_path / "mistyped"
    status, printed = failing(capsys, "pretrain", f"--out={out}", "--resume")
    assert status == 1
    assert f"no run to go on with in {out}: there is no {out / 'config.yaml'}" in printed


def test_a_folder_in_which_nothing_was_written_is_free(tmp_path):
    claim(tmp_path, resume=False, config="a: 1")
    (tmp_path / "metrics.jsonl").touch()
    claim(tmp_path, resume=False, config="a: 2")
    assert (tmp_path / "config.yaml").read_text() == "a: 2"
    (tmp_path / "metrics.jsonl").write_text("{}")
    with pytest.raises(FileExistsError, match="is not empty"):
        claim(tmp_path, resume=False, config="a: 3")


@pytest.mark.parametrize(
    ("count", "sizes"), [(2, (1, 1)), (40, (29, 11)), (6999, (4999, 2000)), (7001, (5000, 2000))]
)
def test_of_few_images_fewer_are_kept_for_online_probes(count, sizes):
    data = FewImages(count)
    probes = online_probes(data, Online())
    assert (len(probes.bank_loader), len(probes.held_out_loader)) == sizes
    both = torch.cat([probes.bank_loader, probes.held_out_loader])
    assert len(both.unique()) == len(both)


def test_one_image_cannot_be_probed():
    with pytest.raises(ValueError, match=r"1 training images of few, .* --online=null"):
        online_probes(FewImages(1), Online())


class FewImages(ImageDataModule):
    """What `online_probes` asks for, of so many images; loaders are the rows themselves."""

    groups = None

    def __init__(self, count):
        super().__init__(source="few", batch_size=1)
        self.count = count

    def __len__(self):
        return self.count

    def images(self, split):
        return self

    def draw(self, split, most, name):
        return torch.randperm(self.count)

    def evaluation_loader(self, split, rows):
        return rows

    def views_loader(self, rows, views):
        return rows


def test_differences_name_dotted_keys():
    assert differences("a: {b: 1, c: 2}\nresume: false", "a: {b: 1, c: 3}\nresume: true") == [
        "a.c was 2, now 3"
    ]


def test_stored_config_is_found_for_both_spellings(tmp_path):
    assert stored_config(["--out", str(tmp_path)]) == []
    (tmp_path / "config.yaml").write_text("seed: 1")
    wanted = [f"--config={tmp_path / 'config.yaml'}"]
    assert stored_config(["--out", str(tmp_path)]) == stored_config([f"--out={tmp_path}"]) == wanted
    assert stored_config(["--resume", "--out"]) == []


def test_a_bare_folder_is_resumed_and_no_is_no(capsys, config, tmp_path):
    out = str(tmp_path / "run")
    assert main(["pretrain", out, "--config", str(config)]) == 0
    assert main(["pretrain", out, "--resume"]) == 0, capsys.readouterr().err
    for no in (["--resume=false"], ["--resume", "false"], ["--resume", "--resume=no"]):
        status, printed = failing(capsys, "pretrain", out, "--config", str(config), *no)
        assert (status, "is not empty" in printed) == (1, True), printed


CONFIGS = sorted((Path(__file__).parents[2] / "recipes" / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_recipe_opens_with_its_promise_and_parses(path):
    """Paper, cost, expected number, baseline, exact command; the command names this file."""
    lines = path.read_text().splitlines()
    promise = "\n".join(line for line in lines if line.startswith("#"))
    for word in ("Paper:", "Cost:", "Expected:", "Baseline:", "Command:"):
        assert word in promise, f"{path.name} does not state its {word}"
    typed = promise.split("Command:")[1].strip().split("\n")[0].removeprefix("#").split()
    assert typed[0] == "jepa"
    assert f"recipes/configs/{path.name}" in typed
    arguments = [a for a in typed[2:] if a not in ("--config", f"recipes/configs/{path.name}")]
    parser_of(command(typed[1])).parse_args(["--config", str(path), *arguments])
