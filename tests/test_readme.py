"""Every command and snippet of the README runs as it stands there."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from jepa.recipes.commands import command
from jepa.recipes.parsing import parser_of, with_values

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


COMMAND_LINES = [
    line.partition("#")[0].strip() for block in blocks("sh") for line in block.splitlines()
]


def test_the_snippet_runs_and_prints_an_accuracy(capsys):
    (snippet,) = blocks("python")
    exec(compile(snippet, "README.md", "exec"), {})
    assert 0 < eval(capsys.readouterr().out)["value"] < 1


@pytest.mark.parametrize("line", [c for c in COMMAND_LINES if c.startswith("make")])
def test_make_commands_exist(line):
    done = subprocess.run(
        [*shlex.split(line), "--dry-run"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert ".venv/bin/" in done.stdout


@pytest.mark.parametrize("line", [c for c in COMMAND_LINES if c.startswith("jepa")])
def test_jepa_commands_parse(line, monkeypatch):
    """Parsed and typed as typed here; the recipes' own runs are tested in tests/recipes."""
    monkeypatch.chdir(ROOT)
    _, name, *arguments = shlex.split(line)
    if "--resume" not in arguments:
        parser_of(command(name)).parse_args(with_values(command(name), arguments))


def test_every_link_leads_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target


def test_no_other_kind_of_block_escapes_the_tests():
    assert set(re.findall(r"```(\w*)\n", README)) <= {"sh", "python", ""}
    assert all(c.startswith(("make", "jepa")) for c in COMMAND_LINES)
