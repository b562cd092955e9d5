"""Records: the frozen, versioned files through which the stages meet. No torch here."""

from oblong.records.base import Part, Provenance, Record
from oblong.records.comparison import ArmRun, Change, Comparison, Interval
from oblong.records.evaluation import CorpusScore, DocumentScore, Drift, Evaluation
from oblong.records.packed_spectrum import PackedSpectrum
from oblong.records.plan import Budget, Plan, PlannedTensor, Rule, Totals
from oblong.records.run import DataSource, DeltaManifest, Run, RunStatus, TensorDigest, TrainingPoint
from oblong.records.scan import (
    HEAD_ROLES,
    CheckpointFile,
    CheckpointInfo,
    Measures,
    Scan,
    ScanConfig,
    ScanHeader,
    Status,
    Unit,
)
from oblong.records.spectra import SpectraFile
from oblong.records.speech_delta import SPEECH_DELTA_FILE, LoraShape, SpeechDelta, TensorIdentity, Tower
from oblong.records.speech_evaluation import (
    Ending,
    ErrorCounts,
    GroupScores,
    NormaliserInfo,
    SkippedAudio,
    SpeechEvaluation,
    SpeechSet,
    SpeechSettings,
    Transcript,
    TranscriptScores,
    UtteranceErrors,
)
from oblong.records.units import Units

__all__ = [
    "HEAD_ROLES",
    "SPEECH_DELTA_FILE",
    "ArmRun",
    "Budget",
    "Change",
    "CheckpointFile",
    "CheckpointInfo",
    "Comparison",
    "CorpusScore",
    "DataSource",
    "DeltaManifest",
    "DocumentScore",
    "Drift",
    "Ending",
    "ErrorCounts",
    "Evaluation",
    "GroupScores",
    "Interval",
    "LoraShape",
    "Measures",
    "NormaliserInfo",
    "PackedSpectrum",
    "Part",
    "Plan",
    "PlannedTensor",
    "Provenance",
    "Record",
    "Rule",
    "Run",
    "RunStatus",
    "Scan",
    "ScanConfig",
    "ScanHeader",
    "SkippedAudio",
    "SpectraFile",
    "SpeechDelta",
    "SpeechEvaluation",
    "SpeechSet",
    "SpeechSettings",
    "Status",
    "TensorDigest",
    "TensorIdentity",
    "Totals",
    "Tower",
    "TrainingPoint",
    "Transcript",
    "TranscriptScores",
    "Unit",
    "Units",
    "UtteranceErrors",
]
