"""Training on real photographs, where there are any."""

import io

import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

import convneur


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("kwargs", [{}, {"memory": {"state": "mlp"}}, {"preset": "published"}], ids=str)
def test_m1_learns_a_batch_of_photographs(data_dir, kwargs):
    table = pq.read_table(data_dir / "cifar100" / "test-00.parquet").slice(0, 32)
    images = torch.stack([pil_to_tensor(Image.open(io.BytesIO(b)).convert("RGB")) for b in table["image"].to_pylist()])
    images = (F.interpolate(images.float() / 255, size=64, mode="bilinear") - 0.5) / 0.25
    labels = torch.tensor(table["label"].to_pylist())
    model = convneur.create_model("convneur_m1", num_classes=100, **kwargs)
    optimizer = torch.optim.AdamW(model.parameter_groups(lr=2e-3))
    losses = []
    for _ in range(25):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
