"""Train a ConvNeur in a plain PyTorch loop, on handwritten digits that come with scikit-learn.

python examples/train_loop.py [epochs]
"""

import sys

import torch
import torch.nn.functional as F

import convneur
from convneur.data.digits import DigitBatches, load_digits

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 10
train, held_out = load_digits(size=32)
batches = DigitBatches(train, batch_size=64, pixels=2)
model = convneur.create_model("convneur_m1", in_chans=1, num_classes=10, patch_size=2, ls_init_value=1.0)
optimizer = torch.optim.AdamW(model.parameter_groups(lr=1e-3))
schedule = torch.optim.lr_scheduler.OneCycleLR(
    optimizer, [group["lr"] for group in optimizer.param_groups], total_steps=epochs * len(batches)
)
for epoch in range(epochs):
    model.train()
    for images, labels in batches:
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    with torch.inference_mode():
        right = (model(held_out.images).argmax(1) == held_out.labels).float().mean()
    print(f"epoch {epoch + 1}: loss {loss:.3f}, held-out accuracy {right:.3f}")
