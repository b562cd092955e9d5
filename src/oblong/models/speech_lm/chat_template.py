"""A language model's own chat template, taught to hear: `<|audio|>` in the user's turn, the assistant's turn marked.

Chat templates of language models take a message's content as one string. Around the model's template, whose output
stays byte for byte what it was, this puts two things. Before it, content given as a list of parts (text, audio) is
joined into a string. After it, the assistant's words and the token that ends its turn are put between
`{% generation %}` tags, which transformers needs to say which tokens are the assistant's. Control characters that no
text has mark the words on their way through the template.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from transformers import PreTrainedTokenizerBase

from oblong.errors import SpeechModelError

AUDIO_TOKEN: Final = "<|audio|>"
OPEN, CLOSE = "\x02", "\x03"
PROBE: Final = f"{OPEN}words{CLOSE}"

# Jinja drops the line break after `rendered %}`, so that the template starts a line, as it does on its own; `{%+` keeps
# the white space at its end.
_WRAPPED: Final = r"""{%- set heard = namespace(messages=[], content='') -%}
{%- for message in messages -%}
  {%- set heard.content = message['content'] -%}
  {%- if heard.content is defined and heard.content is not string and heard.content is iterable -%}
    {%- set heard.content = '' -%}
    {%- for part in message['content'] -%}
      {%- if part['type'] == 'audio' -%}{%- set heard.content = heard.content + AUDIO -%}
      {%- elif part['type'] == 'text' -%}{%- set heard.content = heard.content + part['text'] -%}
      {%- else -%}{{- raise_exception('this model takes text and audio, not ' ~ part['type']) -}}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {%- if message['role'] == 'assistant' and heard.content is string -%}
    {%- set heard.content = '\x02' + heard.content + '\x03' -%}
  {%- endif -%}
  {%- if heard.content is defined -%}{%- set message = dict(message, content=heard.content) -%}{%- endif -%}
  {%- set heard.messages = heard.messages + [message] -%}
{%- endfor -%}
{%- set messages = heard.messages -%}
{%- set rendered %}
TEMPLATE{%+ endset -%}
{%- for turn in rendered.split('\x02') -%}
  {%- if loop.first -%}{{- turn -}}
  {%- else -%}
    {%- set words = turn.split('\x03')[0] -%}
    {%- set rest = turn[words | length + 1:] -%}
    {%- if rest.startswith(END) -%}
      {%- generation -%}{{- words + END -}}{%- endgeneration -%}{{- rest[END | length:] -}}
    {%- else -%}
      {%- generation -%}{{- words -}}{%- endgeneration -%}{{- rest -}}
    {%- endif -%}
  {%- endif -%}
{%- endfor -%}
"""
# For language models without a template: the audio and the instruction on lines of their own.
_PLAIN: Final = (
    "{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}END{% endif %}{{ '\\n' }}{% endfor %}"
)


def wrap_chat_template(template: str, end_of_turn: str) -> str:
    """Teach a chat template audio parts and generation tags.

    Args:
        template: the language model's.
        end_of_turn: what it writes right after the assistant's words; see `find_end_of_turn`.
    """
    marked = re.sub(r"(\{%[-+]?\s*)generation(\s*[-+]?%\})", r"\1if true\2", template)
    marked = re.sub(r"(\{%[-+]?\s*)endgeneration(\s*[-+]?%\})", r"\1endif\2", marked)
    literals = {"AUDIO": json.dumps(AUDIO_TOKEN), "END": json.dumps(end_of_turn)}
    wrapped = re.sub(r"\b(AUDIO|END)\b", lambda found: literals[found[1]], _WRAPPED)
    # Jinja drops a template's last newline; inside another template it would stay.
    return wrapped.replace("TEMPLATE", marked.removesuffix("\n"))


def get_chat_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """A tokenizer's chat template, or a plain one where it has none."""
    template: Any = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    return template if isinstance(template, str) else _PLAIN.replace("END", tokenizer.eos_token or "")


def find_end_of_turn(tokenizer: PreTrainedTokenizerBase, template: str) -> str:
    """What a chat template writes after the assistant's words, up to and with the first special token.

    Raises:
        SpeechModelError: it writes none, or cannot write a turn of user and assistant: nothing would tell the model
            where to stop.
    """
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": PROBE}]
    try:
        rendered = str(tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False))
    except Exception as error:  # a template may raise anything
        raise SpeechModelError(f"the language model's chat template fails: {error}") from error
    rest = rendered.partition(CLOSE)[2]
    blank = rest[: len(rest) - len(rest.lstrip())]
    specials = [token for token in tokenizer.all_special_tokens if rest.startswith(token, len(blank))]
    if not specials:
        raise SpeechModelError(
            "the language model's chat template puts no special token after the assistant's words "
            f"({rest[:20]!r}), so a transcription could not end: use an instruction-tuned model, or a tokenizer with "
            "an end-of-text token and no chat template"
        )
    return blank + max(specials, key=len)
