"""OpenAI's `/chat/completions`, as vLLM, Ollama, llama.cpp, KServe and many services speak it.

https://platform.openai.com/docs/api-reference/chat. Sent is what all of them accept. The text is the user's
message and nothing else, so that what it says is not an instruction of ours.
"""

from collections.abc import Mapping
from typing import Literal

from edge_s2s.hybrid.config import CloudConfig
from edge_s2s.hybrid.wire import CloudAnswer, CloudRequest, Json, get, invalid, only, optional_str

STREAMS = True
_FINISH: Mapping[str | None, Literal["eos", "length"]] = {"stop": "eos", "length": "length"}


def request_path(config: CloudConfig, *, stream: bool) -> str:
    """The same for streams."""
    return "/chat/completions"


def request_body(config: CloudConfig, request: CloudRequest, *, stream: bool) -> Json:
    """Greedy, as the device is by default."""
    body: dict[str, object] = {
        "model": config.model,
        "messages": [
            {"role": "system", "content": config.instruction},
            {"role": "user", "content": request.text},
        ],
        config.max_tokens_field: request.max_new_tokens,
        "temperature": 0,
        "stream": stream,
    }
    if stream:
        body["stream_options"] = {"include_usage": True}
    return body


def read_answer(config: CloudConfig, document: Json) -> CloudAnswer:
    """`choices[0].message.content`."""
    choice = only(document, "choices")
    finish = _finish_reason(choice)
    if finish is None:
        raise invalid("the answer has no finish_reason")
    message = get(choice, "message", dict)
    return CloudAnswer(
        get(message, "content", str), finish, optional_str(document, "model"), _n_tokens(document)
    )


def read_event(config: CloudConfig, document: Json) -> CloudAnswer:
    """`choices[0].delta.content`; the event with the usage has no choices."""
    choices = get(document, "choices", list)
    model, n_tokens = optional_str(document, "model"), _n_tokens(document)
    if not choices:
        return CloudAnswer("", model=model, n_tokens=n_tokens)
    choice = only(document, "choices")
    text = optional_str(get(choice, "delta", dict), "content") or ""
    return CloudAnswer(text, _finish_reason(choice), model, n_tokens)


def _finish_reason(choice: Json) -> Literal["eos", "length"] | None:
    reason = optional_str(choice, "finish_reason")
    if reason is not None and reason not in _FINISH:
        raise invalid(f"finish_reason: expected stop or length, found {reason[:40]!a}")
    return _FINISH.get(reason)


def _n_tokens(document: Json) -> int | None:
    usage = document.get("usage")
    total = usage.get("total_tokens") if isinstance(usage, dict) else None
    return total if isinstance(total, int) and total >= 0 else None
