"""From a recipe to what training needs: checked inputs, the model, and utterances that the encoder has heard."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from oblong.checkpoints.config import read_json_object
from oblong.checkpoints.locate import locate_model
from oblong.corpora.speech import AudioLimits, Utterance, read_manifest
from oblong.errors import DataError, RecipeError, SpeechModelError, UserError
from oblong.evaluation.evaluate import choose_device
from oblong.models.speech_lm import (
    SpeechLMForConditionalGeneration,
    SpeechLMProcessor,
    build_speech_lm,
    find_language_name,
    load_adaptor,
)
from oblong.models.wheels import digest_file
from oblong.records import Plan, SpeechData
from oblong.records.base import digest_bytes, load_document, replace_on_success
from oblong.speech.arms.delta_file import ADAPTOR_FILE, is_speech_delta, read_speech_delta
from oblong.speech.arms.towers import find_towers
from oblong.speech.features import EncodedUtterances, encode_utterances, open_feature_cache
from oblong.speech.training.batches import Clip, list_clips
from oblong.speech.training.old_text import list_unreadable
from oblong.speech.training.processes import ALONE, Processes
from oblong.speech.training.progress import OnSpeechProgress, SpeechProgress
from oblong.speech.training.recipe import SpeechTrainRecipe, resolve_manifest
from oblong.speech.training.scoring import RetentionCorpus, read_retention
from oblong.speech.training.workspace import ALIGNED, RECORDINGS_FILE


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A manifest that was read, not yet listened to."""

    name: str
    path: Path
    digest: str
    utterances: tuple[Utterance, ...]
    num_limited: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Everything that the recipe names and that is no model.

    Attributes:
        train: manifests to learn from.
        evaluate: test sets, by name.
        retention: texts to watch.
        aligned: directory of the adaptor to start from.
        digests: of the files that decide the outcome, and of the texts to watch.
    """

    train: tuple[Manifest, ...]
    evaluate: Mapping[str, Manifest]
    retention: Mapping[str, RetentionCorpus]
    aligned: Path | None
    digests: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeardSet:
    """A manifest that the encoder has heard.

    Attributes:
        clips: utterances that can be used.
        data: for the record.
        digest: of their recordings, in order.
    """

    clips: tuple[Clip, ...]
    data: SpeechData
    digest: str


def read_inputs(recipe: SpeechTrainRecipe, path: Path) -> Inputs:
    """Read all that the recipe names, before any model is loaded.

    Raises:
        RecipeError: something cannot be read; everything that cannot is listed.
    """
    problems: list[str] = []
    train = [
        _try_manifest(problems, f"data.train.{index}", name, recipe.data.limits.train)
        for index, name in enumerate(recipe.data.train)
    ]
    evaluate = {
        name: _try_manifest(problems, f"data.evaluate.{name}", source, recipe.data.limits.evaluate)
        for name, source in recipe.data.evaluate.items()
    }
    retention: Mapping[str, RetentionCorpus] = {}
    try:
        retention = read_retention(recipe.retention)
    except UserError as error:
        problems.append(f"retention: {error}")
    aligned = None
    if recipe.align.start_from is not None:
        aligned = find_aligned(Path(recipe.align.start_from).expanduser())
        if aligned is None:
            problems.append(
                f"align.start_from: {recipe.align.start_from} holds no aligned/ of a finished run, nor a speech delta"
            )
    if recipe.adapt.arm.plan is not None:
        try:
            Plan.read(Path(recipe.adapt.arm.plan))
        except UserError as error:
            problems.append(f"adapt.arm.plan: {error}")
    problems.extend(list_unreadable(recipe))
    for name, model in (("encoder", recipe.encoder), ("language_model", recipe.language_model)):
        try:
            locate_model(model)
        except UserError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise RecipeError(path, problems)
    manifests = [manifest for manifest in (*train, *evaluate.values()) if manifest is not None]
    digests = {str(manifest.path): manifest.digest for manifest in manifests}
    if recipe.adapt.arm.plan is not None:
        digests[recipe.adapt.arm.plan] = digest_file(Path(recipe.adapt.arm.plan))
    if aligned is not None:
        digests[str(aligned)] = digest_file(aligned / ADAPTOR_FILE)
    for name, corpus in retention.items():
        # The losses of the untouched model are kept with the run: of another text they would say nothing.
        digests[f"retention.{name}"] = digest_bytes("\0".join(corpus.documents).encode("utf-8", "surrogatepass"))
    return Inputs(
        train=tuple(manifest for manifest in train if manifest is not None),
        evaluate={name: manifest for name, manifest in evaluate.items() if manifest is not None},
        retention=retention,
        aligned=aligned,
        digests=digests,
    )


def find_aligned(place: Path) -> Path | None:
    """The speech delta of a run's stage A: the directory itself, or `aligned/` in it."""
    return next((path for path in (place / ALIGNED, place) if is_speech_delta(path)), None)


