"""``convneur stream``, from files to answers."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from convneur.data.semantic import MaskEncoding
from convneur.models import load_model, save_model
from convneur.tasks.segmentation import create_segmenter, load_segmenter
from convneur.tasks.segmentation.inference import segment
from convneur.tasks.segmentation.saved import save_segmenter
from convneur_command.main import main
from convneur_options.segmentation import Inference
from tests.models.builders import create

pytest.importorskip("zarr", reason="TIFF files need zarr, which needs Python 3.11")

TINY = {"dims": (8, 12, 16, 24), "depths": (1, 1, 1, 1), "memory_width": 16}


@pytest.fixture
def image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (190, 260, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "image.tif", pixels, tile=(64, 64), photometric="rgb", compression="deflate")
    return tmp_path / "image.tif"


def test_a_classifier(image, tmp_path, capsys):
    arguments = TINY | {"num_classes": 3}
    save_model(create("convneur_m1", **arguments), tmp_path / "model", arguments, ["cat", "dog", "owl"])
    code = main(
        f"stream {image} --model {tmp_path / 'model'} --out {tmp_path / 'out'} --out-indices 3 --top-k 2".split()
    )
    assert code == 0
    loaded = load_model(tmp_path / "model")
    mean, std = (torch.tensor(loaded.config[key])[:, None, None] for key in ("mean", "std"))
    pixels = torch.from_numpy(tifffile.imread(image)).permute(2, 0, 1) / 255
    with torch.inference_mode():
        logits = loaded.model(((pixels - mean) / std)[None])
    np.testing.assert_allclose(np.load(tmp_path / "out" / "logits.npy"), logits, atol=1e-4)
    assert np.load(tmp_path / "out" / "stage_3.npy").shape == (5, 8, 24)
    best = ["cat", "dog", "owl"][int(logits.argmax())]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(best)


def test_an_mlp_memory_in_double_precision(image, tmp_path, capsys):
    arguments = TINY | {"num_classes": 3, "memory": {"state": "mlp"}}
    model = create("convneur_m1", **arguments)
    save_model(model, tmp_path / "model", arguments, ["cat", "dog", "owl"])
    command = f"stream {image} --model {tmp_path / 'model'} --out {tmp_path / 'out'}"
    assert main(command.split()) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "state='mlp'" in line]
    assert "--float64" in line
    assert main(f"{command} --float64".split()) == 0
    loaded = load_model(tmp_path / "model")
    mean, std = (torch.tensor(loaded.config[key], dtype=torch.float64)[:, None, None] for key in ("mean", "std"))
    pixels = torch.from_numpy(tifffile.imread(image)).permute(2, 0, 1).double() / 255
    with torch.inference_mode():
        logits = loaded.model.double()(((pixels - mean) / std)[None])
    np.testing.assert_allclose(np.load(tmp_path / "out" / "logits.npy"), logits, rtol=0, atol=1e-9)


def test_a_semantic_fpn_and_its_preview(image, tmp_path, capsys):
    arguments = {"decoder": "semantic_fpn", "backbone": "convneur_m1", "num_classes": 3, "backbone_args": TINY}
    arguments |= {"pyramid_channels": 32, "channels": 32}
    code = MaskEncoding(["road", "sky", "tree"], np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200]], np.uint8))
    save_segmenter(create_segmenter(**arguments), tmp_path / "model", arguments, code, Inference(), "")
    assert main(f"stream {image} --model {tmp_path / 'model'} --out {tmp_path / 'out'}".split()) == 0
    said = np.load(tmp_path / "out" / "classes.npy")
    pixels = torch.from_numpy(tifffile.imread(image)).permute(2, 0, 1)
    saved = load_segmenter(tmp_path / "model")
    whole = segment(saved.model, pixels, Inference(), torch.device("cpu")).numpy()
    assert (said == whole).mean() > 0.999  # rounding decides where two classes are level
    assert Image.open(tmp_path / "out" / "preview.jpg").size == (260, 190)
    shares = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert shares.keys() <= {"road", "sky", "tree"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("{0}/none.tif --model {0}/model", "does not exist"),
        ("{0}/text.tif --model {0}/model", "text.tif"),
        ("{0}/image.tif --model {0}/nothing", "neither a folder nor a model"),
        ("{0}/image.tif --model {0}/model --out-indices 4", "out_indices=(4,) is out of range"),
        ("{0}/image.tif --model {0}/model --memory-gb 0.01", "raise it"),
        ("{0}/image.tif --model {0}/model --workers 0", "1 or more"),
        ("{0}/image.tif --model {0}/model --scratch {0}/image.tif", "image.tif is a file; give a folder"),
    ],
)
def test_what_is_wrong_is_one_line(arguments, said, image, tmp_path, capsys):
    save_model(create("convneur_m1", **TINY, num_classes=3), tmp_path / "model", TINY | {"num_classes": 3})
    (tmp_path / "text.tif").write_text("text")
    assert main(f"stream {arguments.format(tmp_path)} --out {tmp_path / 'out'}".split()) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("convneur: ")
    assert said in error
