"""What the tools of both domains share: the way from a call to an answer, and the two tools that both have."""

from __future__ import annotations

import ast
import json
import operator
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, Literal

from jsonschema import Draft202012Validator

from polyturn.envs.dialogue import Refused
from polyturn.types import Tool

TEXT: Final = {"type": "string"}
WHOLE: Final = {"type": "integer"}
TEXTS: Final = {"type": "array", "items": TEXT}


def one_of(*values: str) -> dict[str, Any]:
    """The schema of a text that is one of these."""
    return {"type": "string", "enum": list(values)}


def objects(**fields: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a list of objects that have at least these fields."""
    return {"type": "array", "items": {"type": "object", "properties": fields, "required": list(fields)}}


def tool(
    name: str, kind: Literal["read", "write", "general"], description: str, **arguments: tuple[Mapping[str, Any], str]
) -> Tool:
    """A tool whose arguments, each a schema and what it means, are all needed."""
    properties = {name: {**schema, "description": meaning} for name, (schema, meaning) in arguments.items()}
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return Tool(name, description, schema, kind)


CALCULATE: Final = tool(
    "calculate", "general", "Works out an arithmetic expression.",
    expression=(TEXT, "numbers, + - * / and parentheses, such as '2 * (3.5 + 1)'"),
)
TRANSFER: Final = tool(
    "transfer_to_human_agents", "general",
    "Hands the user over to a human agent, with a summary of the issue. Only where the user asks for a human agent, or "
    "the issue cannot be solved with the policy and the other tools.",
    summary=(TEXT, "a summary of the user's issue"),
)


def transfer_to_human_agents(summary: str) -> str:
    """The answer to a transfer; nothing in the database changes, and the dialogue goes on until the user ends it."""
    return "Transfer successful"


def answer(tools: Mapping[str, Tool], desk: object, name: str, arguments: Mapping[str, Any]) -> str:
    """What the method ``name`` of ``desk`` answers, as text: a text as it is, anything else as JSON.

    Raises: Refused for an unknown tool, for arguments that are not as its schema says, and what the method refuses.
    """
    if name not in tools:
        raise Refused(f"Tool '{name}' not found.")
    fault = next(_validator(tools[name]).iter_errors(dict(arguments)), None)
    if fault is not None:
        where = "".join(f"[{part!r}]" for part in fault.absolute_path)
        raise Refused(f"{name}{where}: {fault.message}"[:500])
    method: Callable[..., Any] = getattr(desk, name)
    said = method(**arguments)
    return said if isinstance(said, str) else json.dumps(said)


def _validator(wanted: Tool) -> Draft202012Validator:
    return _compiled(json.dumps(wanted.parameters))


@lru_cache(maxsize=256)
def _compiled(schema: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads(schema))


# ---------------------------------------------------------------- arithmetic

_ALLOWED: Final = frozenset("0123456789+-*/(). ")
_LONGEST: Final = 500
_LARGEST: Final = 1e15
"""Of a whole number in between, and of an exponent's result; far above any price."""
_TWO: Final[Mapping[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Pow: operator.pow,
}
_ONE: Final[Mapping[type[ast.unaryop], Callable[[Any], Any]]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


def calculate(expression: str) -> str:
    """The value of an expression of numbers, ``+ - * / // **`` and parentheses, rounded to two places, as tau2 writes
    it; nothing is evaluated but these.

    Raises: Refused for anything else, for a division by zero, and for numbers beyond 1e15.

    >>> calculate("(54.04 + 41.64) * 2"), calculate("7"), calculate("1/3")
    ('191.36', '7.0', '0.33')
    """
    if not set(expression) <= _ALLOWED:
        raise Refused("Invalid characters in expression")
    try:
        if len(expression) > _LONGEST:
            raise ValueError(f"longer than {_LONGEST} characters")
        return str(round(float(_value(ast.parse(expression.strip(), mode="eval").body)), 2))
    except (SyntaxError, ValueError, ArithmeticError, TypeError, RecursionError, MemoryError) as error:
        raise Refused(f"cannot work out {expression[:80]!r}: {error}") from error


def _value(node: ast.AST) -> int | float:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return _small(node.value)
    if isinstance(node, ast.UnaryOp):
        return _small(_ONE[type(node.op)](_value(node.operand)))
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Pow) and (abs(right) > 50 or abs(left) > _LARGEST):
            raise ValueError("the power is too large")
        return _small(_TWO[type(node.op)](left, right))
    raise ValueError("expected numbers, + - * / and parentheses")


def _small(number: Any) -> int | float:
    if isinstance(number, complex) or abs(number) > _LARGEST:
        raise ValueError("a number in between is too large or not real")
    return float(number) if isinstance(number, float) else int(number)
