"""Limits of texts and lists in the answers of language models.

    Line = Annotated[str, Cut(400)]

What is longer is cut as it is read: no answer is rejected for its length. Services
that enforce a schema can be told the limits, see `json_schema`.
"""

from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from reskill_jax.llm.sanitize import clean


@dataclass(frozen=True)
class Told:
    """How long a service is told that a string, in characters, or a list may be."""

    length: int

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Add the limit to the schema of the field."""
        found = dict(handler(schema))
        key = "maxLength" if found["type"] == "string" else "maxItems"
        return found | {key: self.length}


@dataclass(frozen=True)
class Cut(Told):
    """The same, and what is longer is cut; strings are cleaned, see `sanitize`."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Cut what has been validated."""

        def cut(value: Any) -> Any:
            if isinstance(value, str):
                return clean(value, self.length)
            return value[: self.length]

        return core_schema.no_info_after_validator_function(cut, handler(source))
