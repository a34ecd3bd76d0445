"""Floor B: sequences of different lengths, padded. Dict batches, a GRU, and a mask that loss and metric respect.

python examples/masked_sequence.py [FOLDER]     stopped in any way and started again, it goes on where it was

Every token is tagged with itself minus the token before it, modulo 5; two tags in five are made up, but in the test.
"""

import sys
from pathlib import Path

import torch
from torch import nn

import lossmith as lm
from lossmith.rng import torch_stream

TAGS, LONGEST = 5, 8


def make_rows(name, wrong):
    draws, shape = torch_stream(0, name), (300, LONGEST)
    tokens = torch.randint(TAGS, shape, generator=draws)
    mask = torch.arange(LONGEST) < torch.randint(4, LONGEST + 1, (300, 1), generator=draws)
    noise = torch.randint(TAGS, shape, generator=draws) * (torch.rand(shape, generator=draws) < wrong)
    tags = (tokens.diff(prepend=torch.zeros(300, 1, dtype=torch.long)) + noise) % TAGS
    return {"tokens": tokens * mask, "tags": tags.masked_fill(~mask, -100), "mask": mask}


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(TAGS, 16)
        self.gru = nn.GRU(16, 32, batch_first=True)
        self.head = nn.Linear(32, TAGS)

    def forward(self, tokens):
        return self.head(self.gru(self.embed(tokens))[0])  # [N, T, C]


def forward(model, batch):
    output = model(batch["tokens"]).flatten(0, 1)  # [N*T, C]
    return lm.Terms(output, batch["tags"].flatten(), weight=batch["mask"].flatten())


if __name__ == "__main__":
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/masked_sequence")
    train, valid, test = make_rows("train", 0.4), make_rows("valid", 0.4), make_rows("test", 0.0)
    recipe = lm.Recipe(steps=80, batch_size=32, optimizer=lm.Adam(lr=0.02))
    task = lm.Task(model=lambda seed: Tagger(), train=train, valid=valid, test=test, forward=forward, recipe=recipe)
    if path.exists():
        run = lm.resume(path, task=task)
    else:
        run = lm.search(lm.TaylorGLO(population=6), task, generations=3, partial=0.3, path=path, finalists=2)
    print(run.best.loss, lm.evaluate(run, task, controls=["task"], seeds=5).sentence, sep="\n")
