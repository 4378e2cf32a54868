"""Open Inference Protocol v2, `/models/MODEL/infer`, as KServe, MLServer and Triton speak it.

https://github.com/kserve/open-inference-protocol. One tensor of one text each way; `input_name` and
`output_name` of the configuration are what the deployment calls them. The protocol has no streams.
"""

from urllib.parse import quote

from edge_s2s.hybrid.config import CloudConfig
from edge_s2s.hybrid.wire import CloudAnswer, CloudRequest, Json, get, invalid, optional_str

STREAMS = False


def request_path(config: CloudConfig, *, stream: bool) -> str:
    """`base_url` ends in `/v2`."""
    return f"/models/{quote(config.model, safe='')}/infer"


def request_body(config: CloudConfig, request: CloudRequest, *, stream: bool) -> Json:
    """`timeout` is in microseconds (Triton's scheduling extension)."""
    tensor = {"name": config.input_name, "shape": [1], "datatype": "BYTES", "data": [request.text]}
    parameters = {"max_tokens": request.max_new_tokens, "timeout": round(request.timeout_s * 1e6)}
    return {"parameters": parameters, "inputs": [tensor], "outputs": [{"name": config.output_name}]}


def read_answer(config: CloudConfig, document: Json) -> CloudAnswer:
    """The output tensor."""
    for output in get(document, "outputs", list):
        if isinstance(output, dict) and output.get("name") == config.output_name:
            data = get(output, "data", list)
            if len(data) != 1 or not isinstance(data[0], str):
                raise invalid(f'the tensor "{config.output_name}" of the answer does not hold one text')
            return CloudAnswer(data[0], model=optional_str(document, "model_name"))
    raise invalid(f'the answer has no tensor "{config.output_name}"')


def read_event(config: CloudConfig, document: Json) -> CloudAnswer:
    """Never called: there are no streams."""
    return read_answer(config, document)
