"""Checks an encoder's graph before ONNX Runtime gets it: no other file, no subgraph, listed operators only.

ONNX files are protobuf messages, walked here field by field; field numbers are those of onnx.proto. All else
about the graph is ONNX Runtime's to check.
"""

from collections.abc import Iterator

from edge_s2s.errors import BundleError

MAX_NODES = 20_000
OPERATORS = frozenset(
    [
        "Abs",
        "Add",
        "Cast",
        "Concat",
        "ConstantOfShape",
        "DequantizeLinear",
        "Div",
        "Equal",
        "Erf",
        "Expand",
        "Gather",
        "Gelu",
        "Greater",
        "LayerNormalization",
        "Less",
        "Log",
        "LpNormalization",
        "MatMul",
        "MatMulInteger",
        "Max",
        "Min",
        "Mul",
        "Neg",
        "Pow",
        "QuantizeLinear",
        "Range",
        "ReduceMax",
        "ReduceMean",
        "Relu",
        "Reshape",
        "Shape",
        "Sigmoid",
        "Slice",
        "Softmax",
        "Sqrt",
        "Sub",
        "Tanh",
        "Transpose",
        "Unsqueeze",
        "Where",
    ]
)

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_Fields = Iterator[tuple[int, int | memoryview]]


def check_onnx(data: memoryview, file: str) -> None:
    """Raises BundleError if the model could make ONNX Runtime do more than arithmetic on its input."""
    for number, value in _fields(data, file):
        if number == 7:  # graph
            _check_graph(_message(value, file), file)
        elif number == 8:  # opset_import
            for part, domain in _fields(_message(value, file), file):
                if part == 1:
                    _check_domain(bytes(_message(domain, file)), file)
        elif number in (20, 25):  # training_info, functions
            raise BundleError(file, "a model without functions and training info", f"field {number}")


def _check_graph(graph: memoryview, file: str) -> None:
    n_nodes = 0
    for number, value in _fields(graph, file):
        if number == 1:  # node
            n_nodes += 1
            _require(n_nodes <= MAX_NODES, file, f"at most {MAX_NODES} nodes", "more")
            _check_node(_message(value, file), file)
        elif number == 5:  # initializer
            _check_tensor(_message(value, file), file)
        elif number == 15:  # sparse_initializer
            raise BundleError(file, "dense tensors", "a sparse one")


def _check_node(node: memoryview, file: str) -> None:
    for number, value in _fields(node, file):
        if number == 4:  # op_type
            name = bytes(_message(value, file)).decode("ascii", "replace")
            _require(name in OPERATORS, file, "operators that an encoder needs", ascii(name)[:100])
        elif number == 7:
            _check_domain(bytes(_message(value, file)), file)
        elif number == 5:  # attribute
            for part, content in _fields(_message(value, file), file):
                if part in (5, 10):  # t, tensors
                    _check_tensor(_message(content, file), file)
                elif part in (6, 11, 22, 23):  # g, graphs, sparse_tensor, sparse_tensors
                    raise BundleError(file, "nodes without subgraphs and sparse tensors", f"field {part}")


def _check_domain(domain: bytes, file: str) -> None:
    _require(domain in (b"", b"ai.onnx"), file, "ONNX's own operators", f"the domain {ascii(domain)[:100]}")


def _check_tensor(tensor: memoryview, file: str) -> None:
    for number, value in _fields(tensor, file):
        if number == 13 or (number == 14 and value != 0):  # external_data, data_location
            raise BundleError(file, "tensors that the file holds itself", "one in another file")


def _require(condition: bool, file: str, expected: str, found: str) -> None:
    if not condition:
        raise BundleError(file, expected, found)


def _message(value: int | memoryview, file: str) -> memoryview:
    if isinstance(value, int):
        raise BundleError(file, "an ONNX model", "a number in the place of a message")
    return value


def _fields(message: memoryview, file: str) -> _Fields:
    """Number and value of each field: an integer, or the bytes of text, message and packed numbers."""
    position, end = 0, len(message)

    def varint() -> int:
        nonlocal position
        result = 0
        for shift in range(0, 70, 7):
            if position == end:
                break
            byte = message[position]
            position += 1
            result |= (byte & 127) << shift
            if byte < 128:
                return result
        raise BundleError(file, "an ONNX model", f"a damaged number at the end of {end} bytes")

    while position < end:
        tag = varint()
        # protobuf keeps 32 bits of it: with more, ONNX Runtime would see another field here than we do.
        _require(8 <= tag < 1 << 32, file, "a field number of 1..536870911", f"{tag >> 3}")
        wire_type = tag & 7
        if wire_type == _VARINT:
            yield tag >> 3, varint()
            continue
        if wire_type == _BYTES:
            size = varint()
        elif wire_type in (_FIXED64, _FIXED32):
            size = 8 if wire_type == _FIXED64 else 4
        else:
            raise BundleError(file, "an ONNX model", f"the wire type {wire_type}")
        if size > end - position:
            raise BundleError(file, f"an ONNX model with {size} more bytes", f"{end - position} bytes")
        yield tag >> 3, message[position : position + size]
        position += size
