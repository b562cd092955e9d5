"""A model on the Hugging Face Hub, read shard by shard: never more than two of its shards on this disk.

The headers of all shards come first, by range requests of a few kilobytes; they say what there is to do. A shard is
fetched when its first tensor is read, into a folder of oblong's own, and the one used longest ago is deleted before a
third would come. Two, not one: the scales of a tensor may lie in the next shard, and so may its tied copy. A shard
that the user's Hugging Face cache already holds is read there, and stays there. The few bytes of a quantised weight
that say its shape come by range requests, like the headers.

Everything belongs to one commit, and the folder is named after it. So a scan that was interrupted goes on without
fetching again what was finished, and a model that changed on the Hub meanwhile starts afresh.
"""

from __future__ import annotations

import math
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from oblong.checkpoints.base import Bytes, Checkpoint, TensorInfo, iter_file_chunks
from oblong.checkpoints.config import CONFIG_NAME, read_config
from oblong.checkpoints.dtypes import FORMATS
from oblong.checkpoints.layout import describe, refuse_duplicates
from oblong.checkpoints.locate import cache_dir, explain_hub_errors, looks_like_hub_id
from oblong.checkpoints.packed.grouping import group_packed
from oblong.checkpoints.ranges import RangeReader
from oblong.checkpoints.safetensors import read_header
from oblong.checkpoints.scales import check_scales
from oblong.checkpoints.ties import find_ties
from oblong.errors import (
    CorruptCheckpointError,
    DownloadError,
    OutputWriteError,
    SelectionError,
    UnsupportedFormatError,
)
from oblong.records import CheckpointFile
from oblong.records.base import explain_write_errors

if TYPE_CHECKING:
    from huggingface_hub.utils._safetensors import SafetensorsFileMetadata

MAX_SHARDS_ON_DISK: Final = 2
COMMIT_LENGTH: Final = 12
SECONDS_BETWEEN_CHECKS: Final = 0.2
CHOOSE: Final = "tell whoever published it, and choose another model"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubModel:
    """A model at one commit."""

    repo: str
    commit: str


class ShardStore:
    """The shards that are on the disk; safe to use from the thread that reads ahead and the one that computes."""

    def __init__(self, model: HubModel, folder: Path, announced: Mapping[str, Sequence[TensorInfo]]) -> None:
        self._model = model
        self._folder = folder
        self._announced = announced
        self._lock = threading.Lock()
        # An earlier, interrupted run may have left some; the order is that of use, longest ago first.
        self._ours = OrderedDict((name, folder / name) for name in sorted(announced) if (folder / name).is_file())
        self._checked: dict[str, tuple[Path, int]] = {}
        self._stopped = threading.Event()
        self.on_fetch: Callable[[str], None] = lambda name: None

    def stop(self) -> None:
        """See `Remote`."""
        self._stopped.set()

    def locate(self, tensor: TensorInfo) -> TensorInfo:
        """The tensor as it lies in its shard on this disk, which is fetched where it is missing.

        Raises:
            DownloadError: the shard cannot be fetched.
            CorruptCheckpointError: the shard is not what its header on the Hub announced.
        """
        name = tensor.file.name
        with self._lock:
            if name not in self._checked:
                self._checked[name] = self._check(name, self._find_cached(name) or self._fetch(name))
            if name in self._ours:
                self._ours.move_to_end(name)
            path, data_start = self._checked[name]
        return replace(tensor, file=path, offset=data_start + tensor.offset)

    def _find_cached(self, name: str) -> Path | None:
        """The shard in the user's own cache, which is only ever read."""
        from huggingface_hub import try_to_load_from_cache

        path = try_to_load_from_cache(self._model.repo, name, revision=self._model.commit)
        return Path(path) if isinstance(path, str) else None

    def _fetch(self, name: str) -> Path:
        """Download a shard, after making room for it; one that is there already is only checked by its etag."""
        others = [shard for shard in self._ours if shard != name]
        # A part that an interrupted run left takes room as well, whichever shard's it is.
        num_parts = sum(1 for _ in self._folder.rglob("*.incomplete"))
        num_kept = max(MAX_SHARDS_ON_DISK - 1 - num_parts, 0)
        for shard in others[: max(len(others) - num_kept, 0)]:
            self._ours.pop(shard).unlink(missing_ok=True)
            self._checked.pop(shard, None)
        if name not in self._ours:
            self.on_fetch(name)
        path = self._download(name)
        self._ours[name] = path
        return path

    def _download(self, name: str) -> Path:
        """Download in a thread of its own, so that an interrupted scan need not wait for gigabytes."""
        result: Future[Path] = Future()

        def work() -> None:
            try:
                result.set_result(_download(self._model, name, self._folder))
            except DownloadError as error:
                result.set_exception(error)

        threading.Thread(target=work, name=_name_thread(self._folder), daemon=True).start()
        while not self._stopped.is_set():
            with suppress(TimeoutError):
                return result.result(timeout=SECONDS_BETWEEN_CHECKS)
        raise DownloadError(f"stopped while {name} of {self._model.repo} was being fetched")

    def _check(self, name: str, path: Path) -> tuple[Path, int]:
        """The shard's path and where its data begin (bytes), if its header is the one that the Hub announced."""
        stored, announced = read_header(path), self._announced[name]
        data_start = min((tensor.offset for tensor in stored), default=0)
        if [_outline(tensor, data_start) for tensor in stored] != [_outline(tensor, 0) for tensor in announced]:
            if name in self._ours:
                self._ours.pop(name).unlink(missing_ok=True)
            raise CorruptCheckpointError(path, "its tensors are not those that the Hub announced", advice="run again")
        return path, data_start


