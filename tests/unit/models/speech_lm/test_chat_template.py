"""The wrapped template writes what the language model's own writes, hears audio, and marks the assistant's words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from oblong.errors import SpeechModelError
from oblong.models.speech_lm.chat_template import find_end_of_turn, get_chat_template, wrap_chat_template
from tests.speech_builders import CHATML, build_tiny, make_tone
from tests.tuning_builders import make_tokenizer

# The shapes of published templates: a default system turn and trimming (SmolLM2, Llama 3), white space control, a slice
# of the messages, a macro, tags of its own, an end token after a space (Llama 2).
TEMPLATES = {
    "chatml": CHATML,
    "llama3": (
        "{{- bos_token }}\n{%- if messages[0]['role'] == 'system' %}\n"
        "    {%- set system = messages[0]['content']|trim %}\n"
        "    {%- set messages = messages[1:] %}\n{%- else %}\n    {%- set system = 'Be kind.' %}\n{%- endif %}\n"
        "{{- '[system]' + system + '<|end|>' }}\n{%- for message in messages %}\n"
        "    {{- '[' + message['role'] + ']\n\n' + message['content'] | trim + '<|end|>' }}\n{%- endfor %}\n"
        "{%- if add_generation_prompt %}\n    {{- '[assistant]\n\n' }}\n{%- endif %}\n"
    ),
    "spaced": (
        "  {% for message in messages %}\n{% if message['role'] == 'user' %}\n[INST] {{ message['content'] }} [/INST]"
        "{% else %} {{ message['content'] }} <|end|>{% endif %}\n{% endfor %}\n\n"
    ),
    "tagged": (
        "{% macro turn(message) %}<{{ message['role'] }}>{% endmacro %}{% for message in messages %}{{ turn(message) }}"
        "{% if message['role'] == 'assistant' %}{%- generation -%}{{ message['content'] }}<|end|>{% endgeneration %}"
        "{% else %}{{ message['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    ),
}
CHATS = (
    [{"role": "user", "content": "Hello \n you"}],
    [{"role": "system", "content": "Listen."}, {"role": "user", "content": "Hello"}],
    [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "Two"},
        {"role": "user", "content": "Three"},
        {"role": "assistant", "content": "four five"},
    ],
)


def make_chatting_tokenizer(template: str) -> PreTrainedTokenizerFast:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    tokenizer.bos_token = "<|end|>"
    return tokenizer


def strip_generation(template: str) -> str:
    return template.replace("{%- generation -%}", "{%- if true -%}").replace("{% endgeneration %}", "{% endif %}")


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("prompted", [False, True])
def test_text_is_written_byte_for_byte_as_before(name: str, chat: list[dict[str, str]], prompted: bool) -> None:
    template = TEMPLATES[name]
    tokenizer = make_chatting_tokenizer(template)
    wrapped = wrap_chat_template(template, find_end_of_turn(tokenizer, template))
    written = [
        tokenizer.apply_chat_template(chat, chat_template=each, tokenize=False, add_generation_prompt=prompted)
        for each in (template, wrapped)
    ]
    assert written[0] == written[1]


@pytest.mark.parametrize(("name", "end"), [("chatml", "<|end|>"), ("llama3", "<|end|>"), ("spaced", " <|end|>")])
def test_the_end_of_a_turn_is_found_in_the_template(name: str, end: str) -> None:
    tokenizer = make_chatting_tokenizer(TEMPLATES[name])
    assert find_end_of_turn(tokenizer, TEMPLATES[name]) == end


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_assistants_words_and_their_end_are_marked(name: str) -> None:
    template = TEMPLATES[name]
    tokenizer = make_chatting_tokenizer(template)
    end = find_end_of_turn(tokenizer, template)
    out: Any = tokenizer.apply_chat_template(
        CHATS[2],
        chat_template=wrap_chat_template(template, end),
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        return_assistant_tokens_mask=True,
    )
    marked = out["input_ids"][0][torch.as_tensor(out["assistant_masks"])[0].bool()]
    assert tokenizer.decode(marked) == f"Two{end}four five{end}"


def test_the_mask_is_right_behind_audio(tmp_path: Path) -> None:
    _, processor = build_tiny(tmp_path)
    chat = [
        {
            "role": "user",
            "content": [{"type": "audio", "audio": make_tone(0)}, {"type": "text", "text": "Write."}],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "hello"}]},
    ]
    out = processor.apply_chat_template(chat, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    mask = torch.as_tensor(out["assistant_masks"])[0].bool()
    assert processor.tokenizer.decode(out["input_ids"][0][mask]) == "hello<|end|>"


def test_a_tokenizer_without_a_template_gets_a_plain_one() -> None:
    tokenizer = make_tokenizer()
    template = get_chat_template(tokenizer)
    assert find_end_of_turn(tokenizer, template) == "<|end|>"
    written = tokenizer.apply_chat_template(CHATS[2][:2], chat_template=template, tokenize=False)
    assert written == "One\nTwo<|end|>\n"


def test_a_template_that_ends_no_turn_is_refused() -> None:
    template = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
    with pytest.raises(SpeechModelError, match="no special token after the assistant's words"):
        find_end_of_turn(make_chatting_tokenizer(template), template)
    with pytest.raises(SpeechModelError, match="template fails: no"):
        find_end_of_turn(make_chatting_tokenizer("{{ raise_exception('no') }}"), "{{ raise_exception('no') }}")
