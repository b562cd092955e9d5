"""Checkpoints: from bytes on a disk to named matrices, without building a model or running its code."""
