"""Floor A with Lightning: the Trainer stays in charge, Lossmith hands the module its loss. Tumours, one output.

python examples/lightning_loop.py [FOLDER]     stopped in any way and started again, it goes on where it was
"""

import logging
import sys
from pathlib import Path

import lightning
import torch
from sklearn.datasets import load_breast_cancer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

import lossmith as lm

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
features, target = (torch.tensor(array).float() for array in load_breast_cancer(return_X_y=True))
rows = TensorDataset((features - features.mean(0)) / features.std(0), target[:, None])
parts = random_split(rows, [229, 70, 70, 200], torch.Generator().manual_seed(0))
data = dict(zip(("train", "fitness", "selection", "test"), parts, strict=True))


class Classifier(lightning.LightningModule):
    def __init__(self, loss, trial):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 1))
        self.loss, self.trial = loss, trial

    def training_step(self, batch):
        return self.loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.net.parameters(), lr=0.1 * self.trial.lr_scale)


def train(loss, trial):
    module = Classifier(loss, trial)  # torch's own generator is set from trial.seed
    trainer = lightning.Trainer(max_epochs=round(10 * trial.budget) or 1, accelerator="cpu", **QUIET)
    trainer.fit(module, DataLoader(data["train"], batch_size=32, shuffle=True))
    x, truth = data[trial.split][:]
    return ((module.net(x) > 0) != truth.bool()).double().mean()


if __name__ == "__main__":
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/lightning_loop")
    task = lm.Task.from_function(train, head="sigmoid", metric="error_rate")
    if path.exists():
        run = lm.resume(path, task=task)
    else:
        run = lm.search(lm.TaylorGLO(population=4), task, generations=3, partial=0.3, path=path, finalists=2)
    print(run.best.loss, lm.evaluate(run, task, controls=["task"], seeds=5).sentence, sep="\n")
