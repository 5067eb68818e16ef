"""Published formats of tool calls and reasoning, read from what models write: whole, odd, cut and broken."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyturn.calls import GRAMMARS, grammar_named, grammar_of, in_words, read_json, split_reasoning, wrap_reasoning
from polyturn.errors import UnknownName
from polyturn.types import Call, Message, Tool


def found(grammar: str, text: str) -> tuple[str, list[tuple[str, object]]]:
    rest, calls = GRAMMARS[grammar].read(text, ())
    return rest, [(call.name, call.arguments) for call in calls]


READS = [
    # Qwen 2.5 and 3, Hermes 2 Pro: one object a block, text before it
    ("hermes", '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>', "", [("f", {"x": 1})]),
    ("hermes", 'Let me see.\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>', "Let me see.", [("f", {})]),
    ("hermes", '<tool_call>{"arguments":{"x":[1,{"y":null}]},  "name":"f"}</tool_call>', "",
     [("f", {"x": [1, {"y": None}]})]),
    ("hermes", '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n<tool_call>\n{"name": "g"}\n</tool_call>',
     "", [("f", {}), ("g", {})]),
    ("hermes", '<tool_call>{"name": "f", "arguments": "{\\"x\\": 1}"}</tool_call>', "", [("f", {"x": 1})]),
    ("hermes", "no call: {\"name\": \"f\"}", 'no call: {"name": "f"}', []),
    # Qwen 3 Coder and 3.5: names and values between tags; what is no JSON is a text
    ("qwen_xml", "Look.\n\n<tool_call>\n<function=f>\n<parameter=x>\n1\n</parameter>\n<parameter=y>\ntwo\nlines\n"
     "</parameter>\n</function>\n</tool_call>", "Look.", [("f", {"x": 1, "y": "two\nlines"})]),
    ("qwen_xml", "<tool_call><function=f></function></tool_call>", "", [("f", {})]),
    # SmolLM2: a list in one block; the empty list says that no tool fits
    ("smollm2", '<tool_call>[\n{"name": "f", "arguments": {"x": 1}},\n{"name": "g", "arguments": {}}\n]</tool_call>',
     "", [("f", {"x": 1}), ("g", {})]),
    ("smollm2", "<tool_call>[]</tool_call>", "", []),
    # Llama 3: bare, with parameters; several after a semicolon; the python tag; the built-in tools
    ("llama3", '{"name": "f", "parameters": {"x": "é"}}', "", [("f", {"x": "é"})]),
    ("llama3", '{"type": "function", "name": "f", "parameters": {}}', "", [("f", {})]),
    ("llama3", '{"name": "f", "parameters": {}}; {"name": "g", "parameters": {"y": 2}}', "",
     [("f", {}), ("g", {"y": 2})]),
    ("llama3", '<|python_tag|>{"name": "f", "parameters": {"x": 1}}', "", [("f", {"x": 1})]),
    ("llama3", '<|python_tag|>brave_search.call(query="cats and dogs")', "",
     [("brave_search", {"query": "cats and dogs"})]),
    ("llama3", 'I look.\n{"name": "f", "parameters": {}}', "I look.", [("f", {})]),
    ("llama3", 'The object {"a": 1} is JSON.', 'The object {"a": 1} is JSON.', []),
    # Mistral 7B v0.3 to Small 3.1: a list; from Small 3.2 on a name, [ARGS] and its JSON
    ("mistral", '[TOOL_CALLS] [{"name": "f", "arguments": {"x": 1}, "id": "abcdefghi"}]', "", [("f", {"x": 1})]),
    ("mistral", '[TOOL_CALLS][{"name": "f", "arguments": {}}, {"name": "g", "arguments": {}}]', "",
     [("f", {}), ("g", {})]),
    ("mistral", '[TOOL_CALLS]f[ARGS]{"x": 1}[TOOL_CALLS]g[CALL_ID]abcdefghi[ARGS]{}', "", [("f", {"x": 1}), ("g", {})]),
    ("mistral", 'Yes.[TOOL_CALLS] [{"name": "f", "arguments": {}}]', "Yes.", [("f", {})]),
    ("mistral", "[1, 2] is a list", "[1, 2] is a list", []),
]


@pytest.mark.parametrize(("grammar", "text", "rest", "calls"), READS)
def test_what_models_write_is_read(grammar: str, text: str, rest: str, calls: list[tuple[str, object]]) -> None:
    assert found(grammar, text) == (rest, calls)
    assert all(call.error is None for call in GRAMMARS[grammar].read(text, ())[1])


def test_ids_that_the_format_carries_are_kept() -> None:
    listed = '[TOOL_CALLS] [{"name": "f", "arguments": {}, "id": "abcdefghi"}]'
    assert GRAMMARS["mistral"].read(listed, ())[1][0].id == "abcdefghi"
    assert GRAMMARS["mistral"].read("[TOOL_CALLS]f[CALL_ID]abc123xyz[ARGS]{}", ())[1][0].id == "abc123xyz"
    assert GRAMMARS["hermes"].read('<tool_call>{"name": "f"}</tool_call>', ())[1][0].id == ""


BROKEN = [
    ("hermes", "<tool_call>\n{'x': 1}\n</tool_call>", "Expecting property name"),
    ("hermes", '<tool_call>\n{"name": "f", "argum', "ends before </tool_call>"),
    ("hermes", "<tool_call></tool_call>", "Expecting value"),
    ("hermes", '<tool_call>{"arguments": {}}</tool_call>', "a text under 'name'"),
    ("hermes", '<tool_call>{"name": "f", "arguments": [1]}</tool_call>', "arguments are list"),
    ("hermes", '<tool_call>{"name": "f", "arguments": "x: 1"}</tool_call>', "text that is not JSON"),
    ("hermes", '<tool_call>{"name": "f"} and more</tool_call>', "'and more' follows"),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"x": NaN}}</tool_call>', "NaN is no JSON number"),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"x": 1e999}}</tool_call>', "1e999 is no JSON number"),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"x": "\\ud83d"}}</tool_call>', "surrogates not allowed"),
    ("hermes", "<tool_call>" + "[" * 200_000 + "</tool_call>", "nested too deeply"),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"x": ' + "9" * 5000 + "}}</tool_call>", "digits"),
    ("qwen_xml", "<tool_call>\n<function=f>\n<parameter=x>\n1", "expected <function=name>"),
    ("qwen_xml", "<tool_call><function=f>x=1</function></tool_call>", "'x=1' is no <parameter"),
    ("smollm2", '<tool_call>[{"name": "f"}, 3]</tool_call>', "expected an object"),
    ("llama3", "<|python_tag|>print(1)", "Expecting value"),
    ("llama3", '<|python_tag|>f.call(x=g())', "Expecting value"),
    ("llama3", '{"name": "f", "parameters": {"x":', "Expecting value"),
    ("mistral", '[TOOL_CALLS] [{"name": "f", "arguments": {"x"', "Expecting"),
    ("mistral", "[TOOL_CALLS]f[ARGS]{x", "Expecting property name"),
    ("mistral", "[TOOL_CALLS]f[ARGS]", "Expecting value"),
    ("mistral", "[TOOL_CALLS]", "Expecting value"),
]


@pytest.mark.parametrize(("grammar", "text", "why"), BROKEN, ids=range(len(BROKEN)))
def test_what_cannot_be_read_says_why_and_keeps_what_was_written(grammar: str, text: str, why: str) -> None:
    broken = [call for call in GRAMMARS[grammar].read(text, ())[1] if call.arguments is None]
    assert len(broken) == 1
    assert why in (broken[0].error or "")
    assert broken[0].raw in text


def test_a_schema_says_which_values_are_texts() -> None:
    tool = Tool("f", parameters={"type": "object", "properties": {"x": {"type": "string"}, "y": {"type": "integer"}}})
    text = "<tool_call><function=f>" + "".join(f"<parameter={key}>\n7\n</parameter>" for key in "xyz")
    (call,) = GRAMMARS["qwen_xml"].read(text + "</function></tool_call>", (tool,))[1]
    assert call.arguments == {"x": "7", "y": 7, "z": 7}


names = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
plain = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<[{|"), max_size=8)
values = st.recursive(st.none() | st.booleans() | st.integers(-99, 99) | plain, lambda v: st.lists(v, max_size=3))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(names, st.dictionaries(plain, values, max_size=3)), min_size=1, max_size=3))
def test_written_calls_read_back(drawn: list[tuple[str, dict[str, object]]]) -> None:
    calls = [Call(f"abcdefgh{index}", name, arguments) for index, (name, arguments) in enumerate(drawn)]
    for grammar in [one for one in GRAMMARS.values() if one.name != "qwen_xml"]:
        rest, back = grammar.read(grammar.write(calls), ())
        assert rest == ""
        assert [(call.name, call.arguments) for call in back] == drawn


@settings(max_examples=60, deadline=None)
@given(names, st.dictionaries(names, values | st.just("two\nlines"), max_size=3))
def test_written_functions_read_back_but_for_texts_that_look_like_json(name: str, arguments: dict[str, object]) -> None:
    schema = {key: {"type": "string"} for key, value in arguments.items() if isinstance(value, str)}
    tool = Tool(name, parameters={"type": "object", "properties": schema})
    grammar = GRAMMARS["qwen_xml"]
    _, (call,) = grammar.read(grammar.write([Call("c", name, arguments)]), (tool,))
    assert (call.name, call.arguments) == (name, arguments)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from([
    "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "[ARGS]", "[CALL_ID]", "{", "}", "[", "]",
    '"name"', ":", '"f"', ",", '"arguments"', "\\", "x.call(", ")", "\n", "é", "\ud83d", "1", ";", "<think>",
    "<function=f>", "</function>", "<parameter=x>", "</parameter>",
    "</think>",
]), max_size=25).map("".join))
def test_reading_never_raises_and_breaks_nothing_silently(text: str) -> None:
    for grammar in GRAMMARS.values():
        rest, calls = grammar.read(text, ())
        assert isinstance(rest, str)
        for call in calls:
            assert (call.arguments is None) == (call.error is not None)
            json.dumps(dict(call.arguments or {}), allow_nan=False)
    split_reasoning(text)


def test_reasoning_is_split_off_only_where_a_reply_begins_with_it() -> None:
    assert split_reasoning("<think>\na\n\nb\n</think>\n\nnorth") == ("a\n\nb", "north")
    assert split_reasoning("\n<think>a</think>north") == ("a", "north")
    assert split_reasoning("<think>\ncut here") == ("cut here", "")
    assert split_reasoning("<think>\n\n</think>\n\nnorth") == ("", "north")
    assert split_reasoning("north <think>a</think>") == (None, "north <think>a</think>")
    assert split_reasoning("a\n</think>\n\nnorth", opened=True) == ("a", "north")
    assert split_reasoning(wrap_reasoning("a", "north")) == ("a", "north")


def test_a_grammar_is_chosen_from_template_then_vocabulary() -> None:
    assert grammar_of("... <tool_call>\n{...", {"[TOOL_CALLS]"}).name == "hermes"
    assert grammar_of("<tool_call>\n<function=' + name", ()).name == "qwen_xml"
    assert grammar_of("assistant named SmolLM, trained", ()).name == "smollm2"
    assert grammar_of("<|start_header_id|>", ()).name == "llama3"
    assert grammar_of("", {"[TOOL_CALLS]": 5}).name == "mistral"
    assert grammar_of("", ()).name == "hermes"
    with pytest.raises(UnknownName, match="did you mean 'mistral'"):
        grammar_named("mistrall")


@pytest.mark.parametrize("raw", ["", "{", "NaN", "[Infinity]", "1e999", '{"a": 1} b', '"\\ud800"', "[" * 100_000])
def test_only_json_that_can_be_stored_is_read(raw: str) -> None:
    assert read_json(' [1, "a"]\n') == [1, "a"]
    with pytest.raises(ValueError):
        read_json(raw)


def test_what_people_read() -> None:
    calls = (Call("a", "f", {"x": [1, "é"]}), Call("b", "g", None, raw="{oops", error="no JSON"))
    assert in_words(Message("assistant", "Hi.", calls=calls)) == 'Hi.\nf({"x": [1, "é"]})\ng({oops)'
    assert in_words(Message("assistant", "", calls=calls[:1])).startswith("f(")
    assert in_words(Message("user", "Hi.")) == "Hi."
