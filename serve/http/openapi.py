"""The two routes that the framework does not see, as OpenAPI describes them."""

from typing import Any

_NAME = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}, "example": "mnist14k"}
_GUESS = {"type": "object", "properties": {"label": {"type": "string"}, "probability": {"type": "number"}}}
_ROW = {
    "type": "object",
    "properties": {
        "input": {"type": "string"},
        "model": {"type": "string"},
        "label": {"type": "string", "nullable": True},
        "probability": {"type": "number", "nullable": True},
        "unsure": {"type": "boolean", "nullable": True},
        "top_k": {"type": "array", "items": _GUESS},
        "corrections": {"type": "array", "items": {"type": "string"}},
        "error": {"type": "string", "nullable": True},
    },
}
_REFUSALS = {
    "400": "Not an image, or one that cannot be classified.",
    "401": "The server wants its key.",
    "403": "Pages of that site may not use the server.",
    "404": "No such model.",
    "408": "The request did not come whole in time, or too slowly.",
    "413": "The request, or its JSON, is too large.",
    "415": "The body is of another kind.",
    "421": "The server does not answer to that host name.",
    "422": "A parameter or the form cannot be understood.",
    "429": "Too many large requests at once from one address.",
    "503": "Too many wait already: see Retry-After.",
    "504": "No answer before the deadline.",
}
_ERROR = {"application/json": {"schema": {"type": "object", "properties": {"error": {"type": "string"}}}}}


def _answers(schema: dict[str, Any]) -> dict[str, Any]:
    good = {"200": {"description": "The answer.", "content": {"application/json": {"schema": schema}}}}
    return good | {status: {"description": told, "content": _ERROR} for status, told in _REFUSALS.items()}


_FILES = {"type": "object", "properties": {"file": {"type": "array", "items": {"type": "string", "format": "binary"}}}}
_PREDICT = {
    "summary": "Classify an image, or a form of image files",
    "description": "An image as the body gives one row, as an object; multipart/form-data gives a list of rows, in the "
    "files' order, also for one file. as=list and as=object choose the one or the other for both.",
    "tags": ["models"],
    "parameters": [
        _NAME,
        {"name": "top_k", "in": "query", "schema": {"type": "integer", "minimum": 1, "default": 3}},
        {"name": "fit", "in": "query", "schema": {"type": "string", "enum": ["crop", "whole"], "default": "crop"}},
        {"name": "as", "in": "query", "schema": {"type": "string", "enum": ["object", "list"]}},
    ],
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {"schema": _FILES},
        },
    },
    "responses": _answers({"oneOf": [_ROW, {"type": "array", "items": _ROW}]}),
}
_TENSORS = {"type": "array", "items": {"type": "object"}}
_INFER = {
    "summary": "Classify tensors (Open Inference Protocol)",
    "description": "Input `image`, UINT8 [N,H,W,C], or `encoded`, BYTES [N]: image files, in JSON as base64. At most "
    "4 MB of JSON; tensors may follow it as bytes.",
    "tags": ["Open Inference Protocol"],
    "parameters": [_NAME],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "object", "properties": {"id": {"type": "string"}, "inputs": _TENSORS}}
            }
        },
    },
    "responses": _answers({"type": "object", "properties": {"outputs": _TENSORS}}),
}
_VERSION = {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}}

HOT_ROUTES: dict[str, Any] = {
    "/models/{name}/predict": {"post": _PREDICT},
    "/v2/models/{name}/infer": {"post": _INFER},
    "/v2/models/{name}/versions/{version}/infer": {"post": {**_INFER, "parameters": [_NAME, _VERSION]}},
}