def build_model(
    recipe: SpeechTrainRecipe, langs: Sequence[str]
) -> tuple[SpeechLMForConditionalGeneration, SpeechLMProcessor, torch.device]:
    """The untrained speech LLM, on the device it trains on.

    Args:
        recipe: names its parts.
        langs: of the training utterances. With one language, a request that names none gets the same prompt: a model
            decodes best what it was trained to read.
    """
    model, processor = build_speech_lm(
        recipe.encoder,
        recipe.language_model,
        recipe.adaptor.make_config(),
        dtype=recipe.dtype,
        seed=recipe.seed,
        trailing_silence=recipe.trailing_silence,
    )
    if len(set(langs)) == 1:
        processor.instruction = processor.make_instruction(langs[0])
        model.config.default_prompt_ids = processor.tokenizer(processor.make_prompt(), add_special_tokens=False)[
            "input_ids"
        ]
    device = choose_device(None)
    model.to(device)  # type: ignore[arg-type]
    if device.type == "cpu":
        # torch's fused attention is slow backwards on the CPU; benchmarks/speech_prefix.py measures both.
        language_model: Any = model.model.language_model
        language_model.set_attn_implementation("eager")
    return model, processor, device


def start_from_aligned(model: SpeechLMForConditionalGeneration, aligned: Path, recipe: SpeechTrainRecipe) -> None:
    """Put the adaptor of an earlier stage A into the model.

    Raises:
        UserError: its language model was trained as well, so that the adaptor fits no other.
        SpeechModelError: it was made with another encoder, language model or kind of adaptor, or heard other silence.
        CorruptCheckpointError: a file of it is not what its manifest says.
    """
    delta = read_speech_delta(aligned)
    if delta.trained:
        raise UserError(
            f"{aligned}: its adaptor was trained together with the language model ({delta.manifest.description}): "
            "name the aligned/ of a run, where the adaptor trained alone"
        )
    silence = read_json_object(aligned / "config.json").get("trailing_silence")
    if silence != recipe.trailing_silence:
        raise SpeechModelError(
            f"{aligned}: its adaptor was trained with trailing_silence: {json.dumps(silence)}, and the recipe says "
            f"{json.dumps(recipe.trailing_silence)}, with which the encoder says something else: make them equal"
        )
    find_towers(delta.manifest, encoder=recipe.encoder, language_model=recipe.language_model)
    load_adaptor(model, aligned / ADAPTOR_FILE)


