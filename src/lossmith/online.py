"""Losses that go on learning while they train, for training loops of one's own.

import lossmith as lm

criterion = lm.online.AdaptiveLoss(model, optimizer, valid_loader, run.best.loss)
for x, y in train_loader:
    optimizer.zero_grad()
    criterion(model(x), y).backward()
    optimizer.step()  # and the loss has learned from what this step did to the validation batch
"""

from lossmith.training.online.adaptive_loss import AdaptiveLoss

__all__ = ["AdaptiveLoss"]
