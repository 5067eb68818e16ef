"""What is found by probing a template, and what is done about what it leaves out."""

from __future__ import annotations

from datetime import date

import pytest

from polyturn.errors import BadInput
from polyturn.template import TODAY, Guard, Template
from polyturn.types import Call, Message, Part, Tool, system, user
from tests.byte_tokenizer import (
    CHATML,
    QWEN,
    THINKER,
    byte_tokenizer,
    llama_tokenizer,
    mistral_tokenizer,
    qwen_tokenizer,
)

SEARCH = Tool("search", "finds it")


def a_template(tokenizer: object) -> Template:
    return Template(tokenizer, grammar=None, options={})


def test_headers_leads_and_endings() -> None:
    qwen = a_template(qwen_tokenizer())
    assert (qwen.header(user("x")), qwen.ending, qwen.lead) == (
        "<|im_start|>assistant\n", "<|im_end|>", "<think>\n\n</think>\n\n",
    )
    llama = a_template(llama_tokenizer())
    assert (llama.header(user("x")), llama.ending, llama.lead) == (
        "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>", "",
    )
    mistral = a_template(mistral_tokenizer())
    assert (mistral.header(user("x")), mistral.ending, mistral.lead) == ("[/INST]", "</s>", " ")
    assert mistral.header(Message("tool")) == "[/TOOL_RESULTS]"
    thinker = a_template(byte_tokenizer(THINKER))
    assert (thinker.header(None), thinker.opened) == ("<|im_start|>assistant\n<think>\n", "<think>\n")
    plain = a_template(byte_tokenizer(None, (), eos=None))
    assert (plain.header(None), plain.ending, plain.lead, plain.tail) == ("Assistant:", "", " ", "\n\n")


def test_tools_that_a_template_ignores_are_shown_in_the_system_message() -> None:
    template = a_template(byte_tokenizer(CHATML))
    alone = template.render([user("x")], [SEARCH]).text
    assert alone.startswith("<|im_start|>system\nYou may call these tools:\n<tools>\n{\"name\": \"search\"")
    assert '<tool_call>\n{"name": "name", "arguments": {"argument": "value"}}\n</tool_call><|im_end|>' in alone
    beside = template.render([system("Be brief."), user("x")], [SEARCH]).text
    assert beside.startswith("<|im_start|>system\nBe brief.\n\nYou may call these tools:")
    assert "You may call" not in a_template(qwen_tokenizer()).render([user("x")], [SEARCH]).text


def test_calls_that_a_template_ignores_stand_in_the_text_in_the_grammars_form() -> None:
    called = Message("assistant", (Part("text", "so:"),), calls=(Call("c", "search", {"q": "é"}),))
    text = a_template(byte_tokenizer(CHATML)).render([user("x"), called], ()).text
    assert 'assistant\nso:\n<tool_call>\n{"name": "search", "arguments": {"q": "é"}}\n</tool_call><|im_end|>' in text


def test_a_system_message_that_a_template_refuses_joins_the_first_user_message() -> None:
    text = a_template(mistral_tokenizer()).render([system("Be brief."), user("x")], ()).text
    assert text == "<s>[INST] Be brief.\n\nx[/INST]"
    assert a_template(mistral_tokenizer()).render([system("Be brief.")], ()).text == "<s>[INST] Be brief.[/INST]"


def test_tool_results_that_a_template_refuses_come_from_the_user() -> None:
    strict = "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}{% endfor %}"
    answer = Message("tool", (Part("text", "2"),))
    text = a_template(byte_tokenizer(strict + CHATML)).render([user("x"), answer], ()).text
    assert "<|im_start|>user\n<tool_response>\n2\n</tool_response><|im_end|>" in text


def test_a_tool_result_without_a_name_gets_that_of_its_call() -> None:
    named = CHATML.replace("m.content", "(m.name ~ '=' ~ m.content if m.role == 'tool' else m.content)")
    called = Message("assistant", calls=(Call("c1", "search", {}),))
    answer = Message("tool", (Part("text", "2"),), call_id="c1")
    assert "search=2<|im_end|>" in a_template(byte_tokenizer(named)).render([user("x"), called, answer], ()).text


def test_templates_that_want_arguments_as_text_get_them() -> None:
    calls = "{% for c in m.tool_calls or [] %}{{ c.function.name + '(' + c.function.arguments + ')' }}{% endfor %}"
    template = a_template(byte_tokenizer(CHATML.replace("+ '<|im_end|>", "}}" + calls + "{{ '<|im_end|>")))
    called = Message("assistant", calls=(Call("c1", "search", {"q": "é"}),))
    assert 'search({"q": "é"})<|im_end|>' in template.render([user("x"), called], ()).text
    assert not template.reads_calls


def test_a_refusal_names_the_roles_and_the_templates_reason() -> None:
    both = Message("assistant", calls=(Call("a", "f", {}), Call("b", "g", {})))
    with pytest.raises(BadInput, match=r"\['user', 'assistant'\]: one call at a time"):
        a_template(llama_tokenizer()).render([user("x"), both], ())
    with pytest.raises(BadInput, match="does not show what an assistant said"):
        a_template(byte_tokenizer("{{ 'fixed' }}"))
    with pytest.raises(BadInput, match="refuses this conversation"):
        a_template(byte_tokenizer("{{ messages[0].content + 1 }}"))


def test_a_template_that_asks_for_the_date_is_told_a_fixed_one() -> None:
    dated = "{{ strftime_now('%d %b %Y') + '/' + strftime_now(\"%Y-%m-%d\") }}" + CHATML
    text = a_template(byte_tokenizer(dated)).render([user("x")], ()).text
    assert text.startswith("26 Jul 2024/2024-07-26<|im_start|>")
    assert TODAY.date() == date(2024, 7, 26)


def test_of_several_templates_the_one_for_tools_is_used_with_tools() -> None:
    tokenizer = byte_tokenizer({"default": CHATML, "tool_use": QWEN})  # type: ignore[arg-type]
    template = a_template(tokenizer)
    assert "<tools>\n{" in template.render([user("x")], [SEARCH]).text
    assert "<think>" not in template.render([user("x"), Message("assistant")], ()).text


def test_options_reach_the_template() -> None:
    tokenizer = byte_tokenizer(CHATML + "{% if quiet %}(quietly){% endif %}")
    template = Template(tokenizer, grammar=None, options={"quiet": True})
    assert template.render([user("x")], ()).text.endswith("assistant\n(quietly)")
    assert template.header(None).endswith("(quietly)")


def test_a_guard_hides_and_shows_every_text() -> None:
    guard = Guard(("<s>", "<ss>"))
    text = "<s><ss>\U000f0000\U00100000\U00100001<s"
    hidden = guard.hide({"a<s>": [text, 1, None, True]})
    (key, (inner, *others)), = hidden.items()
    assert "<s>" not in key + inner and "<ss>" not in inner
    assert others == [1, None, True]
    assert (guard.show(key), guard.show(inner)) == ("a<s>", text)
    assert [guard.is_control(letter) for letter in inner[:5]] == [True, True, False, False, False]


def test_the_longest_control_token_is_hidden_however_they_begin() -> None:
    tokens = ("<", "<a", "<ab", "<abc>", "[x", "[xy]")
    guard = Guard(tokens)
    for text in [*tokens, "<a<ab<abc>[xy][x<", "b<abcd"]:
        hidden = guard.hide(text)
        assert guard.show(hidden) == text
        assert not any(token in hidden for token in tokens)
    assert len(guard.hide("<abc>")) == 1 and len(guard.hide("<abd")) == 2
