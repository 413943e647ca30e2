"""JSON schemas in the form that services with structured output ask for."""

from typing import Any

from pydantic import BaseModel


def strict_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return a model's JSON schema in the form that structured output asks for.

    Every object is closed and every property required (a null stands for "none");
    defaults, titles and limits, which servers refuse, are left out.
    """
    return _strict(model.model_json_schema())


def _strict(node: Any) -> Any:
    if isinstance(node, list):
        return [_strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    dropped = {"default", "title", "description", "maxLength", "minItems", "maxItems"}
    result: dict[str, Any] = {}
    for key, value in node.items():
        if key in ("properties", "$defs"):  # their keys are names, not keywords
            result[key] = {name: _strict(item) for name, item in value.items()}
        elif key not in dropped:
            result[key] = _strict(value)
    if "properties" in result:
        result["required"] = [*result["properties"]]
        result["additionalProperties"] = False
    return result
