"""What a runtime takes: asked of real runtimes, and of made-up ones that answer in their own way."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest
from ai_edge_litert import schema_py_generated as schema

from edge_node.modelcheck import check_model
from edge_node.operators import BUILTINS, CUSTOM, builtin_model, custom_model, known_operators
from slicemq.errors import ModelError, UnsupportedOperatorError
from tests.runtimes import EACH_RUNTIME


def test_the_names_are_the_schemas() -> None:
    numbers = {name: number for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
    assert {name: number for number, name in enumerate(BUILTINS)} == numbers


@pytest.mark.parametrize(("number", "version"), [(0, 1), (127, 3), (206, 40)])
def test_the_model_of_one_operator_code_is_a_sound_flatbuffer(number: int, version: int) -> None:
    data = builtin_model(number, version)
    check_model(data)
    (code,) = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0)).operatorCodes
    assert (code.builtinCode, code.deprecatedBuiltinCode, code.version) == (number, min(number, 127), version)


def test_the_model_of_a_custom_operator_is_a_sound_flatbuffer() -> None:
    data = custom_model("Mfcc")
    check_model(data)
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    (operator,) = model.subgraphs[0].operators
    assert model.operatorCodes[operator.opcodeIndex].customCode == b"Mfcc"
    assert bytes(operator.customOptions) == bytes.fromhex("00000100002401")


def _resolver(takes: Callable[[str, int], bool]) -> Callable[[bytes], object]:
    """A runtime of so many operators, which tells of them as the real ones do."""

    def load(data: bytes) -> object:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
        (code,) = model.operatorCodes
        name = code.customCode.decode() if code.customCode else BUILTINS[code.builtinCode]
        if not takes(name, code.version):
            raise UnsupportedOperatorError(f"lacks {name} in version {code.version}")
        if code.customCode:
            raise ModelError("the operator has no inputs")
        return object()

    return load


def test_the_highest_version_of_each_operator_is_found() -> None:
    table = {"ADD": range(1, 8), "BROADCAST_TO": range(2, 4), "GELU": range(1, 2), "Mfcc": range(1, 2)}
    found = known_operators(_resolver(lambda name, version: version in table.get(name, ())))
    assert found == {"ADD": 7, "BROADCAST_TO": 3, "GELU": 1, "Mfcc": 1}


def test_a_runtime_that_takes_everything_ends_the_search() -> None:
    found = known_operators(_resolver(lambda name, version: True))
    assert set(found) == {*BUILTINS, *CUSTOM} - {"CUSTOM", "DELEGATE", "PLACEHOLDER_FOR_GREATER_OP_CODES"}
    assert found["ADD"] == 100


def test_a_runtime_that_takes_no_such_model_says_nothing() -> None:
    def load(data: bytes) -> object:
        raise ModelError("a model without tensors")

    assert known_operators(load) == {}


ASK = """
import json, sys
from edge_node.operators import BUILTINS, builtin_model, known_operators
from edge_node.runtime import open_interpreter
from slicemq.errors import ModelError

def load(data):
    return open_interpreter(data, runtime=sys.argv[1])

def takes(number, version):
    try:
        load(builtin_model(number, version))
    except ModelError:
        return False
    return True

known = known_operators(load)
gaps = {}
for number, name in enumerate(BUILTINS):
    versions = [v for v in range(1, 25) if takes(number, v)]
    first = versions[0] if versions else 1
    if versions != list(range(first, known.get(name, 0) + 1)):
        gaps[name] = versions
print(json.dumps([known, gaps]))
"""


@pytest.mark.parametrize("runtime", EACH_RUNTIME)
def test_each_runtime_tells_its_operators_without_a_word_and_its_versions_have_no_gaps(runtime: str) -> None:
    done = subprocess.run([sys.executable, "-c", ASK, runtime], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    known, gaps = json.loads(done.stdout)
    assert gaps == {}
    # Facts of the oldest runtime that is supported, tflite_runtime 2.14; newer ones only add to them.
    least = {"ADD": 5, "CONV_2D": 7, "FULLY_CONNECTED": 10, "VAR_HANDLE": 1, "DENSIFY": 1, "Mfcc": 1}
    assert {name: version for name, version in least.items() if known.get(name, 0) < version} == {}
    assert len(known) > 150


@pytest.mark.parametrize("runtime", EACH_RUNTIME)
def test_a_runtime_names_what_it_lacks(runtime: str) -> None:
    code = (
        "import sys; from edge_node.runtime import open_interpreter; from edge_node.operators import *\n"
        "from slicemq.errors import UnsupportedOperatorError\n"
        "for model in (builtin_model(9, 99), builtin_model(126, 1), custom_model('Nonsense')):\n"
        "    try: open_interpreter(model, runtime=sys.argv[1])\n"
        "    except UnsupportedOperatorError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, runtime], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0].endswith("lacks operator FULLY_CONNECTED in version 99")
    assert lines[-1].endswith("lacks operator Nonsense")
