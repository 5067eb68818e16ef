"""Spans: the protocol's own messages parse them, the SDK exports them, and they hang together as the episode did."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from polyturn.record.formats.exchange import export_run, import_file
from polyturn.record.formats.otel_sdk import sdk_spans, send
from polyturn.record.read import read_episodes
from tests.record.formats.probe import probe_run


@pytest.fixture
def traces(tmp_path: Path) -> list[Any]:
    run = probe_run(tmp_path / "run")
    export_run(run, "otel", tmp_path / "out.jsonl", seats=["planner", "opponent"])
    return [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]


def spans_of(trace: Any) -> list[dict[str, Any]]:
    return [span for r in trace["resourceSpans"] for s in r["scopeSpans"] for span in s["spans"]]


def test_the_tree_of_spans(traces: list[Any]) -> None:
    names = {span["spanId"]: span["name"] for span in spans_of(traces[0])}
    hangs = [(span["name"], names.get(span.get("parentSpanId", ""), "")) for span in spans_of(traces[0])]
    assert hangs == [
        ("invoke_workflow pages", ""), ("invoke_agent planner", "invoke_workflow pages"),
        ("chat main", "invoke_agent planner"), ("execute_tool search", "invoke_agent planner"),
        ("execute_tool search", "invoke_agent planner"), ("chat main", "invoke_agent planner"),
        ("chat main", "invoke_agent planner"), ("invoke_agent planner/helper", "invoke_agent planner"),
        ("chat small", "invoke_agent planner/helper"), ("invoke_agent opponent", "invoke_workflow pages"),
        ("chat fixed", "invoke_agent opponent")]
    assert len({span["spanId"] for span in spans_of(traces[0])}) == 11
    assert len({trace["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["traceId"] for trace in traces}) == 4


def test_an_export_is_the_same_each_time(traces: list[Any], tmp_path: Path) -> None:
    export_run(tmp_path / "run", "otel", tmp_path / "again.jsonl", seats=["planner", "opponent"])
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()


def test_the_protocol_reads_it(traces: list[Any]) -> None:
    """OTLP/JSON writes ids as hexadecimal; the plain mapping of protocol buffers, base64."""
    from google.protobuf.json_format import ParseDict
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    def in_base64(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: base64.b64encode(bytes.fromhex(item)).decode() if key in ("traceId", "spanId", "parentSpanId")
                    else in_base64(item) for key, item in value.items()}
        return [in_base64(item) for item in value] if isinstance(value, list) else value

    for trace in traces:
        request = ParseDict(in_base64(trace), ExportTraceServiceRequest())
        read = request.resource_spans[0].scope_spans[0].spans
        assert [span.name for span in read] == [span["name"] for span in spans_of(trace)]
        assert all(len(span.trace_id) == 16 and len(span.span_id) == 8 for span in read)


def test_the_sdk_exports_it(traces: list[Any], tmp_path: Path) -> None:
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    assert send(tmp_path / "run", exporter) == 4
    found = exporter.get_finished_spans()
    chats = [span for span in found if span.attributes and span.attributes.get("gen_ai.operation.name") == "chat"]
    assert len(chats) == 4 * 4, "without --seat: the planner, who learns, and its helper"
    attributes = dict(chats[0].attributes or {})
    assert attributes["gen_ai.request.temperature"] == 0.5 and attributes["gen_ai.usage.input_tokens"] == 9
    assert attributes["gen_ai.response.finish_reasons"] == ["tool_call"]
    said = json.loads(str(attributes["gen_ai.output.messages"]))[0]
    assert [part["type"] for part in said["parts"]] == ["reasoning", "text", "tool_call", "tool_call"]
    scored = [event for span in found for event in span.events]
    assert [dict(event.attributes or {})["gen_ai.evaluation.score.value"] for event in scored] == [1.0, 0.0, 1.0, 0.0]
    assert all(json.loads(span.to_json())["name"] == span.name for span in sdk_spans(traces[0]))


def test_a_trace_in_many_lines_is_one_episode(traces: list[Any], tmp_path: Path) -> None:
    """As exporters write them: some spans at a time, traces interleaved."""
    lines = []
    for trace in traces[:2]:
        for span in spans_of(trace):
            scope = {**trace["resourceSpans"][0]["scopeSpans"][0], "spans": [span]}
            lines.append({"resourceSpans": [{**trace["resourceSpans"][0], "scopeSpans": [scope]}]})
    mixed = [line for pair in zip(lines[:11], lines[11:], strict=True) for line in pair]
    (tmp_path / "in.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in mixed))
    assert import_file(tmp_path / "in.jsonl", "otel", tmp_path / "b").episodes == 2
    found = list(read_episodes(tmp_path / "b"))
    assert [episode.id for episode in found] == ["e0.1.0", "e0.0.0"]
    first = found[0]
    assert [(t.seat, t.parent, len(t.turns)) for t in first.trajectories] == [
        ("planner", None, 3), ("planner/helper", ("planner", "main"), 1), ("opponent", None, 1)]
    planner = first.trajectories[0]
    assert [planner.messages[turn.reply].text for turn in planner.turns] == ["I look.", "A cat 0 1.0.", "Done."]
    assert planner.turns[1].prompt == (0, 1, 2, 3, 4) and planner.turns[2].prompt == (0, 6)
    assert first.scores["exact"]["planner"].value == 1.0
