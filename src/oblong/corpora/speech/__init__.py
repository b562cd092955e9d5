"""Speech in: manifests, datasets and folders of sound files; decoding, length buckets, and sets that oblong builds."""

from oblong.corpora.speech.audio import SAMPLE_RATE, decode_audio, load_audio, measure_seconds, read_sound_file
from oblong.corpora.speech.buckets import BatchPosition, BucketRule, compute_padding_share, iter_batches, plan_epoch
from oblong.corpora.speech.manifest import read_manifest, write_manifest
from oblong.corpora.speech.rows import Columns
from oblong.corpora.speech.sources import SpeechSource, read_speech
from oblong.corpora.speech.usable import (
    AudioLimits,
    SkipReport,
    Sound,
    check_sound,
    check_transcript,
    iter_audio,
    select_usable,
)
from oblong.corpora.speech.utterance import HUMAN, SYNTHETIC, Utterance

__all__ = [
    "HUMAN",
    "SAMPLE_RATE",
    "SYNTHETIC",
    "AudioLimits",
    "BatchPosition",
    "BucketRule",
    "Columns",
    "SkipReport",
    "Sound",
    "SpeechSource",
    "Utterance",
    "check_sound",
    "check_transcript",
    "compute_padding_share",
    "decode_audio",
    "iter_audio",
    "iter_batches",
    "load_audio",
    "measure_seconds",
    "plan_epoch",
    "read_manifest",
    "read_sound_file",
    "read_speech",
    "select_usable",
    "write_manifest",
]
