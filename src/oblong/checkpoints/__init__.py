"""Checkpoints: from bytes on a disk to named matrices, without building a model or running its code."""

from oblong.checkpoints.base import Checkpoint, Reader, Remote, StoredTensor, TensorInfo, TensorSource
from oblong.checkpoints.head_views import split_into_heads
from oblong.checkpoints.layout import compute_layout_digest
from oblong.checkpoints.locate import DEMO_MODEL_NAME, cache_dir, demo_model_dir, locate_model
from oblong.checkpoints.matricize import MatrixPart, split_into_matrices
from oblong.checkpoints.opening import open_checkpoint
from oblong.checkpoints.roles import classify_role, explain_ineligible, find_layer
from oblong.checkpoints.stored_rows import StoredRows

__all__ = [
    "DEMO_MODEL_NAME",
    "Checkpoint",
    "MatrixPart",
    "Reader",
    "Remote",
    "StoredRows",
    "StoredTensor",
    "TensorInfo",
    "TensorSource",
    "cache_dir",
    "classify_role",
    "compute_layout_digest",
    "demo_model_dir",
    "explain_ineligible",
    "find_layer",
    "locate_model",
    "open_checkpoint",
    "split_into_heads",
    "split_into_matrices",
]
