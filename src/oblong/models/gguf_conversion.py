"""From a GGUF file of a Llama model to a transformers directory in bfloat16."""

from __future__ import annotations

from pathlib import Path

from oblong.models.quiet import quiet_transformers
from oblong.models.wheels import Progress


def convert_gguf(gguf: Path, directory: Path, report: Progress) -> None:
    """Dequantise a GGUF file of a Llama model and write a model directory in bfloat16.

    The directory is an ordinary Llama checkpoint, but what it holds are the rounded numbers of the GGUF file: measures
    of its smallest singular values are those of the rounded weights, not of the original release
    (docs/explanation/trust.md).

    Args:
        gguf: the file; its tokenizer must be SmolLM2's, of which GGUF keeps too little.
        directory: made by this.
        report: told of the stage `convert`, 2 steps.
    """
    import torch
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with quiet_transformers():
        report("convert", 0, 2)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        # A GGUF file only names its pre-tokenizer ("smollm"); transformers rebuilds GPT-2's, without the digit split.
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
            [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
        )
        report("convert", 1, 2)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
        )
        report("convert", 2, 2)
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
