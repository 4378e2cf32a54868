import pickle
import re

import pytest

from edge_s2s import errors
from edge_s2s.errors import BundleError, CloudError, CoreError, EdgeS2SError, InputTooLongError


def test_message_names_file_tensor_expected_found_and_what_to_do():
    error = BundleError(
        "decoder.weights", "float32 [8]", "int8 [8]", tensor="final_norm.weight", hint="re-export"
    )
    assert str(error) == (
        'decoder.weights: tensor "final_norm.weight": expected float32 [8], found int8 [8]; re-export'
    )
    assert str(BundleError("manifest.json", "a name", "3")) == "manifest.json: expected a name, found 3"


def test_errors_survive_the_way_between_processes():
    bundle_error = BundleError("a", "b", "c", tensor="d", hint="e")
    for error in (
        bundle_error,
        CoreError(-3, "cannot map"),
        InputTooLongError("9 tokens"),
        CloudError("status", "no", status=404),
    ):
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert str(copy) == str(error)
        assert vars(copy) == vars(error)


def names_below(error: type[EdgeS2SError]) -> list[str]:
    """Of errors.py: a module may have a private one of its own."""
    public = [cls for cls in error.__subclasses__() if cls.__module__ == errors.__name__]
    return [name for cls in public for name in (cls.__name__, *names_below(cls))]


def test_the_tree_in_the_docstring_is_the_tree():
    drawn = re.findall(r"──\s(\w+)", errors.__doc__ or "")
    assert drawn == names_below(EdgeS2SError)


def test_a_too_long_input_is_also_a_value_error():
    with pytest.raises(ValueError, match="9 tokens"):
        raise InputTooLongError("9 tokens")
