"""The tools that a request declares, and what their JSON schemas say about an argument.

Above: the tool-call parsers and the tool-call grammars. Below: errors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glm_crush.errors import InvalidParameterError

__all__ = ["ToolSchema", "takes_string", "tool_schemas"]

_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


@dataclass(frozen=True)
class ToolSchema:
    """One declared function.

    Attributes:
        parameters: the JSON schema of its arguments, an object's.
        strict: a schema with a keyword that cannot be enforced is refused; else that keyword is ignored.
    """

    name: str
    parameters: Mapping[str, Any]
    strict: bool = False

    @property
    def properties(self) -> Mapping[str, Any]:
        """Schema of each declared argument."""
        properties = self.parameters.get("properties")
        return properties if isinstance(properties, Mapping) else {}

    @property
    def required(self) -> frozenset[str]:
        """Arguments that every call has."""
        required = self.parameters.get("required")
        return frozenset(map(str, required)) if isinstance(required, Sequence) else frozenset()

    def is_string(self, argument: str) -> bool:
        """Whether the model writes this argument as it is, without quotes: its schema takes a string."""
        return takes_string(self.properties.get(argument), self.parameters)


def takes_string(schema: object, root: Mapping[str, Any]) -> bool:
    """Whether a value of this schema may be a string; an empty or missing one does not say so.

    `root` is the whole schema, for `$ref`.
    """
    return _takes_string(schema, root, set())


def _takes_string(schema: object, root: Mapping[str, Any], followed: set[str]) -> bool:
    """Each reference is followed once: schemas may refer to themselves, many times over."""
    if not isinstance(schema, Mapping):
        return False
    kinds = schema.get("type")
    if kinds is not None:
        return kinds == "string" or (isinstance(kinds, list) and "string" in kinds)
    if isinstance(schema.get("enum"), list):
        return any(isinstance(value, str) for value in schema["enum"])
    if "const" in schema:
        return isinstance(schema["const"], str)
    reference = schema.get("$ref")
    if isinstance(reference, str):
        if reference in followed:
            return False
        followed.add(reference)
        return _takes_string(_resolve(reference, root), root, followed)
    arms = [arm for key in ("anyOf", "oneOf", "allOf") if isinstance(schema.get(key), list) for arm in schema[key]]
    return any(_takes_string(arm, root, followed) for arm in arms)


def _resolve(reference: str, root: Mapping[str, Any]) -> object:
    """What a local reference (`#/$defs/Name`) points at, or None."""
    found: object = root
    for key in reference.removeprefix("#").split("/")[1:]:
        found = found.get(key.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    return found if reference.startswith("#") else None


def tool_schemas(tools: Sequence[Mapping[str, Any]]) -> dict[str, ToolSchema]:
    """The functions among a request's `tools`, by name.

    Raises:
        InvalidParameterError: a tool is no function, has no usable name or parameters, or a name comes twice.
    """
    declared: dict[str, ToolSchema] = {}
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        function = tool.get("function")
        if not isinstance(function, Mapping) or tool.get("type", "function") != "function":
            raise _error(where, f'is {json.dumps(tool)[:80]}; give {{"type": "function", "function": {{...}}}}')
        name = function.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise _error(f"{where}.function.name", f"is {name!r:.80}; give 1 to 128 letters, digits and . : _ -")
        if name in declared:
            raise _error(f"{where}.function.name", f"is {name!r}, as of an earlier tool; give each its own name")
        parameters = function.get("parameters")
        if parameters is not None and not isinstance(parameters, Mapping):
            raise _error(f"{where}.function.parameters", f"is {parameters!r:.80}; give a JSON schema object")
        _check_properties(parameters or {}, f"{where}.function.parameters")
        declared[name] = ToolSchema(name, parameters or {}, strict=function.get("strict") is True)
    return declared


def _check_properties(parameters: Mapping[str, Any], where: str) -> None:
    """What is read here must have the shape that JSON schema wants; the rest the grammar's compiler judges."""
    properties = parameters.get("properties", {})
    if not isinstance(properties, Mapping):
        raise _error(f"{where}.properties", f"is {properties!r:.80}; give an object with a schema for each argument")
    for name, schema in properties.items():
        if not isinstance(schema, (Mapping, bool)):
            raise _error(f"{where}.properties.{name:.80}", f"is {schema!r:.80}; give a JSON schema")


def _error(where: str, problem: str) -> InvalidParameterError:
    return InvalidParameterError(f"{where} {problem}", parameter=where)
