"""Floor A: an ordinary PyTorch training loop, handed over as a function. Digits of scikit-learn, 30 % wrong labels.

python examples/plain_pytorch.py [FOLDER]     stopped in any way and started again, it goes on where it was
"""

import os
import sys

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

import lossmith as lm

EPOCHS = 15
draws = torch.Generator().manual_seed(0)
images, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
rows = TensorDataset(images.float() / 16, labels)
parts = dict(zip(("test", "train", "fitness", "selection"), random_split(rows, (0.25, 0.45, 0.15, 0.15), draws), strict=True))
spoilt = torch.tensor(parts["train"].indices)[torch.rand(len(parts["train"]), generator=draws) < 0.3]
labels[spoilt] = torch.randint(10, (len(spoilt),), generator=draws)


def make_model():
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def train(loss, trial):
    model = make_model()  # torch's generator is set from trial.seed before this function is called
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1 * trial.lr_scale, momentum=0.9)
    for epoch in range(round(EPOCHS * trial.budget) or 1):
        for x, target in DataLoader(parts["train"], batch_size=64, shuffle=True):
            optimizer.zero_grad()
            value = loss(model(x), target)
            value.backward()
            optimizer.step()
        trial.report(epoch, value)  # a training whose loss is no longer finite ends here
    x, target = parts[trial.split][:]
    return (model(x).argmax(1) != target).float().mean()


if __name__ == "__main__":
    path = sys.argv[1] if len(sys.argv) > 1 else "runs/plain_pytorch"
    task = lm.Task.from_function(train, head="softmax", metric="error_rate")
    if os.path.exists(path):
        run = lm.resume(path, task=task)
    else:
        run = lm.search(lm.TaylorGLO(population=8), task, generations=4, partial=0.2, path=path, finalists=3)
    print("found:", run.best.loss)
    print(lm.evaluate(run, task, seeds=5, controls=["task"]).to_text())
