"""The generate extension of the Open Inference Protocol, `/models/MODEL/generate` and `/generate_stream`.

https://github.com/kserve/open-inference-protocol (generate_rest.yaml); Triton speaks it. `max_tokens` is
always sent, as servers take 20 otherwise.
"""

from collections.abc import Mapping
from typing import Literal
from urllib.parse import quote

from edge_s2s.hybrid.config import CloudConfig
from edge_s2s.hybrid.wire import CloudAnswer, CloudRequest, Json, get, invalid, optional_str

STREAMS = True
_FINISH: Mapping[str, Literal["eos", "length"]] = {
    "eos_token": "eos",
    "stop_sequence": "eos",
    "length": "length",
}


def request_path(config: CloudConfig, *, stream: bool) -> str:
    """`base_url` ends in `/v2`."""
    return f"/models/{quote(config.model, safe='')}/{'generate_stream' if stream else 'generate'}"


def request_body(config: CloudConfig, request: CloudRequest, *, stream: bool) -> Json:
    """`details` asks for the finish reason."""
    parameters = {"max_tokens": request.max_new_tokens, "temperature": 0, "details": True}
    return {"text_input": request.text, "parameters": parameters}


def read_answer(config: CloudConfig, document: Json) -> CloudAnswer:
    """`text_output`."""
    return CloudAnswer(
        get(document, "text_output", str), _finish_reason(document), optional_str(document, "model_name")
    )


def read_event(config: CloudConfig, document: Json) -> CloudAnswer:
    """An event is an answer that holds the next piece."""
    return read_answer(config, document)


def _finish_reason(document: Json) -> Literal["eos", "length"] | None:
    details = document.get("details")
    reason = details.get("finish_reason") if isinstance(details, dict) else None
    if reason is None:
        return None
    if reason not in _FINISH:
        raise invalid(f"finish_reason: expected {', '.join(_FINISH)}, found {ascii(reason)[:40]}")
    return _FINISH[reason]
