"""Files of other runtimes from strangers: no code of theirs runs, nothing outside is read, no endless memory goes."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from convneur.export import export_model, load_exported, onnx_file, open_model
from tests.cli.test_cli import call
from tests.export.builders import ONE_STAGE, metadata_of, small
from tests.hostile.exported import SIZE, WEIGHT, Touch, onnx_model, poisoned, right, write_onnx, write_openvino

SAMPLE_INPUTS = ("sample_inputs/model.pt", "serialized_example_inputs.pt")  # the second in files of torch 2.6
IMAGES = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def refused(path: Path, **arguments: Any) -> str:
    with pytest.raises((ValueError, OSError)) as caught:
        load_exported(path, **arguments)
    line = str(caught.value)
    assert "\n" not in line
    assert str(path) in line
    return line


@pytest.fixture(scope="module")
def evil(tmp_path_factory) -> tuple[Path, Path]:
    """A ``.pt2`` with a pickle where its sample inputs are, and the file that shows that the pickle was read."""
    folder = tmp_path_factory.mktemp("evil")
    model = small(**ONE_STAGE)
    good, marker = folder / "good.pt2", folder / "code-was-run"
    export_model(model, good, metadata_of(model))
    pickled = io.BytesIO()
    torch.save(((Touch(marker),), {}), pickled)
    return poisoned(good, folder / "evil.pt2", SAMPLE_INPUTS, pickled.getvalue()), marker


@pytest.fixture
def photo(tmp_path) -> Path:
    file = tmp_path / "photos" / "one" / "photo.png"
    file.parent.mkdir(parents=True)
    Image.new("RGB", (40, 40), "red").save(file)
    return file


@pytest.mark.slow
def test_the_file_that_is_refused_below_does_run_code(evil, tmp_path):
    file, marker = evil
    with contextlib.suppress(ValueError):  # what the pickle gives is no sample input
        load_exported(file, trust=True)
    assert marker.exists(), "else the tests of its refusal show nothing"
    marker.unlink()


def test_a_file_that_export_wrote_needs_no_trust_to_be_checked_and_trust_to_be_loaded(evil):
    good = evil[0].with_name("good.pt2")
    assert load_exported(good, trust=True).config["num_classes"] == 5
    for load in (load_exported, open_model):
        with pytest.raises(ValueError, match=r"good\.pt2 was not opened.* add trust=True if .* ONNX .* OpenVINO"):
            load(good)


VERBS = {
    "predict": ["predict", "{photo}", "--model", "{model}"],
    "eval": ["eval", "--model", "{model}", "--data", "{data}", "--out", "{out}"],
    "explain": ["explain", "{photo}", "--model", "{model}", "--out", "{out}"],
    "embed": ["embed", "{data}", "--model", "{model}", "--out", "{out}"],
    "stream": ["stream", "{photo}", "--model", "{model}", "--out", "{out}"],
    "export": ["export", "{model}", "--out", "{out}/model.onnx"],
    "push": ["push", "{model}", "user/name"],
    "bench": ["bench", "latency", "{model}", "--out", "{out}"],
    "train": ["train", "--data", "{data}", "--weights", "{model}", "--out", "{out}"],
    "train segmentation": ["train", "segmentation", "--data", "{data}", "--weights", "{model}", "--out", "{out}"],
    "train detection": ["train", "detection", "--data", "{data}", "--weights", "{model}", "--out", "{out}"],
}


@pytest.mark.parametrize("name", ["evil.pt2", "evil.aoti.pt2"])
@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_opens_it_unasked(verb, name, evil, photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = shutil.copy(evil[0], tmp_path / name)
    places = {"photo": photo, "data": photo.parents[1], "model": model, "out": tmp_path / "out"}
    code, out, err = call(*(each.format(**places) for each in VERBS[verb]))
    assert (code, out) == (2, ""), err
    assert "Traceback" not in err
    assert not evil[1].exists()
    assert not list(tmp_path.rglob("model.onnx"))
    if verb in ("predict", "eval"):
        assert len(err.strip().splitlines()) == 1
        assert "--trust" in err


@pytest.mark.parametrize("name", ["evil.onnx", "evil.xml", "evil.zip", "evil.ckpt", "evil.pt", "evil.PT2", "evil"])
def test_another_suffix_does_not_open_it_either(name, evil, photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = shutil.copy(evil[0], tmp_path / name)
    (tmp_path / "evil.bin").write_bytes(b"weights")
    for arguments in (VERBS["predict"], [*VERBS["predict"], "--trust"], VERBS["train"]):
        places = {"photo": photo, "data": photo.parents[1], "model": model, "out": tmp_path / "out"}
        code, _, err = call(*(each.format(**places) for each in arguments))
        assert code == 2
        assert "Traceback" not in err
        assert not evil[1].exists()


def test_what_is_no_file_is_said_without_waiting(tmp_path):
    for suffix in (".onnx", ".xml", ".pt2", ".aoti.pt2"):
        (tmp_path / f"folder{suffix}").mkdir()
        (tmp_path / f"empty{suffix}").touch()
        os.mkfifo(tmp_path / f"fifo{suffix}")
        for stem in ("folder", "empty", "fifo"):
            (tmp_path / f"{stem}.bin").write_bytes(b"weights")
        assert "is a folder; give a file that convneur export wrote" in refused(
            tmp_path / f"folder{suffix}", trust=True
        )
        assert "is a pipe" in refused(tmp_path / f"fifo{suffix}", trust=True)
        assert "is empty" in refused(tmp_path / f"empty{suffix}", trust=True)


@pytest.mark.parametrize("content", [b"hello\n", b"<net/>", b"\x80\x04\x95", b"PK\x03\x04" + bytes(60), b"\xff" * 1000])
@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_what_is_something_else(suffix, content, tmp_path):
    (tmp_path / "model.bin").write_bytes(b"weights")
    file = tmp_path / f"model{suffix}"
    file.write_bytes(content)
    assert "cannot be loaded" in refused(file)


def test_the_small_models_answer(tmp_path):
    for file in (write_onnx(tmp_path / "model.onnx"), write_openvino(tmp_path / "model.xml")):
        np.testing.assert_allclose(load_exported(file).model(IMAGES), right(IMAGES), rtol=1e-5)


def external(location: str, **told: int) -> Any:
    """A model whose weights are in another file."""
    model = onnx_model()
    weight = next(each for each in model.graph.initializer if each.name == "weight")
    weight.ClearField("raw_data")
    weight.data_location = 1
    for key, value in {"location": location, **told}.items():
        weight.external_data.add(key=key, value=str(value))
    return model


def test_weights_beside_an_onnx_file_are_read(tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "all.bin").write_bytes(bytes(8) + WEIGHT.tobytes())
    file = write_onnx(tmp_path / "model.onnx", external("weights/all.bin", offset=8, length=WEIGHT.nbytes))
    np.testing.assert_allclose(load_exported(file).model(IMAGES), right(IMAGES), rtol=1e-5)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("../outside.bin", "outside its folder, at '../outside.bin'"),
        ("{outside}", "outside its folder, at"),
        ("within/../../outside.bin", "outside its folder"),
        ("link.bin", "outside its folder, at 'link.bin'"),
        ("linked/outside.bin", "outside its folder, at 'linked/outside.bin'"),
        ("/dev/zero", "outside its folder, at '/dev/zero'"),
        ("loop.bin", "loop.bin"),
        ("", "outside its folder, at ''"),
        (".", "no file beside it"),
        ("fifo", "no file beside it"),
        ("not-there.bin", "no file beside it"),
    ],
)
def test_weights_elsewhere_are_not_read(location, message, tmp_path):
    folder, outside = tmp_path / "model", tmp_path / "outside.bin"
    (folder / "within").mkdir(parents=True)
    outside.write_bytes(WEIGHT.tobytes())
    (folder / "link.bin").symlink_to(outside)
    (folder / "linked").symlink_to(tmp_path)
    (folder / "loop.bin").symlink_to("loop.bin")
    os.mkfifo(folder / "fifo")
    assert message in refused(write_onnx(folder / "model.onnx", external(location.format(outside=outside))))


@pytest.mark.parametrize(
    "told", [{"offset": 1 << 62}, {"offset": -8}, {"length": 1 << 60}, {"length": -1}, {"offset": 40, "length": 48}]
)
def test_weights_beyond_the_end_of_their_file(told, tmp_path):
    (tmp_path / "all.bin").write_bytes(WEIGHT.tobytes())
    assert "has bytes" in refused(write_onnx(tmp_path / "model.onnx", external("all.bin", **told)))


def hostile_onnx() -> dict[str, Any]:
    """Models by what is wrong with them."""
    helper = pytest.importorskip("onnx").helper
    from onnx import numpy_helper

    def zeros(size: int) -> Any:
        made = [
            helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
            helper.make_node("ReduceSum", ["zeros", "first"], ["nothing"], keepdims=0),
            helper.make_node("Add", ["real", "nothing"], ["logits"]),
        ]
        return onnx_model(made, {"size": np.array([size], np.int64), "first": np.array([0], np.int64)})

    def declared(*dims: int) -> Any:
        model = onnx_model()
        model.graph.initializer[1].dims[:] = dims
        return model

    def function(name: str, *inner: str) -> Any:
        names = ["x", *(f"x{index}" for index in range(len(inner) - 1)), "y"]
        nodes = [
            helper.make_node(kind, [names[index]], [names[index + 1]], domain="" if kind == "Neg" else "own")
            for index, kind in enumerate(inner)
        ]
        return helper.make_function("own", name, ["x"], ["y"], nodes, opsets)

    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    laughs = onnx_model([helper.make_node("f30", ["real"], ["logits"], domain="own")])
    laughs.opset_import.add(domain="own", version=1)
    laughs.functions.extend([function("f0", "Neg"), *(function(f"f{n}", *[f"f{n - 1}"] * 2) for n in range(1, 31))])
    custom = onnx_model([helper.make_node("Evil", ["real"], ["logits"], domain="evil")])
    custom.opset_import.add(domain="evil", version=1)
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["more"]), helper.make_node("Identity", ["x"], ["y"])],
        "body",
        [value("index", 7, []), value("on", 9, []), value("x", 1, None)],
        [value("more", 9, []), value("y", 1, None)],
    )
    times = {"times": np.array(1 << 62, np.int64), "on": np.array(True)}
    loop = onnx_model([helper.make_node("Loop", ["times", "on", "real"], ["logits"], body=body)], times)
    branch = helper.make_graph(list(loop.graph.node[-1:]), "branch", [], [value("logits", 1, None)])
    nested = onnx_model([helper.make_node("If", ["on"], ["logits"], then_branch=branch, else_branch=branch)], times)
    two = onnx_model()
    two.graph.input.append(value("more", 1, [1]))
    both = onnx_model()
    both.graph.output.append(value("real", 1, None))
    sparse = onnx_model()
    sparse.graph.sparse_initializer.add(
        values=numpy_helper.from_array(np.ones(1, np.float32), "thin"),
        indices=numpy_helper.from_array(np.zeros(1, np.int64), "where"),
        dims=[1 << 40],
    )
    whole = onnx_model([helper.make_node("Cast", ["real"], ["logits"], to=7)])
    shape = onnx_model([helper.make_node("Shape", ["real"], ["logits"])])
    for each in (whole, shape):
        each.graph.output[0].type.tensor_type.elem_type = 7
    large = onnx_model(
        [
            helper.make_node("Constant", [], ["more"], value=helper.make_tensor("more", 1, [1], [0.0])),
            helper.make_node("Add", ["real", "more"], ["logits"]),
        ]
    )
    large.graph.node[-2].attribute[0].t.dims[:] = [1 << 40]
    return {
        "a tensor of 4 TB": (declared(1 << 40), "of shape 1099511627776"),
        "a tensor beyond all numbers": (declared(1 << 40, 1 << 40), "of which it holds"),
        "a negative side": (declared(-3, 4), "of shape -3 x 4"),
        "a constant of 4 TB": (large, "its tensor more is of shape"),
        "zeros of 4 TB": (zeros(1 << 40), "does not run at"),
        "zeros of 12 GB": (zeros(3 << 30), "does not run at"),
        "sparse": (sparse, "sparse weights"),
        "functions that call each other": (laughs, "a function of its own"),
        "an operation of its own": (custom, "evil"),
        "a loop": (loop, "a loop (Loop)"),
        "a loop in a branch": (nested, "a loop (Loop)"),
        "two inputs": (two, "one input and one output"),
        "two outputs": (both, "one input and one output"),
        "whole numbers": (whole, "torch.int64"),
        "a shape": (shape, "answers numbers of shape (2,)"),
    }


@pytest.mark.parametrize("what", hostile_onnx())
def test_what_an_onnx_file_may_not_do(what, tmp_path, capfd):
    model, message = hostile_onnx()[what]
    line = refused(write_onnx(tmp_path / "model.onnx", model))
    assert message in line
    assert capfd.readouterr() == ("", ""), "the line is all that is said"


def test_more_classes_than_it_answers_are_found_out_before_they_are_listed(tmp_path):
    model = onnx_model()
    for each in model.metadata_props:
        if each.key in ("num_classes", "labels"):
            each.value = {"num_classes": str(10**12), "labels": "null"}[each.key]
    assert "1000000000000" in refused(write_onnx(tmp_path / "model.onnx", model))


def test_memory_that_runs_out_later_is_one_line(tmp_path, monkeypatch):
    helper = pytest.importorskip("onnx").helper
    nodes = [
        helper.make_node("Shape", ["images"], ["shape"]),
        helper.make_node("Mul", ["shape", "factor"], ["many"]),  # 4 TB for 8 x 8 px, little for one
        helper.make_node("ConstantOfShape", ["many"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["nothing"], keepdims=0),
        helper.make_node("Add", ["real", "nothing"], ["logits"]),
    ]
    file = write_onnx(tmp_path / "model.onnx", onnx_model(nodes, {"factor": np.array([1, 1, 4096, 4096], np.int64)}))
    runtime = load_exported(file).model
    with pytest.raises(ValueError, match=r"model\.onnx does not run at 64 x 64 px, batch 9 \(.*smaller --batch-size"):
        runtime(torch.zeros(9, 3, 64, 64))
    assert onnx_file.MEMORY < 9 * 3 * (64 * 4096) ** 2 * 4


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            lambda op, real: op.add(
                real,
                op.reduce_sum(op.broadcast(op.constant(np.float32(0)), op.constant(np.array([1 << 40]))), 0, False),
            ),
            "it declares 4398",
        ),
        (lambda op, real: op.shape_of(real), "answers numbers of shape"),
        (lambda op, real: looped(op, real), r"it has a loop (Loop), which may never end"),
    ],
    ids=["4 TB", "a shape", "a loop"],
)
def test_what_an_openvino_file_may_not_do(changed, message, tmp_path):
    assert message in refused(write_openvino(tmp_path / "model.xml", changed))


def looped(op: Any, real: Any) -> Any:
    import openvino

    loop = op.loop(op.constant(np.int64(1 << 62)), op.constant(np.bool_(True)))
    inside = op.parameter([-1, 4], np.float32)
    more, after = op.result(op.constant(np.array(True))), op.result(op.multiply(inside, op.constant(np.float32(1))))
    loop.set_function(openvino.Model([more, after], [inside], "body"))
    loop.set_special_body_ports([-1, 0])
    loop.set_merged_input(inside, real.output(0), after.input_value(0))
    return loop.get_iter_value(after.input_value(0), -1)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('size="48"', 'size="99999999999"'),
        ('offset="0"', 'offset="99999999999"'),
        ('offset="0"', 'offset="-8"'),
        ('shape="3, 4"', 'shape="3, 4000000000"'),
        ('type="MatMul" version="opset1"', 'type="Evil" version="extension"'),
        ("</net>", ""),
    ],
)
def test_an_xml_that_was_changed(old, new, tmp_path):
    file = write_openvino(tmp_path / "model.xml")
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    assert "cannot be loaded" in refused(file)


def test_entities_of_an_xml_are_not_followed(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("0123456789")
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    entities = f'<!DOCTYPE net [<!ENTITY l0 "ha"><!ENTITY file SYSTEM "file://{secret}">{laughs}]>'
    file = write_openvino(tmp_path / "model.xml")
    text = file.read_text()
    assert 'value="mean_colour"' in text
    for name in ("l11", "file"):
        file.write_text(text.replace("<net", f"{entities}<net", 1).replace('value="mean_colour"', f'value="&{name};"'))
        said = load_exported(file).config["architecture"]
        assert said == f"&{name};", "as it is written"
