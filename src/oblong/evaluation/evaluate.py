"""One model on several held-out corpora and questions: load, score, measure the drift, write nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from transformers import PreTrainedModel

from oblong.checkpoints.delta import read_delta
from oblong.corpora import Documents
from oblong.errors import DataError, NonFinitePredictionError, SelectionError
from oblong.evaluation.drift import compute_drift
from oblong.evaluation.perplexity import OnProgress, score_corpus
from oblong.evaluation.suite import answer_suite, check_suite
from oblong.models.added_modules.attached import count_answers
from oblong.models.causal_lm import Dtype, LoadedModel, load_causal_lm
from oblong.models.stored_tensors import open_stored_tensors
from oblong.records import CorpusScore, Drift, Evaluation, Provenance

BASE_NAME: Final = "base"
PROGRESS_STEPS: Final = 1000
DEVICES: Final = ("cpu", "cuda")


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Held-out text to evaluate on.

    Attributes:
        documents: the texts; their name is the corpus' name in the record.
        new_domain: whether it is the domain that is being learned, as against general text.
    """

    documents: Documents
    new_domain: bool = False


def evaluate(
    model: str,
    corpora: Sequence[Corpus],
    *,
    delta: Path | None = None,
    base: str | None = None,
    suite: Sequence[str] = (),
    suite_limit: int | None = None,
    name: str | None = None,
    window: int = 512,
    stride: int = 256,
    batch_size: int = 4,
    dtype: Dtype = "bfloat16",
    device: str | None = None,
    threads: int | None = None,
    on_progress: OnProgress | None = None,
) -> Evaluation:
    """Evaluate a model, with a delta checkpoint on top if given.

    Args:
        model: a directory, file, Hub id or `demo`.
        corpora: what to predict; names must differ. There may be none where there is a suite.
        delta: a delta checkpoint to put on the model; the drift is measured from it.
        base: a model to compute KL(base || model) against; usually `model` itself, when a delta is given.
        suite: questions to answer: `small`, bundled tasks, or tasks of lm-eval; see `answer_suite`.
        suite_limit: the first so many questions of each task.
        name: of the Evaluation; default: `base`, or the name of the delta's run folder.
        window: context, tokens.
        stride: tokens newly predicted per window.
        batch_size: windows per forward pass.
        dtype: of the weights in memory.
        device: where to compute, `cpu` or `cuda`; default: a GPU if there is one.
        threads: of torch on the CPU; default: as they are.
        on_progress: called with what is done and the total, in thousandths.

    Returns:
        The Evaluation, not yet written.

    Raises:
        ModelNotFoundError, UnsupportedFormatError, CorruptCheckpointError: the model cannot be loaded.
        PlanMismatchError: the delta was made for another model.
        DataError: a text cannot be evaluated, or a task is unknown; the message names it.
        MissingExtraError: a task of lm-eval, which is not installed.
        SelectionError: a device that this machine does not have.
        NonFinitePredictionError: the model predicts NaN or infinity.
    """
    _check_names(corpora, suite)
    check_suite(suite)
    if threads is not None:
        torch.set_num_threads(threads)
    started = time.perf_counter()
    loaded = load_on_device(model, dtype=dtype, delta=delta, device=device)
    base_model = None if base is None or not corpora else load_on_device(base, dtype=dtype, device=device).model
    text_progress, suite_progress = _split_progress(on_progress, bool(corpora), bool(suite))
    scores = score_corpora(
        loaded,
        corpora,
        base_model=base_model,
        window=window,
        stride=stride,
        batch_size=batch_size,
        on_progress=text_progress,
    )
    answers = answer_suite(loaded, suite, limit=suite_limit, batch_size=batch_size, on_progress=suite_progress)
    return Evaluation(
        name=name or (BASE_NAME if delta is None else delta.resolve().parent.name),
        model=model,
        delta=None if delta is None else str(delta),
        window=window,
        stride=stride,
        dtype=dtype,
        corpora=scores,
        suite=answers,
        drift=None if delta is None else measure_drift(loaded, delta),
        seconds=time.perf_counter() - started,
        provenance=Provenance.here(),
    )


