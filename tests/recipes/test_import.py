"""`jepa import`: every official file through the function and the command, to 1e-5, or refused."""

import json
import zipfile
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from jepa.checkpoint import load_frozen_encoder
from jepa.files import load_tensors_only, read_safetensors, sha256
from jepa.keys import MisfitError
from jepa.recipes.cli import main
from jepa.recipes.importing import import_weights, load_classifier, load_predictor

FIXTURES = Path(__file__).parents[1] / "fixtures"
SIZES = {"heads": 2, "predictor_heads": 2, "frames": 4, "image_size": 32}
VIDEOS = ("vjepa", "vjepa2", "vjepa2_sincos")
CHECKPOINTS = ("ijepa", *VIDEOS, "vjepa2_ac")


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def by_function(path, tmp_path, **options):
    found = import_weights(path, **SIZES, **options)
    return found.encoder.encoder, found.predictor


def by_command(path, tmp_path, **options):
    out = tmp_path / f"out_{options.get('which', '')}"
    typed = [f"--{key}={value}" for key, value in (SIZES | options).items()]
    assert main(["import", str(path), f"--out={out}", *typed]) == 0
    return load_frozen_encoder(out).encoder, load_predictor(out)


WAYS = pytest.mark.parametrize("read", [by_function, by_command])


@WAYS
@torch.no_grad()
def test_ijepa(read, tmp_path):
    io, path = load_file(FIXTURES / "ijepa_io.safetensors"), FIXTURES / "ijepa_checkpoint.pt"
    encoder, predictor = read(path, tmp_path, which="encoder")
    target, _ = read(path, tmp_path)  # by default
    close(encoder(io["images"]), io["encoder_full"])
    context = encoder(io["images"], io["context_idx"])
    close(context, io["encoder_context"])
    predicted = predictor(context, io["context_idx"], io["target_idx"], encoder.native_grid)
    close(predicted, io["predicted"])
    whole = torch.nn.functional.layer_norm(target(io["images"]), (64,))
    wanted = torch.stack([whole[i, io["target_idx"][i]] for i in range(len(whole))])
    close(wanted, io["target_normed"])
    close(torch.nn.functional.smooth_l1_loss(predicted, wanted), io["loss"])


@WAYS
@pytest.mark.parametrize("name", VIDEOS)
@torch.no_grad()
def test_video(read, name, tmp_path):
    io, path = load_file(FIXTURES / f"{name}_io.safetensors"), FIXTURES / f"{name}_checkpoint.pt"
    encoder, predictor = read(path, tmp_path, which="encoder")
    target, _ = read(path, tmp_path)
    video, losses = io["video"], []
    close(encoder(video), io["encoder_full"])
    whole = torch.nn.functional.layer_norm(target(video), (64,))
    close(whole, io["target_normed"])
    for i in (0, 1):
        index, wanted = io[f"context_idx_{i}"], io[f"target_idx_{i}"]
        context = encoder(video, index)
        close(context, io[f"encoder_context_{i}"])
        predicted = predictor(context, index, wanted[:, None], encoder.native_grid, group=i)[:, 0]
        close(predicted, io[f"predicted_{i}"])
        there = whole.gather(1, wanted[..., None].expand_as(predicted))
        losses.append((predicted - there).abs().mean())
    close(sum(losses) / 2, io["loss"])
    if name == "vjepa2":
        close(encoder(video[:, :, :2]), io["encoder_full_other_length"])


@WAYS
@torch.no_grad()
def test_action_conditioned(read, tmp_path):
    io = load_file(FIXTURES / "vjepa2_ac_io.safetensors")
    encoder, predictor = read(FIXTURES / "vjepa2_ac_checkpoint.pt", tmp_path)
    frames = torch.nn.functional.layer_norm(encoder(io["frames"]), (64,))
    close(frames, io["frame_tokens"])
    tokens = io["context_tokens"].unflatten(1, (4, 16))
    for length, key in ((4, "predicted"), (2, "predicted_prefix")):
        given = (io[name][:, :length] for name in ("actions", "states"))
        close(predictor(tokens[:, :length], *given).flatten(1, 2), io[key])


@pytest.mark.parametrize("name", VIDEOS)
@torch.no_grad()
def test_classifiers(name, tmp_path):
    io, path = load_file(FIXTURES / f"{name}_io.safetensors"), FIXTURES / f"{name}_classifier.pt"
    close(import_weights(path, heads=2).classifier(io["encoder_full"]), io["classifier_logits"])
    assert main(["import", str(path), "--heads=2", f"--out={tmp_path / 'out'}"]) == 0
    close(load_classifier(tmp_path / "out")(io["encoder_full"]), io["classifier_logits"])