def _outline(tensor: TensorInfo, data_start: int) -> tuple[object, ...]:
    return tensor.name, tensor.dtype, tensor.shape, tensor.offset - data_start, tensor.num_bytes


@dataclass(frozen=True)
class StreamedSource:
    """The tensors of a model on the Hub. Their `file` is the shard's name, their `offset` counts from its data."""

    tensors: tuple[TensorInfo, ...]
    config: Mapping[str, Any]
    store: ShardStore
    files: tuple[Path, ...] = ()
    format: str = "safetensors"

    def iter_chunks(self, tensor: TensorInfo, chunk_bytes: int) -> Iterator[Bytes]:
        """Yield the stored bytes, after fetching their shard where it is missing; see `TensorSource`."""
        return iter_file_chunks(self.store.locate(tensor), chunk_bytes)


@contextmanager
def open_streamed(repo: str) -> Iterator[Checkpoint]:
    """Open a Hub model for reading shard by shard. What was downloaded goes when the block succeeds.

    Args:
        repo: a Hub id, ORG/NAME.

    Returns:
        A checkpoint whose `path` is named after the commit, the first 12 digits.

    Raises:
        SelectionError: `repo` is something on this disk, or no Hub id.
        ModelNotFoundError: the Hub does not know it, or cannot be reached.
        UnsupportedFormatError: it has no safetensors at its root.
        CorruptCheckpointError: an index or a header that cannot be trusted.
        OutputWriteError: another process streams the same model, or the folder is not writable.
    """
    if Path(repo).expanduser().exists():
        raise SelectionError(
            f"--stream is for models on the Hugging Face Hub; {repo} is on this disk: leave --stream out"
        )
    if not looks_like_hub_id(repo):
        raise SelectionError(f"--stream is for models on the Hugging Face Hub, ORG/NAME; {repo!r} is no such id")
    with explain_hub_errors(repo):
        model, sizes = _ask_hub(repo)
    home = cache_dir() / "stream" / repo.replace("/", "--")
    with _own(home), _without_bars():
        folder = _prepare_folder(home, model)
        _await_abandoned(folder)
        yield _open(model, sizes, folder)
        shutil.rmtree(folder, ignore_errors=True)


def _ask_hub(repo: str) -> tuple[HubModel, Mapping[str, int]]:
    """The commit that `main` is at now, and the size of each file in it (bytes; 0 where the Hub does not say)."""
    from huggingface_hub import HfApi

    info = HfApi().model_info(repo, files_metadata=True)
    sizes = {sibling.rfilename: int(sibling.size or 0) for sibling in info.siblings or ()}
    return HubModel(repo=repo, commit=str(info.sha)), sizes


def _open(model: HubModel, sizes: Mapping[str, int], folder: Path) -> Checkpoint:
    shards = {name: _list_tensors(model, name, header) for name, header in sorted(_read_headers(model).items())}
    stored = tuple(tensor for members in shards.values() for tensor in members)
    refuse_duplicates(stored)
    if not stored:
        raise CorruptCheckpointError(model.repo, "it holds no tensors", advice=CHOOSE)
    if CONFIG_NAME in sizes:
        _download(model, CONFIG_NAME, folder)
    config = read_config(folder)
    with RangeReader(model.repo, model.commit) as ranges:
        tensors = group_packed(stored, config, ranges.iter_chunks)
    check_scales(tensors, config)
    source = StreamedSource(tensors, config, ShardStore(model, folder, shards))
    files = tuple(CheckpointFile(name=name, num_bytes=sizes.get(name, 0)) for name in shards)
    info = describe(source, files)
    return Checkpoint(path=folder, info=info, source=source, ties=find_ties(source), remote=source.store)


