"""Tool calls in the words of LMs: the formats of several families, and what cannot be read."""

from __future__ import annotations

import pytest
from models import tokenizer

from langchain_cmt.tool_calls import parse, shown_length, tool_format

TOOLS = [{"type": "function", "function": {"name": "weigh", "description": "", "parameters": {"type": "object"}}}]
ARGUMENTS = {"what": "it", "to": ["a", 1]}
JSON = '{"what": "it", "to": ["a", 1]}'


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (f'<tool_call>\n{{"name": "weigh", "arguments": {JSON}}}\n</tool_call>', ""),
        (f'I look.\n<tool_call>{{"name": "weigh", "arguments": {JSON}}}</tool_call>', "I look."),
        (f'<tool_call>\n{{"name": "weigh", "arguments": {JSON}}}', ""),
        (f'{{"name": "weigh", "parameters": {JSON}}}', ""),
        (f'[{{"name": "weigh", "arguments": {JSON}}}]', ""),
    ],
    ids=["hermes", "after words", "unclosed", "llama", "mistral"],
)
def test_calls_of_several_families(said, words):
    found = parse(said, ["weigh"])
    assert found.text == words
    assert [(call["name"], call["args"], call["type"]) for call in found.calls] == [("weigh", ARGUMENTS, "tool_call")]
    assert not found.invalid


def test_several_calls_have_ids_of_their_own():
    one = f'<tool_call>\n{{"name": "weigh", "arguments": {JSON}}}\n</tool_call>\n'
    calls = parse(one * 2, ["weigh"]).calls
    assert len({call["id"] for call in calls}) == 2


def test_what_cannot_be_read_is_kept_with_the_reason():
    found = parse('<tool_call>\n{"name": "weigh", "arguments": {"what": \n</tool_call>', ["weigh"])
    assert not found.calls
    assert found.invalid[0]["args"].startswith('{"name": "weigh"')
    assert "not a JSON object" in found.invalid[0]["error"]


@pytest.mark.parametrize("said", ['{"name": "Mara", "code": 4471}', "[1, 2]", "{broken", "Plain words."])
def test_json_that_names_no_tool_is_an_answer(said):
    found = parse(said, ["weigh"])
    assert (found.text, found.calls, found.invalid) == (said, [], [])


def test_a_stream_shows_words_and_holds_calls_back():
    said = "I look.\n<tool_call>{}"
    assert [said[: shown_length(said[:size])] for size in range(len(said) + 1)][-1] == "I look."
    assert shown_length("I look.\n<tool") == len("I look.")
    assert shown_length("a < b") == len("a < b")
    assert shown_length('{"name"') == 0


def test_the_opening_of_a_call_is_read_off_the_template():
    made = tokenizer("tools")
    assert tool_format(made, TOOLS).lead(["weigh"]) == '<tool_call>\n{"name": "weigh", "arguments": '
    assert tool_format(made, TOOLS).lead(["weigh", "measure"]) == '<tool_call>\n{"name": "'
    made.chat_template = (
        "{% for t in tools or [] %}{{ t.function.name }}{% endfor %}{% for m in messages %}<{{ m.role }}>"
        '{% for c in m.tool_calls or [] %}{"name": "{{ c.function.name }}", "parameters": '
        "{{ c.function.arguments | tojson }}}{% endfor %}{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    assert tool_format(made, TOOLS).lead(["weigh"]) == '{"name": "weigh", "parameters": '