def test_every_key_has_its_fate_and_every_file_its_hash(tmp_path):
    """The released V-JEPA 2 files hold a table of positions that their model has no place for."""
    checkpoint = torch.load(FIXTURES / "vjepa2_checkpoint.pt", weights_only=True)
    checkpoint["target_encoder"]["module.backbone.pos_embed"] = torch.zeros(1, 32, 64)
    path, out = tmp_path / "released.pt", tmp_path / "out"
    torch.save(checkpoint, path)
    typed = [f"--{key}={value}" for key, value in SIZES.items()]
    assert main(["import", str(path), f"--out={out}", *typed]) == 0
    told = json.loads((out / "import.json").read_text())
    assert told["sha256"] == {"released.pt": sha256(path)}
    fates = {row["key"]: (row["fate"], row["note"]) for row in told["keys"]}
    for part in ("target_encoder", "predictor"):
        assert {f"{part}/{key}" for key in checkpoint[part]} <= fates.keys()
    assert {*checkpoint} - {"target_encoder", "predictor"} <= fates.keys()
    norm = "target_encoder/module.backbone.norm.bias"
    assert fates[norm] == ("loaded", "norm.bias")
    dropped = fates["target_encoder/module.backbone.pos_embed"]
    assert dropped[0] == "dropped"
    assert "rotary" in dropped[1]
    assert fates["encoder"][1].startswith("another encoder was asked for")


def test_the_encoder_that_is_asked_for_is_taken(tmp_path):
    checkpoint = torch.load(FIXTURES / "vjepa2_checkpoint.pt", weights_only=True)
    checkpoint["ema_encoder"] = checkpoint.pop("target_encoder")
    torch.save(checkpoint, tmp_path / "renamed.pt")
    path = FIXTURES / "vjepa2_checkpoint.pt"
    slow, trained = (
        import_weights(path, which=which, **SIZES).encoder.fingerprint()
        for which in ("target_encoder", "encoder")
    )
    found = import_weights(tmp_path / "renamed.pt", which="ema_encoder", **SIZES)
    assert found.encoder.fingerprint() == slow != trained
    with pytest.raises(ValueError, match="no 'target_encoder' in it, but only"):
        import_weights(tmp_path / "renamed.pt", **SIZES)


class Payload:
    def __reduce__(self):
        return (print, ("this must never run",))


FILES = [f"{name}_checkpoint" for name in CHECKPOINTS] + [f"{name}_classifier" for name in VIDEOS]


def changed(file, tmp_path, change):
    """A copy of a fixture after `change` of its encoder or classifier, and all that it holds."""
    checkpoint = torch.load(FIXTURES / f"{file}.pt", weights_only=True)
    parts = checkpoint.get("classifiers") or [
        checkpoint.get("classifier", checkpoint.get("target_encoder"))
    ]
    change(parts[0], checkpoint)
    torch.save(checkpoint, tmp_path / "changed.pt")
    return tmp_path / "changed.pt"


def last(part):
    return list(part)[-1]


def without(part, _):
    part.pop(last(part))


def with_another(part, _):
    part[last(part).replace("bias", "extra")] = torch.zeros(1)


def misshapen(part, _):
    part[last(part)] = torch.zeros(7)


def with_code(part, checkpoint):
    checkpoint["opt"] = Payload()


