"""Typed values as JSON documents and back: one codec for all that is kept or sent.

    document = encode(episode)
    episode = decode(Episode, document)     # or a CodecError that names the field

Types are dataclasses, typed dicts, tuples, lists, dicts, literals and unions with None.
Of several classes a union must be of `msgspec.Struct`s, which carry a tag. Infinity and
NaN are for the types to avoid: a document may hold them, JSON text may not.
"""

import base64
import dataclasses
import re
from typing import Any, Literal, TypeVar, get_args, get_origin, overload

import msgspec
import numpy as np

_T = TypeVar("_T")
Fields = Literal["all", "known", "any"]
# Type and shape of an array, then the base64 of its bytes in C order, little endian:
# exact, shorter than digits, and written in a fraction of their time.
_ARRAY = re.compile(r"([<|][biuf]\d)\[([\d,]*)\]:(.*)")


class CodecError(ValueError):
    """A document that is not of the wanted type; the message names the field."""


def encode(value: Any) -> Any:
    """Return a value as a JSON document; tuples stay tuples.

    Raises:
        TypeError: a part of it is of a type that has no JSON form.
    """
    return msgspec.to_builtins(value, enc_hook=_encode)


@overload
def decode(
    kind: type[_T], document: Any, *, name: str = "", fields: Fields = "all"
) -> _T: ...
@overload
def decode(
    kind: Any, document: Any, *, name: str = "", fields: Fields = "all"
) -> Any: ...
def decode(kind: Any, document: Any, *, name: str = "", fields: Fields = "all") -> Any:
    """Make the value of a document; nothing is converted that is of another type.

    Args:
        kind: the value's type.
        document: what `encode` returned, also after a way through JSON text.
        name: what messages call the document; by default the type's name.
        fields: which ones a document has: ``all`` of its type and no others; ``known``,
            of which those with a default may be missing; or ``any``, of which those
            that the type does not have are left out, for what others wrote.

    Raises:
        CodecError: a field is missing, unknown, of another type, or refused by its
            class; names its path, the type that is expected and the one that was found.
    """
    name = name or getattr(kind, "__name__", str(kind))
    try:
        value = msgspec.convert(document, kind, dec_hook=_decode)
    except msgspec.ValidationError as error:
        message, path = _split(str(error))
        raise CodecError(f"{name}{path}: {message}") from error
    _check_fields(document, value, name, fields)
    return value


def _encode(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        plain = value.astype(value.dtype.newbyteorder("<"))
        shape = ",".join(map(str, plain.shape))
        data = base64.b64encode(plain.tobytes()).decode()
        return f"{plain.dtype.str}[{shape}]:{data}"
    raise TypeError(f"{type(value).__name__} has no JSON form: {value!r:.80}")


def _decode(kind: Any, document: Any) -> Any:
    if (get_origin(kind) or kind) is np.ndarray:
        return _array(document, get_args(kind))
    raise NotImplementedError(f"{kind} has no JSON form")


def _array(document: Any, arguments: tuple[Any, ...]) -> np.ndarray:
    """Return an array of the type that its annotation asks for, in native byte order.

    Args:
        document: the array as text.
        arguments: of the annotation, shape and type; empty where it has none.
    """
    if not isinstance(document, str):
        raise ValueError(f"Expected `str`, got `{type(document).__name__}`")
    match = _ARRAY.fullmatch(document)
    if match is None:
        raise ValueError(f"Expected an array, got {document[:40]!r}")
    shape = [int(size) for size in match[2].split(",") if size]
    data = np.frombuffer(base64.b64decode(match[3], validate=True), match[1])
    dtype = get_args(arguments[1])[0] if arguments else data.dtype.newbyteorder("=")
    return data.reshape(shape).astype(dtype, casting="same_kind")


def _split(text: str) -> tuple[str, str]:
    """Split msgspec's message into what is wrong and the path of the field."""
    message, _, place = text.rpartition(" - at `$")
    return (message, place.removesuffix("`")) if message else (text, "")


def _check_fields(document: Any, value: Any, path: str, fields: Fields) -> None:
    """Compare the fields of a document with those of its value, see `decode`."""
    parts: list[tuple[str, Any, Any]] = []
    if isinstance(document, dict):
        own = _fields_of(value)
        for key in document:
            if key not in own and fields != "any":
                raise CodecError(f"{path}.{key}: this field is unknown, remove it")
        for key, part in own.items():
            if key in document:
                parts.append((f"{path}.{key}", document[key], part))
            elif fields == "all":
                raise CodecError(f"{path}.{key}: this field is missing")
    elif isinstance(document, list | tuple) and isinstance(value, list | tuple):
        pairs = enumerate(zip(document, value, strict=True))
        parts = [(f"{path}[{i}]", item, part) for i, (item, part) in pairs]
    for place, item, part in parts:
        if isinstance(item, dict | list | tuple):
            _check_fields(item, part, place, fields)


def _fields_of(value: Any) -> dict[str, Any]:
    if isinstance(value, msgspec.Struct):
        name = value.__struct_config__.tag_field
        return ({name: ""} if name else {}) | msgspec.structs.asdict(value)
    if not dataclasses.is_dataclass(value):
        return value  # a dict
    names = [field.name for field in dataclasses.fields(value)]
    for name in names:  # msgspec leaves a default where `encode` does not look
        vars(value).setdefault(name, getattr(value, name))
    return {name: vars(value)[name] for name in names}
