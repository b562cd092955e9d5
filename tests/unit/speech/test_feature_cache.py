"""Features from the cache are what the encoder would say, bit for bit; what is damaged or changed is computed again."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from oblong.corpora.speech import AudioLimits, Utterance, load_audio
from oblong.errors import DataError, OutputWriteError, SpeechModelError
from oblong.models.speech_lm import build_speech_lm
from oblong.speech.features import EncodedUtterances, FeatureCache, encode_utterances
from oblong.speech.features import shards as shards_module
from tests.sound_builders import make_tone, write_sound
from tests.speech_builders import SpeechLM, build_tiny, find_real_models

SECONDS = (0.1, 0.3, 0.52, 0.75, 1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("speech")


@pytest.fixture(scope="module")
def speech_lm(folder: Path) -> SpeechLM:
    return build_tiny(folder)


@pytest.fixture
def utterances(tmp_path: Path) -> list[Utterance]:
    paths = [
        write_sound(tmp_path / f"{index}.wav", make_tone(seconds, hertz=300 + 100 * index))
        for index, seconds in enumerate(SECONDS)
    ]
    return [Utterance(path, f"Tone {index}.", "en") for index, path in enumerate(paths)]


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "features")


def encode(speech_lm: SpeechLM, utterances: list[Utterance], cache: FeatureCache | None) -> EncodedUtterances:
    return encode_utterances(*speech_lm, utterances, cache=cache)


def hear_live(speech_lm: SpeechLM, audio: list[Any]) -> Any:
    model, processor = speech_lm
    inputs = processor.feature_extractor(audio, sampling_rate=16_000, return_attention_mask=True, return_tensors="pt")
    with torch.no_grad():
        return model.encode_audio(inputs["input_features"].to(model.dtype), inputs["attention_mask"])


def count(encoded: EncodedUtterances) -> tuple[int, int, int]:
    return encoded.cost.num_cached, encoded.cost.num_encoded, encoded.cost.num_damaged


def assert_same(one: EncodedUtterances, other: EncodedUtterances) -> None:
    assert one.utterances == other.utterances
    assert all(torch.equal(mine, its) for mine, its in zip(one.features, other.features, strict=True))


def data_files(cache: FeatureCache, suffix: str) -> list[Path]:
    return sorted(cache.folder.rglob(f"*.{suffix}"))


class TestBits:
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_live_in_memory_written_and_read_back_agree_to_the_bit(
        self, folder: Path, utterances: list[Utterance], cache: FeatureCache, dtype: Any
    ) -> None:
        speech_lm = build_tiny(folder, dtype=dtype)
        in_memory = encode(speech_lm, utterances, None)
        written = encode(speech_lm, utterances, cache)
        read = encode(speech_lm, utterances, cache)
        assert [count(encoded) for encoded in (in_memory, written, read)] == [(0, 5, 0), (0, 5, 0), (5, 0, 0)]
        assert_same(in_memory, written)
        assert_same(written, read)
        for index, utterance in enumerate(utterances):
            live = hear_live(speech_lm, [load_audio(utterance.audio)]).frames[0]
            assert torch.equal(read[index], live.to(torch.bfloat16))

    def test_they_do_not_depend_on_neighbours_and_order(self, speech_lm: SpeechLM, utterances: list[Utterance]) -> None:
        together = encode(speech_lm, utterances, None)
        backwards = encode(speech_lm, utterances[::-1], None)
        assert all(map(torch.equal, together.features, backwards.features[::-1]))
        batch = hear_live(speech_lm, [load_audio(utterance.audio) for utterance in utterances]).split()
        for alone, among in zip(together.features, batch, strict=True):
            torch.testing.assert_close(alone.float(), among, rtol=2**-7, atol=1e-5)

    def test_a_bfloat16_encoder_gives_the_language_model_the_same_bits(
        self, folder: Path, utterances: list[Utterance], cache: FeatureCache
    ) -> None:
        model, processor = build_tiny(folder, dtype="bfloat16")
        encode((model, processor), utterances, cache)
        cached = encode((model, processor), utterances, cache)
        inputs = processor.apply_transcription_request([load_audio(utterances[3].audio)])
        with torch.no_grad():
            live = model(**inputs.to(torch.bfloat16)).logits
            known = model(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                audio_features=[cached[3]],
            ).logits
        assert torch.equal(live, known)

    def test_a_real_encoder_says_the_same_alone_and_from_the_cache(self, folder: Path, cache: FeatureCache) -> None:
        whisper, _ = find_real_models()
        build_tiny(folder)
        speech_lm = build_speech_lm(whisper, folder / "llama")
        path = write_sound(cache.folder.parent / "tone.wav", make_tone(1.3))
        utterances = [Utterance(path, "Tone.", "en")]
        encode(speech_lm, utterances, cache)
        cached = encode(speech_lm, utterances, cache)
        live = hear_live(speech_lm, [load_audio(path)]).frames[0]
        assert count(cached) == (1, 0, 0)
        assert cached[0].shape == (65, 384)
        assert torch.equal(cached[0], live)

    def test_cropped_to_valid_frames(self, speech_lm: SpeechLM, utterances: list[Utterance]) -> None:
        encoded = encode(speech_lm, utterances, None)
        assert len(encoded) == 5
        assert [encoded.num_frames(index) for index in range(5)] == [5, 15, 26, 38, 50]
        assert [encoded.seconds(index) for index in range(5)] == list(SECONDS)
        assert {tuple(features.shape[1:]) for features in encoded.features} == {(16,)}
        assert {features.dtype for features in encoded.features} == {torch.bfloat16}

    def test_they_can_be_trained_on_and_written_into(
        self, speech_lm: SpeechLM, utterances: list[Utterance], cache: FeatureCache
    ) -> None:
        model, _ = speech_lm
        encode(speech_lm, utterances, cache)
        features = encode(speech_lm, utterances, cache)[0]
        tokens = model.get_audio_features(audio_features=[features])["pooler_output"]
        tokens.sum().backward()
        features.zero_()
        assert encode(speech_lm, utterances, cache)[0].any()
        model.zero_grad()


class TestKeys:
    def test_a_recording_that_is_there_twice_is_encoded_once(
        self, speech_lm: SpeechLM, utterances: list[Utterance], cache: FeatureCache, tmp_path: Path
    ) -> None:
        copy = tmp_path / "copy.wav"
        copy.write_bytes(utterances[0].audio.read_bytes())
        encoded = encode(speech_lm, [utterances[0], replace(utterances[0], audio=copy)], cache)
        assert (len(encoded), count(encoded)) == (2, (0, 1, 0))

    def test_other_bytes_under_the_same_name_size_and_time_are_another_recording(
        self, speech_lm: SpeechLM, utterances: list[Utterance], cache: FeatureCache
    ) -> None:
        first = encode(speech_lm, utterances[:1], cache)
        path = utterances[0].audio
        before = path.stat()
        write_sound(path, make_tone(SECONDS[0], hertz=1000))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert path.stat().st_size == before.st_size
        second = encode(speech_lm, utterances[:1], cache)
        assert count(second) == (0, 1, 0)
        assert not torch.equal(first[0], second[0])

    def test_a_new_time_alone_is_none(
        self, speech_lm: SpeechLM, utterances: list[Utterance], cache: FeatureCache
    ) -> None:
        encode(speech_lm, utterances, cache)
        os.utime(utterances[0].audio)
        assert count(encode(speech_lm, utterances, cache)) == (5, 0, 0)


class TestBadInput:
    def test_what_cannot_be_used_is_skipped_with_its_reason(
        self, speech_lm: SpeechLM, utterances: list[Utterance], cache: FeatureCache, tmp_path: Path
    ) -> None:
        (tmp_path / "corrupt.wav").write_bytes(b"RIFFnonsense")
        write_sound(tmp_path / "31 seconds.wav", make_tone(31))
        write_sound(tmp_path / "silent.wav", make_tone(0.5, level=0))
        write_sound(tmp_path / "short.wav", make_tone(0.01))
        bad = [
            Utterance(tmp_path / f"{name}.wav", "Something.", "en")
            for name in ("missing", "corrupt", "31 seconds", "silent", "short")
        ]
        mixed = [utterances[0], *bad, replace(utterances[1], text=""), utterances[2]]
        seen: list[tuple[int, int]] = []
        for _ in range(2):
            encoded = encode_utterances(
                *speech_lm, mixed, cache=cache, on_progress=lambda done, total: seen.append((done, total))
            )
            assert [utterance.audio.stem for utterance in encoded.utterances] == ["0", "2"]
            assert encoded.skips.counts == {
                "missing": 1, "corrupt": 1, "too long": 1, "silent": 1, "too short": 1, "empty transcript": 1,
            }  # fmt: skip
            reasons = {Path(item.audio).stem: item.reason for item in encoded.skipped}
            assert reasons["missing"] == "no such file"
            assert reasons["31 seconds"] == "lasts 31.0 s, more than 1 s"
        assert seen == [(number, 8) for number in range(1, 9)] * 2

    def test_limits_hold_for_what_the_cache_has_too(
        self, speech_lm: SpeechLM, utterances: list[Utterance], cache: FeatureCache, tmp_path: Path
    ) -> None:
        silence = write_sound(tmp_path / "silence.wav", make_tone(0.5, level=0))
        unsaid = [*utterances, Utterance(silence, "", "en")]
        all_of_them = encode_utterances(*speech_lm, unsaid, cache=cache, limits=AudioLimits(keep_empty_text=True))
        assert len(all_of_them) == 6
        said = [*utterances, Utterance(silence, "Said.", "en")]
        limited = encode_utterances(*speech_lm, said, cache=cache, limits=AudioLimits(max_seconds=0.6))
        assert limited.skips.counts == {"too long": 2, "silent": 1}
        assert limited.cost.num_encoded == 0

    def test_nothing_that_can_be_used_is_refused(self, speech_lm: SpeechLM, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"none of 1 utterances can be used: 1 skipped: 1 missing"):
            encode(speech_lm, [Utterance(tmp_path / "nowhere.wav", "Text.", "en")], None)
        with pytest.raises(DataError, match=r"none of 0 utterances can be used: there are none"):
            encode(speech_lm, [], None)

    def test_an_encoder_that_trains_is_refused(self, folder: Path, utterances: list[Utterance]) -> None:
        model, processor = build_tiny(folder)
        model.model.audio_tower.conv1.requires_grad_(True)
        with pytest.raises(SpeechModelError, match=r"2 tensors of the encoder train, such as conv1\.weight"):
            encode((model, processor), utterances, None)

    def test_an_encoder_that_says_nan_is_named(
        self, folder: Path, utterances: list[Utterance], cache: FeatureCache
    ) -> None:
        model, processor = build_tiny(folder)
        with torch.no_grad():
            model.model.audio_tower.layer_norm.bias[0] = float("nan")
        with pytest.raises(DataError, match="5 not finite"):
            encode((model, processor), utterances, cache)
        assert cache.measure_usage().num_clips == 0


class TestFailing:
    def test_a_killed_call_goes_on_where_it_stopped(
        self, speech_lm: SpeechLM, utterances: list[Utterance], cache: FeatureCache
    ) -> None:
        def kill(done: int, total: int) -> None:
            if done == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            encode_utterances(*speech_lm, utterances, cache=cache, on_progress=kill)
        resumed = encode(speech_lm, utterances, cache)
        assert count(resumed) == (3, 2, 0)
        assert_same(resumed, encode(speech_lm, utterances, None))

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
    @pytest.mark.parametrize("suffix", ["jsonl", "bf16"])
    def test_what_was_cut_off_is_computed_again(
        self, speech_lm: SpeechLM, utterances: list[Utterance], cache: FeatureCache, suffix: str, share: float
    ) -> None:
        whole = encode(speech_lm, utterances, None)
        encode(speech_lm, utterances, cache)
        path = data_files(cache, suffix)[0]
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        mended = encode(speech_lm, utterances, cache)
        num_cached, num_encoded, num_damaged = count(mended)
        assert num_cached + num_encoded == 5
        assert num_encoded >= 1
        assert num_damaged == (num_encoded if suffix == "bf16" else 0)
        assert_same(mended, whole)
        assert count(encode(speech_lm, utterances, cache)) == (5, 0, 0)

    @pytest.mark.parametrize("suffix", ["jsonl", "bf16"])
    def test_a_flipped_byte_is_found(
        self, speech_lm: SpeechLM, utterances: list[Utterance], cache: FeatureCache, suffix: str
    ) -> None:
        whole = encode(speech_lm, utterances, None)
        encode(speech_lm, utterances, cache)
        path = data_files(cache, suffix)[0]
        content = bytearray(path.read_bytes())
        content[-20] ^= 1
        path.write_bytes(content)
        mended = encode(speech_lm, utterances, cache)
        assert count(mended) == (4, 1, 1 if suffix == "bf16" else 0)
        assert_same(mended, whole)

    def test_two_that_write_at_once_do_not_disturb_each_other(
        self, speech_lm: SpeechLM, utterances: list[Utterance], cache: FeatureCache
    ) -> None:
        def encode_in_between(done: int, total: int) -> None:
            if done == 2:
                assert count(encode(speech_lm, utterances[1:4], cache)) == (1, 2, 0)

        outer = encode_utterances(*speech_lm, utterances, cache=cache, on_progress=encode_in_between)
        assert_same(outer, encode(speech_lm, utterances, None))
        after = encode(speech_lm, utterances, cache)
        assert count(after) == (5, 0, 0)
        assert_same(after, outer)

    def test_a_full_disk_ends_it_and_keeps_what_is_encoded(
        self,
        speech_lm: SpeechLM,
        utterances: list[Utterance],
        cache: FeatureCache,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        write, sizes = shards_module._write_all, []

        def write_until_full(file: Any, content: memoryview) -> None:
            sizes.append(len(content))
            if len(sizes) == 6:  # a header, two clips with their lines, and the third clip's frames
                write(file, content[: len(content) // 2])
                raise OSError(errno.ENOSPC, "No space left on device")
            write(file, content)

        monkeypatch.setattr(shards_module, "_write_all", write_until_full)
        with pytest.raises(OutputWriteError, match=r"No space left on device; what is encoded so far is kept\."):
            encode(speech_lm, utterances, cache)
        monkeypatch.undo()
        assert count(encode(speech_lm, utterances, cache)) == (2, 3, 0)

    def test_a_place_that_cannot_be_written_is_named(
        self, speech_lm: SpeechLM, utterances: list[Utterance], tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(OutputWriteError, match=r"another folder in \$OBLONG_FEATURE_CACHE"):
            encode(speech_lm, utterances, FeatureCache(tmp_path / "file"))

    def test_a_cache_that_is_cleared_meanwhile_says_so(
        self, speech_lm: SpeechLM, utterances: list[Utterance], cache: FeatureCache
    ) -> None:
        def clear_at_the_end(done: int, total: int) -> None:
            if done == total:
                cache.clear()

        with pytest.raises(OutputWriteError, match="cleared while it was being filled"):
            encode_utterances(*speech_lm, utterances, cache=cache, on_progress=clear_at_the_end)
        assert count(encode(speech_lm, utterances, cache)) == (0, 5, 0)

    def test_features_stay_readable_after_the_cache_was_cleared(
        self, speech_lm: SpeechLM, utterances: list[Utterance], cache: FeatureCache
    ) -> None:
        encoded = encode(speech_lm, utterances, cache)
        cache.clear()
        assert_same(encoded, encode(speech_lm, utterances, None))


class TestSize:
    def test_usage_and_pruning(self, speech_lm: SpeechLM, utterances: list[Utterance], cache: FeatureCache) -> None:
        for age, some in enumerate((utterances[:2], utterances[2:])):
            encode(speech_lm, some, cache)
            newest = max(data_files(cache, "jsonl"), key=lambda path: path.stat().st_mtime_ns)
            os.utime(newest, ns=(0, newest.stat().st_mtime_ns - (1 - age) * 10 * 86_400 * 10**9))
        usage = cache.measure_usage()
        assert (usage.num_clips, usage.num_encoders, usage.num_damaged) == (5, 1, 0)
        assert usage.audio_seconds == pytest.approx(sum(SECONDS))
        assert usage.num_bytes == sum(path.stat().st_size for path in cache.folder.rglob("*.*"))
        assert cache.prune(max_bytes=usage.num_bytes) == cache.prune(older_than_days=20) == 0
        assert cache.prune(max_bytes=usage.num_bytes - 1) > 0
        assert cache.measure_usage().num_clips == 3
        assert cache.prune(older_than_days=1) == 0
        assert cache.clear() > 0
        assert cache.measure_usage().num_bytes == 0

    def test_a_large_shard_is_followed_by_another(
        self, speech_lm: SpeechLM, utterances: list[Utterance], cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shards_module, "MAX_SHARD_BYTES", 1000)
        written = encode(speech_lm, utterances, cache)
        assert len(data_files(cache, "bf16")) == 3
        assert_same(written, encode(speech_lm, utterances, cache))
