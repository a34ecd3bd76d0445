"""Floor A: an ordinary PyTorch training loop, handed over as a function. Digits of scikit-learn, 30 % wrong labels.

python examples/plain_pytorch.py [FOLDER]     stopped in any way and started again, it goes on where it was
"""

import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits

import lossmith as lm

torch.set_num_threads(1)  # fastest for a net this small
images, labels = (torch.tensor(array) for array in load_digits(return_X_y=True))
order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).split([800, 250, 250, 497])
rows = dict(zip(("train", "fitness", "selection", "test"), order, strict=True))
labels[rows["train"][:240]] = labels[rows["train"][-240:]]  # wrong labels, to learn from only


def make_model():
    return torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))


def train(loss, trial):
    model = make_model()  # torch's own generator is set from trial.seed: equal seeds, equal weights and batches
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1 * trial.lr_scale, momentum=0.9)
    for epoch in range(round(12 * trial.budget) or 1):
        for batch in rows["train"][torch.randperm(800)].split(50):
            optimizer.zero_grad()
            value = loss(model(images[batch].float() / 16), labels[batch])
            value.backward()
            optimizer.step()
        trial.report(epoch, value)  # where the loss is no longer finite, the training ends
    return (model(images[rows[trial.split]].float() / 16).argmax(1) != labels[rows[trial.split]]).double().mean()


if __name__ == "__main__":
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/plain_pytorch")
    task = lm.Task.from_function(train, head="softmax", metric="error_rate")
    if path.exists():
        run = lm.resume(path, task=task)
    else:
        run = lm.search(lm.TaylorGLO(population=8), task, generations=4, partial=0.25, path=path, finalists=2)
    print(run.best.loss, lm.evaluate(run, task, controls=["task"]).sentence, sep="\n")
