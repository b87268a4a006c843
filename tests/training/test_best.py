"""The best epoch is kept, whatever interrupts the run."""

import pytest
import torch
from safetensors.torch import load_file

from convneur.training.best import FOLDER, Best, KeepBest, best_path
from convneur.training.callbacks import Live
from convneur.training.kept import RunIdentity
from tests.training import small


class Scores(small.pl.Callback):
    """Gives each epoch a score, and takes the weights there."""

    def __init__(self, scores) -> None:
        self.scores = scores
        self.weights: dict[int, torch.Tensor] = {}

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        epoch = trainer.current_epoch
        self.weights[epoch + 1] = pl_module.model.weight.detach().clone()
        if self.scores[epoch] is not None:
            trainer.callback_metrics["score"] = torch.tensor(self.scores[epoch])


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0.1, 0.3, 0.2], 2),
        ([0.3, 0.3, 0.3], 1),
        ([None, 0.1, None], 2),
        ([float("nan"), -1.0, float("nan")], 2),
        ([None, None, None], None),
    ],
)
def test_of_the_epochs_with_the_best_score_the_first_is_kept(scores, best, tmp_path):
    kept, seen = KeepBest(tmp_path, "score", "model."), Scores(scores)
    small.run(tmp_path, 3, callbacks=[seen, kept])
    assert (kept.best and kept.best.epoch) == best
    if best:
        assert torch.equal(load_file(best_path(tmp_path, kept.best))["weight"], seen.weights[best])
        assert kept.best.step == 2 * best


@pytest.mark.parametrize("scores", [[0.3, 0.2, 0.1], [0.1, 0.2, 0.3], [0.2, 0.3, 0.1]])
@pytest.mark.parametrize("damaged", [False, True])
def test_a_run_that_goes_on_has_the_best_of_one_that_was_not_interrupted(scores, damaged, tmp_path):
    """From the checkpoint of the second epoch, or of the first if that is damaged; what was written later is gone."""
    kept, seen = KeepBest(tmp_path / "whole", "score", "model."), Scores(scores)
    small.run(tmp_path / "whole", 3, callbacks=[seen, kept])
    run = tmp_path / "run"
    small.run(run, 2, callbacks=[Scores(scores), KeepBest(run, "score", "model.")])
    (run / FOLDER / "step-000000099.safetensors").write_bytes(b"of a step whose checkpoint was never written")
    checkpoint = run / "checkpoints" / f"step-{2 if damaged else 4:09d}.ckpt"
    again = KeepBest(run, "score", "model.")
    small.run(run, 3, checkpoint, [Scores(scores), again])
    assert again.best == kept.best
    assert torch.equal(load_file(best_path(run, again.best))["weight"], seen.weights[again.best.epoch])
    assert not (run / FOLDER / "step-000000099.safetensors").exists()


def test_weights_of_the_best_epoch_do_not_pile_up(tmp_path):
    kept = KeepBest(tmp_path, "score", "model.")
    small.run(tmp_path, 8, callbacks=[Scores([0.1 * n for n in range(8)]), kept])
    assert kept.best == Best(8, 16, pytest.approx(0.7))
    assert len(list((tmp_path / FOLDER).iterdir())) <= 4


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    small.run(tmp_path, callbacks=[RunIdentity("one", tmp_path)])
    checkpoint = tmp_path / "checkpoints" / "step-000000004.ckpt"
    assert small.run(tmp_path, 3, checkpoint, [RunIdentity("one", tmp_path)])[0][-1]["step"] == 6
    with pytest.raises(ValueError, match="is of another run; remove it") as caught:
        small.run(tmp_path, 3, checkpoint, [RunIdentity("other", tmp_path)])
    assert "\n" not in str(caught.value)


def test_the_bar_shows_the_epoch_that_has_just_ended(monkeypatch):
    shown = []
    update = Live.on_train_epoch_end

    def and_look(self, trainer, pl_module) -> None:
        update(self, trainer, pl_module)
        shown.append(self.progress.tasks[0].fields["note"])

    monkeypatch.setattr(Live, "on_train_epoch_end", and_look)
    monkeypatch.setattr("convneur.training.callbacks.SHOWN", ("val_loss",))
    curve, _ = small.run(None, 2)
    for row, note in zip(curve, shown, strict=True):
        assert note.startswith(f"epoch {row['epoch']}, loss {row['loss']:.3f}, after epoch {row['epoch']}: val_loss")
        assert f"{row['val_loss']:.3f}" in note


class Spoilt(small.pl.Callback):
    """Makes something no number before the first step."""

    def __init__(self, what: str) -> None:
        self.what = what

    def setup(self, trainer, pl_module, stage) -> None:
        if self.what == "weights":
            with torch.no_grad():
                pl_module.model.weight[0, 0] = float("inf")

    def on_train_batch_end(self, trainer, pl_module, *_) -> None:
        if self.what == "rate":
            with torch.no_grad():
                pl_module.model.weight[0, 0] = float("nan")


@pytest.mark.parametrize(("what", "told"), [("weights", "the weights to start from .*model.weight"), ("rate", "lr")])
def test_what_is_not_finite_is_blamed_on_what_brought_it(what, told, tmp_path):
    with pytest.raises(ValueError, match=told) as caught:
        small.run(tmp_path, callbacks=[Spoilt(what)])
    assert ("--optim.lr" in str(caught.value)) == (what == "rate")


def test_images_that_are_not_finite_are_named(monkeypatch):
    monkeypatch.setattr(torch, "ones", lambda *size: torch.full(size, float("nan")))
    with pytest.raises(ValueError, match="images have numbers that are not finite"):
        small.run(None)
