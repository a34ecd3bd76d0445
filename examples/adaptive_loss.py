"""A loss that adapts in a training loop of your own. Digits of scikit-learn, 30 % wrong labels.

python examples/adaptive_loss.py [FOLDER]     stopped in any way and started again, it goes on where it was
"""

import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits

import lossmith as lm

torch.set_num_threads(1)
torch.manual_seed(0)
images, labels = (torch.tensor(array) for array in load_digits(return_X_y=True))
images = images.float() / 16
train, valid, test = torch.randperm(len(labels)).split([1000, 300, 497])
labels[train[:300]] = labels[train[-300:]]  # wrong labels, to learn from only
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images[valid], labels[valid]), 100, shuffle=True)


def make_model():
    return torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))


def error(model):
    return (model(images[test]).argmax(1) != labels[test]).double().mean().item()


model = make_model()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
start = lm.loss("taylor_cross_entropy(order=4)")  # or what `lossmith search --method adalfl` found
criterion = lm.online.AdaptiveLoss(model, optimizer, loader, start, lr=3e-3)
parts = {"model": model, "optimizer": optimizer, "criterion": criterion}

checkpoint = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/adaptive_loss") / "checkpoint.pt"
checkpoint.parent.mkdir(parents=True, exist_ok=True)
stored = torch.load(checkpoint, weights_only=True) if checkpoint.exists() else {"epoch": -1}
for name, part in parts.items():
    part.load_state_dict(stored.get(name, part.state_dict()))

for epoch in range(stored["epoch"] + 1, 20):
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(epoch))
    for rows in train[order].split(100):
        optimizer.zero_grad()
        criterion(model(images[rows]), labels[rows]).backward()
        optimizer.step()
    torch.save({"epoch": epoch, **{name: part.state_dict() for name, part in parts.items()}}, f"{checkpoint}.new")
    Path(f"{checkpoint}.new").replace(checkpoint)

print(f"{criterion.loss}\nerror on the test rows after {criterion.steps} steps: {error(model):.3f}")