def _read_headers(model: HubModel) -> Mapping[str, SafetensorsFileMetadata]:
    """The header of every shard, by its name, without its data."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError

    try:
        with explain_hub_errors(model.repo):
            headers = HfApi().get_safetensors_metadata(model.repo, revision=model.commit).files_metadata
    except NotASafetensorsRepoError as error:
        reason = "has no model.safetensors or its index, which --stream needs; scan it without --stream"
        raise UnsupportedFormatError(model.repo, reason) from error
    except SafetensorsParsingError as error:
        raise CorruptCheckpointError(model.repo, f"a safetensors header is broken: {error}", advice=CHOOSE) from error
    for name in headers:
        # A shard is a plain file name: an index must not make us write elsewhere.
        if Path(name).name != name:
            raise CorruptCheckpointError(
                model.repo, f"its index names the shard {name!r}, which is no file name", advice=CHOOSE
            )
    return headers


def _list_tensors(model: HubModel, shard: str, header: SafetensorsFileMetadata) -> list[TensorInfo]:
    """One shard's tensors, in the order of their bytes, as `safetensors.read_header` sorts them."""
    entries = sorted(header.tensors.items(), key=lambda item: (*item[1].data_offsets, item[0]))
    return [
        TensorInfo(
            name=name,
            stored_name=name,
            dtype=str(entry.dtype),
            shape=_check_shape(model, name, entry),
            file=Path(shard),
            offset=entry.data_offsets[0],
            num_bytes=entry.data_offsets[1] - entry.data_offsets[0],
        )
        for name, entry in entries
    ]


def _check_shape(model: HubModel, name: str, entry: Any) -> tuple[int, ...]:
    """The shape, if its bytes are as many as announced; the file itself is checked again when it is here."""
    shape = tuple(entry.shape)
    begin, end = entry.data_offsets
    storage = FORMATS.get(str(entry.dtype))
    if any(not isinstance(size, int) or size < 0 for size in shape) or not 0 <= begin <= end:
        reason = f"tensor {name} has the shape {shape} at bytes {begin} to {end}"
        raise CorruptCheckpointError(model.repo, reason, advice=CHOOSE)
    if storage is not None and math.prod(shape) * storage.block_bytes != end - begin:
        reason = f"tensor {name} of shape {shape} cannot have {end - begin} bytes"
        raise CorruptCheckpointError(model.repo, reason, advice=CHOOSE)
    return shape


def _download(model: HubModel, name: str, folder: Path) -> Path:
    """Bring one file into `folder`; huggingface_hub resumes a part and checks the whole."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(model.repo, name, revision=model.commit, local_dir=folder))
    except Exception as error:  # httpx, huggingface_hub and the disk raise many kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        advice = f"what was finished is kept: run the same command to go on ({folder} holds the parts)"
        raise DownloadError(f"cannot fetch {name} of {model.repo}: {reason}; {advice}") from error


def _prepare_folder(home: Path, model: HubModel) -> Path:
    """This commit's own folder; what an earlier commit left is deleted."""
    folder = home / model.commit[:COMMIT_LENGTH]
    with explain_write_errors(folder):
        for entry in home.iterdir():
            if entry.is_dir() and entry != folder:
                shutil.rmtree(entry, ignore_errors=True)
        folder.mkdir(exist_ok=True)
    return folder


def _name_thread(folder: Path) -> str:
    return f"oblong-download {folder}"


def _await_abandoned(folder: Path) -> None:
    """Let a download end that an interrupted scan in this process left running: its shard would be a third one."""
    for thread in threading.enumerate():
        if thread.name == _name_thread(folder):
            thread.join()


@contextmanager
def _own(home: Path) -> Iterator[None]:
    """Keep every other process out of a model's folder: two would delete each other's shards."""
    from filelock import FileLock, Timeout

    with explain_write_errors(home):
        home.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(home / "lock", timeout=0):
            yield
    except Timeout as error:
        raise OutputWriteError(home, "another scan is streaming this model; wait for that one") from error


@contextmanager
def _without_bars() -> Iterator[None]:
    """Silence huggingface_hub's progress bars, which would be drawn through the scan's own."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
