"""The spans of an exported trace as the OpenTelemetry SDK holds them, for any of its exporters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from polyturn.errors import MissingPackage
from polyturn.media import Media
from polyturn.record.formats.catalogue import Give
from polyturn.record.formats.chat import Store
from polyturn.record.formats.check import Field
from polyturn.record.formats.otel import records
from polyturn.record.formats.otel_values import read_attributes
from polyturn.record.read import read_plays


def sdk_spans(record: Any) -> Iterator[Any]:
    """The spans of one record as ``ReadableSpan``. Raises: MissingPackage."""
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import Event, ReadableSpan
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
    except ImportError:
        raise MissingPackage("opentelemetry-sdk", "otel") from None

    def context(trace: str, span: str) -> Any:
        return SpanContext(int(trace, 16), int(span, 16), is_remote=False, trace_flags=TraceFlags(1))

    kinds = {1: SpanKind.INTERNAL, 2: SpanKind.SERVER, 3: SpanKind.CLIENT}
    for resource in record["resourceSpans"]:
        about = Resource(read_attributes(Field(resource.get("resource", {}).get("attributes", []), "resource")))
        for span in (span for scope in resource["scopeSpans"] for span in scope["spans"]):
            above = span.get("parentSpanId")
            events = [Event(event["name"], read_attributes(Field(event.get("attributes", []), "event")),
                            int(event["timeUnixNano"])) for event in span.get("events", [])]
            yield ReadableSpan(
                span["name"], context(span["traceId"], span["spanId"]),
                context(span["traceId"], above) if above else None, about,
                read_attributes(Field(span.get("attributes", []), "span")), events,
                kind=kinds.get(span.get("kind", 1), SpanKind.INTERNAL),
                status=Status(StatusCode.ERROR if span.get("status", {}).get("code") == 2 else StatusCode.UNSET),
                start_time=int(span["startTimeUnixNano"]), end_time=int(span["endTimeUnixNano"]),
            )


def send(folder: Path | str, exporter: Any) -> int:
    """Hands every episode of a run to a ``SpanExporter``, a trace each, and returns how many there were."""
    store = Store(Media(Path(folder) / "media"))
    count = 0
    for _, episode in read_plays(folder):
        for record in records([episode], Give(store)):
            exporter.export(list(sdk_spans(record)))
            count += 1
    return count
