"""What the tests of several processes run in each of them, under `accelerate launch`.

accelerate launch --cpu --num_processes 2 together.py CHECKPOINT STOP HISTORY
"""

import json
import os
import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

import cpnb

checkpoint, stop, history = sys.argv[1:]
torch.set_num_threads(1)
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(1, 6, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(216, 5))
images, labels = torch.randn(71, 1, 8, 8), torch.randint(5, (71,))
data, validation = TensorDataset(images, labels), TensorDataset(images[:33], labels[:33])
seen = []


def on_epoch(row):
    seen.append(row)
    if row["epoch"] == int(stop):
        os._exit(7)  # as if the machine went down


rows = cpnb.train(
    net, data, 3, batch_size=32, validation=validation, checkpoint=checkpoint, on_epoch=on_epoch,
    progress=False, device="cpu", schedule="constant",
)  # fmt: skip
cpnb.record("together", epochs=3)
rank = os.environ.get("RANK", "0")
told = {"rows": rows, "told": len(seen), "weights": [p.sum().item() for p in net.parameters()]}
Path(f"{history}.{rank}").write_text(json.dumps(told))
