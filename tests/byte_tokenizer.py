"""A tokenizer of one id for each byte and a few control tokens, and small chat templates with the habits of large ones.

The templates are our own. They keep the format facts of the published ones: headers, endings, what is dropped and when,
how calls and results are written.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

START, END = "<|im_start|>", "<|im_end|>"

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Knows roles and content, nothing else: as SmolLM2's, without a default system message."""

QWEN = """{%- if tools %}{{ '<|im_start|>system\n' }}{% if messages[0].role == 'system' %}
{{- messages[0].content + '\n\n' }}{% endif %}
{{- '<tools>' }}{% for tool in tools %}{{ '\n' + tool | tojson }}{% endfor %}{{ '\n</tools><|im_end|>\n' }}
{%- elif messages[0].role == 'system' %}{{ '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}{% endif %}
{%- set ns = namespace(asked=-1) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.asked = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}{% if m.role == 'user' or (m.role == 'system' and not loop.first) %}
{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
{%- elif m.role == 'assistant' %}{{ '<|im_start|>assistant\n' }}
{%- if loop.index0 > ns.asked and (loop.last or m.reasoning_content) %}
{{- '<think>\n' + (m.reasoning_content or '').strip('\n') + '\n</think>\n\n' }}{% endif %}{{ m.content }}
{%- for call in m.tool_calls or [] %}{% if m.content or not loop.first %}{{ '\n' }}{% endif %}
{{- '<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' + call.function.arguments | tojson }}
{{- '}\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}
{%- elif m.role == 'tool' %}{% if messages[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}
{{- '\n<tool_response>\n' + m.content + '\n</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
"""As Qwen 3: reasoning only after the last question, tool results in a user turn. (Qwen 2.5 never shows reasoning.)"""

LLAMA = """{{- bos_token }}{% for m in messages %}{% if m.tool_calls %}
{%- if m.tool_calls | length > 1 %}{{ raise_exception('one call at a time') }}{% endif %}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n{"name": "' + m.tool_calls[0].function.name }}
{{- '", "parameters": ' + m.tool_calls[0].function.arguments | tojson + '}<|eot_id|>' }}{% elif m.role == 'tool' %}
{{- '<|start_header_id|>ipython<|end_header_id|>\n\n' + m.content | tojson + '<|eot_id|>' }}{% else %}
{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}
{%- if tools and loop.first %}{% for tool in tools %}{{ tool | tojson + '\n\n' }}{% endfor %}{% endif %}
{{- m.content | trim + '<|eot_id|>' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""
"""As Llama 3: content trimmed, one bare JSON call with ``parameters``, results from ``ipython``, no content with it."""

MISTRAL = """{{- bos_token }}{% for m in messages %}{% if m.role == 'user' %}{% if tools and loop.last %}
{{- '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{% endif %}{{ '[INST] ' + m.content + '[/INST]' }}
{%- elif m.tool_calls is defined %}{{ '[TOOL_CALLS] [' }}{% for call in m.tool_calls %}
{%- if call.id | length < 9 %}{{ raise_exception('ids of nine letters') }}{% endif %}
{{- (call.function | tojson)[:-1] + ', "id": "' + call.id[-9:] + '"}' }}{% if not loop.last %}{{ ', ' }}{% endif %}
{%- endfor %}{{ ']' + eos_token }}{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}
{%- elif m.role == 'tool' %}{% if m.tool_call_id | length < 9 %}{{ raise_exception('ids of nine letters') }}{% endif %}
{{- '[TOOL_RESULTS] {"content": ' + m.content + ', "call_id": "' + m.tool_call_id[-9:] + '"}[/TOOL_RESULTS]' }}
{%- else %}{{ raise_exception('only user and assistant roles') }}{% endif %}{% endfor %}"""
"""As Mistral 7B v0.3: no header before a reply, a space before its text, ids of nine letters, no system role."""

THINKER = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im_start|>assistant\n' }}"
    "{{ m.content.split('</think>')[-1] + '<|im_end|>' }}{% else %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
"""As DeepSeek R1: the header opens the reasoning, history shows none of it, and there is no field for it."""

CONTROL = {
    "llama": ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|python_tag|>",
              "<|eom_id|>"),
    "mistral": ("<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]",
                "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
}


def byte_letters() -> list[str]:
    """The printable letter of each byte in the byte-level alphabet of GPT-2."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def byte_tokenizer(
    template: str | None = CHATML, control: Sequence[str] = (START, END), *, bos: str | None = None,
    eos: str | None = END, plain: Sequence[str] = (), merges: Sequence[tuple[str, str]] = (),
) -> PreTrainedTokenizerFast:
    """Bytes are ids 0..255, control tokens follow, then ``plain`` added tokens that are not special, then merges."""
    letters = byte_letters()
    vocabulary = {letter: byte for byte, letter in enumerate(letters)}
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(control))
    tokenizer.add_tokens(list(plain))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, chat_template=template,
        clean_up_tokenization_spaces=False,
    )


def space_tokenizer(scheme: str, strip: bool) -> PreTrainedTokenizerFast:
    """Pieces as SentencePiece writes them: a space is a letter, and may be put before a text. ``strip``: the end of
    turn swallows white space after it, as Phi 3's does."""
    letters = [chr(code) for code in range(32, 127)] + ["\n", "\u2581", "\u2581a", "\u2581b"]
    vocabulary = {letter: index for index, letter in enumerate(letters)}
    merges = [("\u2581", "a"), ("\u2581", "b")]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme, split=False)
    tokenizer.add_special_tokens([START, AddedToken(END, rstrip=strip, normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=AddedToken(END, rstrip=strip, normalized=False), chat_template=CHATML,
    )


def llama_tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer(LLAMA, CONTROL["llama"], bos="<|begin_of_text|>", eos="<|eot_id|>")


def mistral_tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer(MISTRAL, CONTROL["mistral"], bos="<s>", eos="</s>")


def qwen_tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer(QWEN, plain=("<think>", "</think>", "<tool_call>", "</tool_call>"))
