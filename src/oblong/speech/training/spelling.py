"""Spelling: the adaptor learns what is said before the language model is asked to listen.

Stage A teaches the adaptor through the whole language model, and at first its gradient says little: it has to find out
which frames belong to which token. That is what connectionist temporal classification (CTC) is for. Here its output
layer is the language model's own embedding table: every audio token is compared with the embeddings of the tokens that
occur in the training transcripts, and with that of a space for "nothing new here". What minimises the loss is a
sequence of audio tokens that lie where the transcript's tokens lie. No pass through the language model is needed: in
the run of docs/explanation/figure-1-again.md an utterance cost a twelfth of one in stage A (14,841 in 673 s against
940 in 518 s, in batches of other sizes).

    logits[m, v] = scale * <audio token m, embedding v> + bias[v]
    loss = -log P_CTC(transcript | logits) / number of its tokens + w * mean over m of log(rms(audio token m) / r)^2,
           a mean over utterances

where r is the root mean square of the embeddings. Without the second term longer vectors win: they make surer logits,
and the language model, which has never seen an embedding of that length, listens to them later.

Source: Graves et al. 2006 for the loss. LegoSLM (arXiv 2505.11352) feeds CTC posteriors, as mixtures of embeddings, to
the language model; here CTC only trains the adaptor and is then gone. Measured in EXPERIMENTS.md; see design/057.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional

from oblong.corpora.speech import BucketRule, plan_epoch
from oblong.models.speech_lm import SpeechLMForConditionalGeneration, SpeechLMProcessor
from oblong.models.speech_lm.encoded_audio import EncodedAudio
from oblong.models.speech_lm.modeling import IGNORED
from oblong.models.speech_lm.supervision import tokenise_answer
from oblong.speech.training.batches import Clip, SpeechBatch

BLANK_TEXT: Final = " "
# The logit of an audio token that equals an embedding, at the start: it can be sure among some thousands of others.
FIRST_LOGIT: Final = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SpellingOutput:
    """What a batch says: `loss`, nats per token of the transcripts, and the term of the length."""

    loss: torch.Tensor


class Speller(nn.Module):
    """A CTC head made of the language model's embeddings, which stay as they are.

    Args:
        model: its adaptor trains.
        processor: the model's.
        clips: whose transcripts name the tokens to tell apart.
        length_weight: of the term that keeps audio tokens as long as embeddings.

    Attributes:
        scale: of the comparison; trains.
        bias: one for the blank and one for each token; trains.
    """

    def __init__(
        self,
        model: SpeechLMForConditionalGeneration,
        processor: SpeechLMProcessor,
        clips: Sequence[Clip],
        *,
        length_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self._length_weight = length_weight
        self._adaptor = model.model.multi_modal_projector
        # The end of the turn is no sound.
        self._num_end = len(tokenise_answer(processor, ""))
        texts = sorted({clip.utterance.text for clip in clips})
        spoken = sorted({token for text in texts for token in self._cut(tokenise_answer(processor, text))})
        blank = processor.tokenizer(BLANK_TEXT, add_special_tokens=False)["input_ids"][-1:] or spoken[:1]
        device = model.lm_head.weight.device
        with torch.no_grad():
            table: Any = model.get_input_embeddings()
            rows: torch.Tensor = table(torch.tensor([*blank, *spoken], device=device)).float()
        self._embeddings: torch.Tensor
        self.register_buffer("_embeddings", rows, persistent=False)
        self._places = {token: place for place, token in enumerate(spoken, 1)}
        self.scale = nn.Parameter(torch.tensor(FIRST_LOGIT / float(rows.square().sum(-1).mean()), device=device))
        self.bias = nn.Parameter(torch.zeros(len(rows), device=device))

    @property
    def own_parameters(self) -> Mapping[str, nn.Parameter]:
        """What trains beside the adaptor, by name."""
        return {"speller.scale": self.scale, "speller.bias": self.bias}

    def forward(self, batch: SpeechBatch) -> SpellingOutput:
        """The loss of a batch.

        Rows whose audio is too short for their transcript count as zero.

        Args:
            batch: on the model's device.
        """
        tokens_NMH, mask_NM = self._hear(batch)
        log_probabilities_NMV, lengths = self._compare(tokens_NMH), mask_NM.sum(-1)
        targets = [self._find_targets(labels) for labels in batch.labels]
        counts = torch.tensor([len(target) for target in targets], device=lengths.device)
        losses = functional.ctc_loss(
            log_probabilities_NMV.transpose(0, 1),
            torch.cat(targets).to(lengths.device),
            lengths,
            counts,
            reduction="none",
            zero_infinity=True,
        )
        # Means over utterances, so that processes with a share each add up to the same.
        per_utterance = losses / counts.clamp(min=1) + self._length_weight * self._compare_length(tokens_NMH, mask_NM)
        return SpellingOutput(loss=per_utterance.sum() / batch.num_utterances)

    @torch.no_grad()
    def spell(self, batch: SpeechBatch) -> list[list[int]]:
        """The most probable frame by frame, repetitions and blanks taken out: token ids of each utterance."""
        tokens = {place: token for token, place in self._places.items()}
        tokens_NMH, mask_NM = self._hear(batch)
        best_NM = self._compare(tokens_NMH).argmax(-1)
        return [
            [tokens[place] for place in torch.unique_consecutive(row[mask]).tolist() if place]
            for row, mask in zip(best_NM, mask_NM, strict=True)
        ]

    def _hear(self, batch: SpeechBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Audio tokens (N, M, H), float32, and which of them are audio, (N, M)."""
        audio = EncodedAudio.gather(batch.frames, None)
        tokens_NMH, mask_NM = self._adaptor(audio.frames, audio.mask)
        return tokens_NMH.float(), mask_NM

    def _compare(self, tokens_NMH: torch.Tensor) -> torch.Tensor:
        """Log probabilities (N, M, V)."""
        logits_NMV = functional.linear(tokens_NMH, self._embeddings) * self.scale + self.bias
        return logits_NMV.log_softmax(-1)

    def _compare_length(self, tokens_NMH: torch.Tensor, mask_NM: torch.Tensor) -> torch.Tensor:
        """How far each utterance's audio tokens are from being as long as embeddings, (N,).

        The mean over the tokens of log(rms / rms of the embeddings)^2.
        """
        power_NM = tokens_NMH.square().mean(-1).masked_fill(~mask_NM, 1.0)
        square_NM = (0.5 * (power_NM / self._embeddings.square().mean()).log()).square()
        return (square_NM * mask_NM).sum(-1) / mask_NM.sum(-1).clamp(min=1)

    def _find_targets(self, labels: torch.Tensor) -> torch.Tensor:
        """Places of a transcript's tokens; one that no training transcript has is left out."""
        tokens = self._cut(labels[labels != IGNORED].tolist())
        return torch.tensor([self._places[token] for token in tokens if token in self._places], dtype=torch.long)

    def _cut(self, answer: list[int]) -> list[int]:
        return answer[: len(answer) - self._num_end]


def count_spelling_steps(clips: Sequence[Clip], rule: BucketRule, *, epochs: float, seed: int) -> int:
    """Steps of so many epochs, each as long as the first."""
    seconds = [clip.seconds for clip in clips]
    return math.ceil(epochs * len(plan_epoch(seconds, rule, seed=seed, epoch=0)))