def score_corpora(
    loaded: LoadedModel,
    corpora: Sequence[Corpus],
    *,
    window: int,
    stride: int,
    batch_size: int = 4,
    base_model: PreTrainedModel | None = None,
    on_progress: OnProgress | None = None,
) -> dict[str, CorpusScore]:
    """Score a model that is in memory already; see `evaluate`."""
    report = _scale_progress(corpora, on_progress)
    scores = {}
    for corpus in corpora:
        with _naming(corpus), count_answers(loaded.model) as tally:
            documents = score_corpus(
                loaded.model,
                loaded.tokenizer,
                corpus.documents.texts,
                window=window,
                stride=stride,
                base_model=base_model,
                batch_size=batch_size,
                on_progress=report(corpus),
            )
        data = corpus.documents.describe()
        scores[data.name] = CorpusScore(
            data=data,
            new_domain=corpus.new_domain,
            documents=documents,
            answered=None if tally is None else tally.compute_shares(),
        )
    return scores


def choose_device(name: str | None) -> torch.device:
    """The device asked for, or the GPU if there is one, or the CPU.

    Raises:
        SelectionError: an unknown device, or one that this machine does not have.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in DEVICES:
        raise SelectionError(f"unknown device {name!r}: choose one of {', '.join(DEVICES)}")
    if name == "cuda" and not torch.cuda.is_available():
        raise SelectionError("device 'cuda' was asked for, but PyTorch sees no CUDA device here: use --device cpu")
    return torch.device(name)


def load_on_device(model: str, *, dtype: Dtype, delta: Path | None = None, device: str | None = None) -> LoadedModel:
    """Load a model to where it is evaluated; see `evaluate`."""
    place = choose_device(device)
    return _move(load_causal_lm(model, dtype=dtype, delta=delta), place)


def _move(loaded: LoadedModel, device: torch.device) -> LoadedModel:
    module: torch.nn.Module = loaded.model
    module.to(device)
    return loaded


def measure_drift(loaded: LoadedModel, delta: Path) -> Drift:
    """Compare a delta checkpoint's tensors with the base model's on the disk."""
    stored = open_stored_tensors(loaded.path)
    changed = read_delta(delta).tensors

    def pair() -> Iterator[tuple[str, Tensor, Tensor]]:
        for tensor, tuned in changed.items():
            yield tensor, stored.read(tensor), tuned

    return compute_drift(pair())


@contextmanager
def _naming(corpus: Corpus) -> Iterator[None]:
    """Put the corpus' name before what goes wrong in it."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{corpus.documents.name}: {error}") from error
    except NonFinitePredictionError as error:
        raise NonFinitePredictionError(f"{corpus.documents.name}: {error}") from error


def _check_names(corpora: Sequence[Corpus], suite: Sequence[str]) -> None:
    names = [corpus.documents.name for corpus in corpora]
    if not names and not suite:
        raise DataError("there is no corpus and no suite to evaluate on")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"two corpora have the same name, {repeated[0]!r}: give each its own with NAME=SOURCE")


def _split_progress(
    on_progress: OnProgress | None, has_text: bool, has_suite: bool
) -> tuple[OnProgress | None, OnProgress | None]:
    """Callbacks for the text and for the suite; where there are both, each is one half of the whole."""
    if on_progress is None or not (has_text and has_suite):
        return on_progress, on_progress
    return (
        lambda done, total: on_progress(round(PROGRESS_STEPS * done / total / 2), PROGRESS_STEPS),
        lambda done, total: on_progress(round(PROGRESS_STEPS * (1 + done / total) / 2), PROGRESS_STEPS),
    )


def _scale_progress(corpora: Sequence[Corpus], on_progress: OnProgress | None) -> Callable[[Corpus], OnProgress | None]:
    """One progress over all corpora: each counts by its bytes, since its windows are not known before it is read."""
    sizes: Mapping[str, int] = {corpus.documents.name: corpus.documents.num_bytes for corpus in corpora}
    total = sum(sizes.values())

    def for_corpus(corpus: Corpus) -> OnProgress | None:
        if on_progress is None:
            return None
        names = list(sizes)
        before = sum(sizes[name] for name in names[: names.index(corpus.documents.name)])
        size = sizes[corpus.documents.name]
        return lambda done, windows: on_progress(
            round(PROGRESS_STEPS * (before + size * done / windows) / total), PROGRESS_STEPS
        )

    return for_corpus
