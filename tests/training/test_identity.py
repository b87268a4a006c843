"""A run goes on with its own images, wherever they are, and with no others."""

import io
import json
import shutil
from dataclasses import asdict, dataclass

import pytest

from convneur.data.known_classes import images_of, objects_of, pixels_of
from convneur.data.objects import open_objects
from convneur.data.semantic import open_pixels
from convneur.data.sources import open_source
from convneur.notes import AlreadyDone
from convneur.printing import Console
from convneur.tasks.run_data import run_data_of
from convneur.training.run_folder import claim, names_hash
from tests.data.semantic.builders import write_scenes as write_pixels
from tests.data.test_contents import classes
from tests.tasks.detection.builders import write_scenes as write_objects


@dataclass
class Config:
    data: str
    seed: int = 0
    val_share: float = 0.2
    keep: str = "last"
    model: str = "convneur_m1"
    recipe: str = "quick"


def begin(data, out, resume=False, keep="last") -> str:
    """What is said."""
    console = Console(file=io.StringIO(), width=300)
    source = open_source(str(data))
    settings = asdict(Config(str(data), keep=keep)) | {"images": {"train": len(source.train)}}
    claim(settings, source, source, out, resume, console)
    return console.file.getvalue()


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A folder of images, of which a run has begun to learn."""
    monkeypatch.chdir(tmp_path)
    classes(tmp_path / "photos", 10)
    assert begin("photos", tmp_path / "run") == ""
    return tmp_path / "run"


def test_a_run_goes_on_however_its_data_is_spelled(run, tmp_path):
    identity = json.loads((run / "run.json").read_text())["id"]
    for data in ("photos/", "./photos", tmp_path / "photos"):
        assert begin(data, run, resume=True) == ""
    shutil.move("photos", "moved")
    told = f"the images of this run were in {tmp_path}/photos and are the same in {tmp_path}/moved\n"
    assert begin("moved", run, resume=True) == told
    assert begin("moved", run, resume=True) == "", "it is said once"
    assert json.loads((run / "run.json").read_text())["id"] == identity
    (run / "report.html").touch()
    with pytest.raises(AlreadyDone):
        begin("./moved", run)


def test_a_run_does_not_go_on_with_other_images(run, tmp_path):
    classes(tmp_path / "other", 10, seed=1)
    with pytest.raises(ValueError, match=r"begun with --data photos \(now other, which has other images\)"):
        begin("other", run, resume=True)
    changed = tmp_path / "photos" / "a" / "0.png"
    changed.write_bytes(changed.read_bytes() + b" ")
    with pytest.raises(ValueError, match=r"begun with the image a/0.png of [0-9]+ bytes \(now a/0.png of"):
        begin("photos", run, resume=True)
    changed.unlink()
    with pytest.raises(ValueError, match=r"begun with images.train 16 \(now 15\)"):
        begin("photos", run, resume=True)


def test_runs_of_earlier_versions_go_on_by_where_their_data_is(run, tmp_path):
    (run / "images.json.gz").unlink()
    kept = json.loads((run / "run.json").read_text())
    del kept["id"], kept["keep"]
    kept["images"]["val_names"] = names_hash(open_source("photos").val)
    (run / "run.json").write_text(json.dumps(kept))
    assert run_data_of(run).share("./photos", None, None) == (0.2, 0)
    assert run_data_of(run).share("elsewhere", None, None) == (None, 0)
    shutil.copytree(run, tmp_path / "again")
    assert begin("photos", run, resume=True) == ""
    assert begin(tmp_path / "photos", tmp_path / "again", resume=True) == ""
    kept["images"]["val_names"] = "other"
    (run / "images.json.gz").unlink()
    (run / "run.json").write_text(json.dumps(kept))
    with pytest.raises(ValueError, match="begun with other held-out images"):
        begin("photos", run, resume=True)


def test_which_epoch_is_the_model_may_change_until_a_run_has_finished(run):
    assert begin("photos", run, resume=True, keep="best") == ""
    (run / "report.html").touch()
    with pytest.raises(FileExistsError, match=r"begun with --keep best \(now last\)"):
        begin("photos", run, keep="last")


def test_settings_that_have_another_name_now_are_the_same_settings(run):
    def resume(**backbone: str) -> None:
        source = open_source("photos")
        settings = asdict(Config("photos")) | {"images": {"train": 16}, "recipe": {"backbone": backbone}}
        console = Console(file=io.StringIO())
        claim(settings, source, source, run, True, console)

    kept = json.loads((run / "run.json").read_text())
    kept["recipe"] = {"backbone": {"globalizer": "se", "carry_tokens": None}}
    (run / "run.json").write_text(json.dumps(kept))
    with pytest.raises(ValueError, match=r"begun with --backbone.token-mixer se \(now attention\)"):
        resume(token_mixer="attention", token_skip=None)
    resume(token_mixer="se", token_skip=None)


def judged(run, data, share=None, seed=None) -> tuple[set[str], str]:
    """Names of the images that a model of the run is judged by, and what is said."""
    console, known = Console(file=io.StringIO(), width=300), run_data_of(run)
    source = known.not_learned(open_source(str(data), *known.share(str(data), share, seed)), str(data), console)
    names = {"/".join(source.val.name(n).split("/")[-2:]) for n in range(len(source.val))}
    return names, console.file.getvalue()


def test_nothing_that_was_learned_is_judged_by(run, tmp_path):
    held_out, told = judged(run, "photos")
    assert len(held_out) == 4
    assert told == "4 of 20 images are judged by; the model learned from the others\n"
    shutil.copytree("photos", "copy")
    for data in ("./photos/", tmp_path / "photos", "copy"):
        assert judged(run, data)[0] == held_out
    assert judged(run, "photos", 0.5, 3)[0] <= held_out
    (tmp_path / "copy" / "a" / "new.png").write_bytes(b"new")
    assert judged(run, "copy")[0] == held_out | {"a/new.png"}
    for name in held_out | {"a/new.png"}:
        (tmp_path / "copy" / name).unlink()
    with pytest.raises(ValueError, match="the model learned from all 16 images of --data copy"):
        judged(run, "copy")


def test_a_name_of_timm_is_no_model_of_the_run_that_is_worked_in(run, monkeypatch):
    monkeypatch.chdir(run)
    assert run_data_of("resnet18").contents is None


def test_labels_go_by_the_names_of_classes(tmp_path):
    source = images_of(open_source(str(classes(tmp_path / "photos")), None), ["c", "b", "a"])
    assert source.val.labels.tolist() == [2] * 6 + [1] * 6
    assert source.classes == ["c", "b", "a"]
    with pytest.raises(ValueError, match="the model knows the classes x and the data has a, b, which it does not know"):
        images_of(open_source(str(tmp_path / "photos")), ["x"])


def test_objects_go_by_the_names_of_classes(tmp_path):
    data = write_objects(tmp_path / "objects")
    was = open_objects(data)
    known = ["new", *reversed(was.classes)]
    now = objects_of(was, known)
    for before, after in zip(was.val.objects, now.val.objects, strict=True):
        assert [was.classes[n] for n in before.labels] == [known[n] for n in after.labels]
        assert [was.category_ids[n] for n in before.labels] == [now.category_ids[n] for n in after.labels]
    assert len(set(now.category_ids)) == len(known)


def test_masks_go_by_the_names_of_classes(tmp_path):
    was = open_pixels(write_pixels(tmp_path / "pixels"))
    known = ["new", *reversed(was.code.classes)]
    now = pixels_of(was, known)
    picture = was.val.masks.read(0)
    from PIL import Image

    with Image.open(io.BytesIO(picture)) as image:
        size = (image.height, image.width)
    before, after = was.code.decode(picture, size)[0], now.code.decode(picture, size)[0]
    counted = before != 255
    assert (after[~counted] == 255).all()
    assert [was.code.classes[n] for n in before[counted]] == [known[n] for n in after[counted]]