DAMAGES = {
    "missing": (without, r"missing '(norm|linear)\.bias'"),
    "unexpected": (with_another, r"unexpected '(norm|linear)\.extra'"),
    "shape": (misshapen, r"'(norm|linear)\.bias' is \(7,\), expected \((64|5),\)"),
    "code": (with_code, "could run code"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_damaged_copies_are_refused_by_name(file, damage, tmp_path, capsys):
    change, message = DAMAGES[damage]
    path = changed(file, tmp_path, change)
    with pytest.raises(ValueError, match=message):
        import_weights(path, **SIZES)
    if damage in ("unexpected", "shape"):
        return  # the command goes the same way, and takes its time
    typed = [f"--{key}={value}" for key, value in SIZES.items()]
    assert main(["import", str(path), f"--out={tmp_path / 'out'}", *typed]) == 1
    printed = capsys.readouterr()
    assert "never run" not in printed.out + printed.err
    assert "changed.pt" in printed.err
    assert not list((tmp_path / "out").glob("*.safetensors"))


@pytest.mark.parametrize("file", FILES)
def test_truncated_files_are_refused(file, tmp_path):
    path = tmp_path / "half.pt"
    path.write_bytes((FIXTURES / f"{file}.pt").read_bytes()[:50_000])
    with pytest.raises(ValueError, match=r"half\.pt is damaged or no torch file"):
        import_weights(path, **SIZES)


@pytest.mark.parametrize("part", ["predictor", "encoder"])
def test_a_damaged_predictor_is_refused_and_the_other_encoder_is_not_looked_at(part, tmp_path):
    checkpoint = torch.load(FIXTURES / "vjepa2_checkpoint.pt", weights_only=True)
    checkpoint[part].pop(last(checkpoint[part]))
    torch.save(checkpoint, tmp_path / "damaged.pt")
    if part == "encoder":
        assert import_weights(tmp_path / "damaged.pt", **SIZES).encoder
    else:
        with pytest.raises(ValueError, match=r"predictor does not fit: missing 'predictor_proj"):
            import_weights(tmp_path / "damaged.pt", **SIZES)


def test_keys_named_by_the_user_may_be_missing_or_left_over(tmp_path):
    """What is missing then has the values of a fresh module, alike each time."""

    def change(part, _):
        part.pop("module.norm.bias")
        part["module.head.weight"] = torch.zeros(3)

    path = changed("ijepa_checkpoint", tmp_path, change)
    with pytest.raises(MisfitError) as caught:
        import_weights(path, heads=2, allow=("head.*",))
    assert [row.key for row in caught.value.table.of("missing")] == [
        "target_encoder/module.norm.bias"
    ]
    found = [import_weights(path, heads=2, allow=("head.*", "norm.bias")) for _ in range(2)]
    assert found[0].encoder.fingerprint() == found[1].encoder.fingerprint()
    assert found[0].table.of("missing", "unexpected")
    assert found[0].encoder.encoder.norm.bias.abs().sum() == 0


def test_a_file_whose_content_is_larger_than_itself_is_refused(tmp_path):
    """Compressed records could be a thousand times larger than they seem."""
    path = tmp_path / "bomb.pt"
    with (
        zipfile.ZipFile(FIXTURES / "ijepa_checkpoint.pt") as whole,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for record in whole.infolist():
            packed.writestr(record.filename, whole.read(record))
    with pytest.raises(ValueError, match="compressed records"):
        load_tensors_only(path)


def test_a_header_that_claims_more_than_the_file_has_is_refused_before_allocation(tmp_path):
    out = tmp_path / "out"
    assert main(["import", str(FIXTURES / "ijepa_checkpoint.pt"), "--heads=2", f"--out={out}"]) == 0
    metadata, weights = read_safetensors(out / "encoder.safetensors")
    for key, value in (("dim", 2**24), ("depth", 2**40)):
        header = json.loads(metadata["encoder"])
        header["config"][key] = value
        save_file(weights, tmp_path / "liar.safetensors",
                  metadata=metadata | {"encoder": json.dumps(header)})  # fmt: skip
        with pytest.raises(ValueError, match=r"expected \(16777216|claims a depth"):
            load_frozen_encoder(tmp_path / "liar.safetensors")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ijepa_checkpoint.pt"], "heads="),
        (["vjepa2_checkpoint.pt", "--heads=2"], "predictor_heads="),
        (["vjepa2_ac_checkpoint.pt", "--heads=2"], "heads="),
        (["vjepa_checkpoint.pt", "--heads=2", "--only_encoder"], "frames="),
        (["vjepa2_checkpoint.pt", "--heads=2", "--which=ema_encoder"], "no 'ema_encoder' in it"),
        (["vjepa2_classifier.pt"], "heads="),
        (["vjepa2_classifier.pt", "--heads=2", "--classifier=1"], "holds 1 classifier"),
        (["nowhere.pt"], "no checkpoint at"),
    ],
)
def test_what_to_type_is_said(arguments, message, tmp_path, capsys):
    file, *rest = arguments
    assert main(["import", str(FIXTURES / file), f"--out={tmp_path / 'out'}", *rest]) == 1
    assert message in capsys.readouterr().err


def test_a_table_of_positions_without_a_predictor_is_asked_about(tmp_path):
    path = changed("vjepa_checkpoint", tmp_path, lambda _, whole: whole.pop("predictor"))
    with pytest.raises(ValueError, match="pass positions=sincos"):
        import_weights(path, **SIZES)
    assert import_weights(path, **SIZES, positions="sincos").predictor is None


@pytest.mark.parametrize(
    ("key", "message"),
    [("extra", "unexpected 'extra'"), ("norm.bias", "with and without 'module.'")],
)
def test_a_key_without_the_others_prefix_is_named(key, message, tmp_path):
    path = changed("ijepa_checkpoint", tmp_path, lambda part, _: part.update({key: torch.ones(64)}))
    with pytest.raises(ValueError, match=message):
        import_weights(path, heads=2)


def test_what_a_source_tells_itself_is_not_to_be_given(tmp_path, capsys):
    path, out = FIXTURES / "ijepa_checkpoint.pt", tmp_path / "ours"
    assert main(["import", str(path), "--heads=2", f"--out={out}"]) == 0
    again = tmp_path / "again"
    assert main(["import", str(out), "--heads=2", f"--out={again}"]) == 1
    assert "tells its ['heads'] itself" in capsys.readouterr().err
    assert main(["import", str(out), f"--out={again}"]) == 0
    assert load_frozen_encoder(again).fingerprint() == load_frozen_encoder(out).fingerprint()


def test_a_timm_model_by_name_and_by_its_bare_weights(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("test_vit")
    save_file(model.state_dict(), tmp_path / "theirs.safetensors")
    for source, *more in (
        ("test_vit", "--pretrained=false"),
        (str(tmp_path / "theirs.safetensors"), "--architecture=test_vit"),
    ):
        out = tmp_path / Path(source).stem
        assert main(["import", source, f"--out={out}", *more]) == 0
        told = json.loads((out / "import.json").read_text())
        assert {row["fate"] for row in told["keys"]} <= {"loaded", "dropped"}
        assert len(told["keys"]) >= len(model.state_dict()) - 2
    frozen = load_frozen_encoder(tmp_path / "theirs")
    pixels = torch.rand(1, 3, 160, 160)
    with torch.no_grad():
        close(frozen(pixels), model.eval().forward_features(frozen.normalize(pixels))[:, 1:])


def of_epic_kitchens(tmp_path, questions):
    """V-JEPA 2's classifier with a query and a linear layer for each question, and the heads of
    one query, equal to the reference's, that it is made of."""
    part = torch.load(FIXTURES / "vjepa2_classifier.pt", weights_only=True)["classifiers"][0]
    random = torch.Generator().manual_seed(0)
    query, linear = "module.pooler.query_tokens", "module.linear."
    heads, together = {}, {k: v for k, v in part.items() if linear not in k}
    for number, question in enumerate(questions):
        own = {query: torch.randn(1, 1, 64, generator=random)}
        own[linear + "weight"] = torch.randn(3 + number, 64, generator=random)
        own[linear + "bias"] = torch.randn(3 + number, generator=random)
        torch.save({"classifiers": [part | own]}, tmp_path / "one.pt")
        heads[question] = import_weights(tmp_path / "one.pt", heads=2).classifier
        before = together[query] if number else torch.empty(1, 0, 64)
        together[query] = torch.cat([before, own[query]], dim=1)
        for kind in ("weight", "bias"):
            together[f"module.{question}_classifier.{kind}"] = own[linear + kind]
    torch.save({"classifiers": [together]}, tmp_path / "kitchen.pt")
    return tmp_path / "kitchen.pt", heads


@pytest.mark.parametrize("questions", [("verb", "noun", "action"), ("action",)])
@torch.no_grad()
def test_a_classifier_of_several_queries_is_as_many_of_one(questions, tmp_path):
    path, heads = of_epic_kitchens(tmp_path, questions)
    tokens = load_file(FIXTURES / "vjepa2_io.safetensors")["encoder_full"]
    assert main(["import", str(path), "--heads=2", f"--out={tmp_path / 'out'}"]) == 0
    for found in (import_weights(path, heads=2).classifier, load_classifier(tmp_path / "out")):
        said = found(tokens)
        assert list(said) == list(questions)
        for question, head in heads.items():
            close(said[question], head(tokens))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"module.noun_classifier.weight": None}, r"missing 'noun_classifier\.weight'"),
        ({"module.pooler.query_tokens": torch.ones(1, 2, 64)}, r"is \(1, 2, 64\), expected \(1, 3"),
        ({"module.linear.bias": torch.ones(3)}, r"unexpected 'linear\.bias'"),
    ],
)
def test_damaged_classifiers_of_several_queries_are_refused(damage, message, tmp_path):
    path, _ = of_epic_kitchens(tmp_path, ("verb", "noun", "action"))
    checkpoint = torch.load(path, weights_only=True)
    kept = (checkpoint["classifiers"][0] | damage).items()
    torch.save({"classifiers": [{k: v for k, v in kept if v is not None}]}, path)
    with pytest.raises(ValueError, match=message):
        import_weights(path, heads=2)


def test_vjepa_2_1_is_told_apart(tmp_path):
    def change(part, _):
        part["module.backbone.norms_block.0.weight"] = torch.ones(64)

    with pytest.raises(ValueError, match=r"of V-JEPA 2\.1"):
        import_weights(changed("vjepa2_checkpoint", tmp_path, change), **SIZES)
