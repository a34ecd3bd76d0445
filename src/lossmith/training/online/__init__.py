"""Losses that adapt while they train: AdaLFL's step on φ after every step of the base model."""
