"""JSON schemas in the form that services with structured output ask for."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # it comes with an extra, and is needed to make schemas only
    from pydantic import BaseModel

_LIMITS = {"maxLength", "maxItems"}
_DROPPED = {"default", "title", "description", "minItems"}


def closed_schema(model: "type[BaseModel]") -> dict[str, Any]:
    """Return a model's JSON schema, with limits of length where there are any.

    Every object is closed and every property required (a null stands for "none");
    defaults and titles are left out.
    """
    return _closed(model.model_json_schema())


def strict_schema(model: "type[BaseModel]") -> dict[str, Any]:
    """Return `closed_schema` without limits, which some services refuse."""
    return without_limits(closed_schema(model))


def without_limits(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a `closed_schema` without limits of length."""
    stripped: dict[str, Any] = _without(schema, _LIMITS)
    return stripped


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    bare = _without(schema, _DROPPED)
    for node in (bare, *bare.get("$defs", {}).values()):
        if "properties" in node:
            node["required"] = [*node["properties"]]
            node["additionalProperties"] = False
    return bare


def _without(node: Any, keywords: set[str]) -> Any:
    """Leave keywords out of a schema, and of all schemas within."""
    if isinstance(node, list):
        return [_without(item, keywords) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: {name: _without(item, keywords) for name, item in value.items()}
        if key in ("properties", "$defs")  # their keys are names, not keywords
        else _without(value, keywords)
        for key, value in node.items()
        if key not in keywords
    }
