"""Train a ConvNeur in a plain PyTorch loop, on digits that come with scikit-learn: train_loop.py [epochs]"""

import argparse

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track

import convneur
from convneur.data.digits import load_digits
from convneur.lab.digit_batches import DigitBatches

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("epochs", type=int, nargs="?", default=10)
epochs = parser.parse_args().epochs
if epochs < 1:
    parser.error(f"{epochs} epochs are too few; give at least 1")
train, held_out = load_digits(size=32)
batches = DigitBatches(train, batch_size=64, pixels=2)
model = convneur.create_model("convneur_m1", in_chans=1, num_classes=10, ls_init_value=1.0)
groups = model.parameter_groups(lr=1e-3)  # the memory learns at a tenth of the rate, without weight decay
optimizer = torch.optim.AdamW(groups)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [g["lr"] for g in groups], epochs * len(batches))
for epoch in range(1, epochs + 1):
    model.train()
    for images, labels in track(batches, f"epoch {epoch}", console=Console(stderr=True), transient=True):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    with torch.inference_mode():
        right = (model(held_out.images).argmax(1) == held_out.labels).float().mean()
    print(f"epoch {epoch}: loss {loss:.3f}, held-out accuracy {right:.3f}")