def hear(
    manifest: Manifest,
    model: SpeechLMForConditionalGeneration,
    processor: SpeechLMProcessor,
    recipe: SpeechTrainRecipe,
    on_progress: OnSpeechProgress,
    processes: Processes = ALONE,
) -> HeardSet:
    """Run the encoder on a manifest, or find what it said in the cache; what cannot be used is counted with reasons.

    Several processes encode a share each into the cache and read it all from there; without a cache each encodes all.

    Raises:
        DataError: nothing of it can be used.
    """

    def report(done: int, total: int) -> None:
        on_progress(SpeechProgress(activity=f"encoding {manifest.name}", done=done, total=total))

    def encode(utterances: Sequence[Utterance]) -> EncodedUtterances:
        try:
            return encode_utterances(
                model,
                processor,
                utterances,
                cache=open_feature_cache() if recipe.cache else None,
                limits=AudioLimits(max_seconds=recipe.data.limits.max_seconds),
                on_progress=report,
            )
        except DataError as error:
            raise DataError(f"{manifest.path}: {error}") from error

    def fill_cache() -> None:
        # That nothing of a share can be used is no failure; whether nothing at all can, the whole will tell.
        with suppress(DataError):
            encode(manifest.utterances[processes.rank :: processes.count])

    if recipe.cache and processes.count > 1:
        processes.agree(fill_cache)
    encoded = processes.agree(lambda: encode(manifest.utterances))
    clips = tuple(list_clips(encoded))
    data = SpeechData(
        manifest=str(manifest.path),
        digest=manifest.digest,
        num_utterances=len(clips),
        num_limited=manifest.num_limited,
        seconds=sum(clip.seconds for clip in clips),
        skipped=tuple(encoded.skipped),
    )
    return HeardSet(clips=clips, data=data, digest=digest_bytes("\n".join(encoded.keys).encode()))


def pin_recordings(workspace: Path, sets: Mapping[str, HeardSet]) -> None:
    """Write down what a run hears, or make sure that it is what the run began with.

    Batches go by an utterance's place among those that can be used, so one that is missing now would move all.

    Args:
        workspace: of the run.
        sets: by the recipe's names for them.

    Raises:
        UserError: recordings are missing, new, or others.
        RecordError: what was written down cannot be read.
        OutputWriteError: the disk is full or the place is not writable.
    """
    path = workspace / RECORDINGS_FILE
    now = {name: {"num_utterances": len(heard.clips), "digest": heard.digest} for name, heard in sets.items()}
    if not path.exists():
        with replace_on_success(path, force=True) as file:
            json.dump(now, file, indent=1)
        return
    before = load_document(path)
    for name, heard in sets.items():
        if before.get(name) == now[name]:
            continue
        counts = f"{before.get(name, {}).get('num_utterances')} could be used then, {len(heard.clips)} can now"
        skipped = heard.data.skipped
        example = f"; skipped now: {skipped[0].audio}: {skipped[0].reason}" if skipped else ""
        raise UserError(
            f"data.{name}: the recordings of {heard.data.manifest} are not those that the unfinished run in "
            f"{workspace} began with ({counts}{example}): put them back, or pass --fresh to start over"
        )


def spread_evenly(utterances: Sequence[Utterance], limit: int | None) -> tuple[Utterance, ...]:
    """So many utterances, at equal distances: manifests are sorted, and their beginning is not typical."""
    count = len(utterances) if limit is None else min(limit, len(utterances))
    return tuple(utterances[index * len(utterances) // count] for index in range(count))


def _try_manifest(problems: list[str], field: str, name: str, limit: int | None) -> Manifest | None:
    path = resolve_manifest(name)
    try:
        utterances = read_manifest(path)
    except DataError as error:
        hint = "; `oblong speech fetch-data` builds it" if name.startswith("speech:") and not path.exists() else ""
        problems.append(f"{field}: {error}{hint}")
        return None
    kept = spread_evenly(utterances, limit)
    problems += [f"{field}: {problem}" for problem in _find_nameless_languages(path, kept)]
    return Manifest(
        name=path.stem,
        path=path,
        digest=digest_file(path),
        utterances=kept,
        num_limited=len(utterances) - len(kept),
    )


def _find_nameless_languages(path: Path, utterances: Sequence[Utterance]) -> Iterator[str]:
    """Problems with languages: every prompt names the utterance's."""
    for lang, count in Counter(utterance.lang for utterance in utterances).items():
        if find_language_name(lang) is None:
            yield (
                f"{path}: field 'lang' is {lang!r} in {count} of {len(utterances)} utterances, a language that prompts "
                "have no name for: correct it, or leave these utterances out"
            )
