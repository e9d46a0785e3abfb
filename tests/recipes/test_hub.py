"""The hub, as a server on this machine that keeps what is pushed and gives it back."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
import timm
import torch

from jepa.checkpoint import from_pretrained, load_frozen_encoder, push_to_hub, save_encoder
from jepa.encoder import VisionTransformer
from jepa.frozen import FrozenEncoder
from jepa.hub import fetched, pushed
from jepa.recipes.cli import main
from jepa.timm_layout import write_timm
from jepa.transformers_write import write_transformers

SHA = "a" * 40


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's protocol as small files need."""

    repositories: dict[str, dict[str, bytes]]
    asked: list[str]

    def log_message(self, *_):
        pass

    def answer(self, content, status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        address = f"http://{self.headers['Host']}"
        if path == "/api/validate-yaml":  # of the model card
            self.answer({"errors": [], "warnings": []})
            return
        if path == "/api/repos/create":
            told = json.loads(body)
            name = "/".join(filter(None, (told.get("organization"), told["name"])))
            self.repositories.setdefault(name, {})
            self.answer({"url": f"{address}/{name}", "name": name, "id": name})
            return
        name = "/".join(path.split("/")[3:5])
        if "/preupload/" in path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            self.answer({"files": files})
        elif "/commit/" in path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = entry["value"]
                    content = base64.b64decode(value["content"])
                    self.repositories[name][value["path"]] = content
            self.answer(
                {"commitUrl": f"{address}/{name}/commit/{SHA}", "commitOid": SHA, "success": True}
            )
        else:
            self.answer({"error": path}, 404)

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.asked.append(path)
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"] and "/".join(parts[2:4]) in self.repositories:
            files = self.repositories["/".join(parts[2:4])]
            listed = [{"rfilename": name} for name in files]
            if "tree" in parts:
                listed = [
                    {"type": "file", "path": n, "size": len(c), "oid": SHA}
                    for n, c in files.items()
                ]
                self.answer(listed)
            else:
                name = "/".join(parts[2:4])
                self.answer({"id": name, "sha": SHA, "siblings": listed, "private": False})
        elif len(parts) > 4 and parts[2] == "resolve" and "/".join(parts[:2]) in self.repositories:
            content = self.repositories["/".join(parts[:2])].get("/".join(parts[4:]))
            if content is None:
                self.answer({}, 404, X_Error_Code="EntryNotFound")
            else:
                tag = hashlib.sha1(content).hexdigest()
                self.answer(content, ETag=f'"{tag}"', X_Repo_Commit=SHA)
        else:
            self.answer({"error": "no"}, 404, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET  # noqa: N815


@pytest.fixture
def hub(monkeypatch, tmp_path):
    Hub.repositories, Hub.asked = {}, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    constants = huggingface_hub.constants
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "nobody")
    yield Hub
    server.shutdown()
    server.server_close()


@pytest.fixture
def frozen():
    torch.manual_seed(0)
    sizes = {"image_size": 16, "patch_size": 8, "dim": 24, "depth": 1, "heads": 2}
    return FrozenEncoder(VisionTransformer(**sizes), mean=(0.5,) * 3, std=(0.2,) * 3)


def test_pushed_and_had_again_without_code(hub, frozen):
    push_to_hub(frozen, "somebody/tiny", licence="mit")
    files = hub.repositories["somebody/tiny"]
    assert {"encoder.safetensors", "config.json", "README.md"} <= files.keys()
    assert b"license: mit" in files["README.md"]
    files["harmful.py"] = b"raise SystemExit"
    assert from_pretrained("somebody/tiny").fingerprint() == frozen.fingerprint()
    assert load_frozen_encoder("hf-hub:somebody/tiny").fingerprint() == frozen.fingerprint()
    assert not any("harmful" in path for path in hub.asked)


def test_an_export_is_pushed_without_its_own_configuration(hub, frozen, tmp_path, capsys):
    path, out = save_encoder(tmp_path / "encoder.safetensors", frozen), tmp_path / "out"
    assert main(["export", str(path), f"--out={out}", "--push=somebody/exported"]) == 0
    assert "uploaded: http" in capsys.readouterr().out
    assert "config.yaml" not in hub.repositories["somebody/exported"]
    assert from_pretrained("somebody/exported").fingerprint() == frozen.fingerprint()


def test_a_timm_repository_is_ours_if_it_fits(hub, frozen, tmp_path):
    pushed(write_timm(tmp_path / "timm", frozen), "somebody/vit")
    found = load_frozen_encoder("hf-hub:somebody/vit")
    assert isinstance(found.encoder, VisionTransformer)
    assert found.fingerprint() == frozen.fingerprint()
    assert timm.create_model("hf-hub:somebody/vit", pretrained=True).num_features == 24


def test_a_transformers_repository(hub, frozen, tmp_path):
    pushed(write_transformers(tmp_path / "theirs", frozen), "somebody/theirs")
    found = load_frozen_encoder("hf-hub:somebody/theirs@main")
    assert found.fingerprint() == frozen.fingerprint()


def test_what_is_not_there_is_said(hub):
    with pytest.raises(ValueError, match="cannot fetch hf-hub:nobody/nothing"):
        fetched("nobody/nothing")
    with pytest.raises(ValueError, match="cannot fetch hf-hub:not a name"):
        from_pretrained("not a name")
