"""Who may import whom, as architecture.md draws it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import edge_s2s

PACKAGE = Path(edge_s2s.__file__).parent
FOREIGN = (
    "torch",
    "transformers",
    "optimum",
    "onnx",
    "httpx",
    "safetensors",
    "tqdm",
    "llguidance",
    "urllib3",
    "cryptography",
    "onnxruntime_qnn",
    "onnxruntime_ep_openvino",
)
# Module -> modules of the package that it may import. Layers: each one knows only those below it.
ALLOWED = {
    "errors": set(),
    "threads": set(),
    "documents": {"passages"},
    "passages": set(),
    "faithfulness": set(),
    "stored_zip": {"errors"},
    "weights": {"errors"},
    "strict_json": {"errors"},
    "manifest": {"errors", "stored_zip", "strict_json", "weights"},
    "bundle": {"encoder_weights", "errors", "manifest", "stored_zip", "strict_json", "weights"},
    "encoder_weights": {"errors", "weights"},
    "ctranslate2_names": set(),
    "generation": {"ctranslate2_names", "manifest"},
    "charsmap": set(),
    "text_windows": set(),
    "tokenizer": {"charsmap", "errors", "manifest", "strict_json", "text_windows", "weights"},
    "onnx_graph": {"errors"},
    "onnx_runtime": set(),
    "encoder": {"bundle", "errors", "onnx_graph", "onnx_runtime"},
    "providers": set(),
    "devices": {"errors", "onnx_runtime", "providers"},
    "context_cache": set(),
    "static_encoder": {
        "bundle", "context_cache", "devices", "encoder", "errors", "manifest", "onnx_graph", "onnx_runtime",
        "providers",
    },
    "decoder": {"_core", "errors", "manifest", "weights"},
    "worker": {"decoder"},
    "constrained": {"decoder", "errors", "manifest"},
    "json_schema": {"constrained", "decoder", "errors", "tokenizer"},
    "confidence": {"documents", "errors", "faithfulness", "generation", "manifest", "strict_json"},
    "drift": {"errors", "manifest", "strict_json"},
    "job": {
        "confidence", "constrained", "decoder", "drift", "generation", "manifest", "tokenizer",
    },
    "repair": {
        "decoder", "documents", "faithfulness", "generation", "job", "manifest", "strict_json",
    },
    "scoring": {"decoder", "job", "manifest"},
    "target_prefix": {"decoder", "manifest", "tokenizer"},
    "answers": {
        "confidence", "decoder", "documents", "faithfulness", "generation", "job", "repair", "tokenizer",
        "worker",
    },
    "model": {
        "answers", "confidence", "constrained", "decoder", "documents", "drift", "errors", "generation",
        "job", "json_schema", "manifest", "repair", "scoring", "target_prefix", "tokenizer", "worker",
    },
    "memory": {"bundle", "decoder", "errors", "manifest", "weights"},
    "loading": {
        "bundle", "decoder", "encoder", "errors", "job", "manifest", "memory", "model", "providers",
        "static_encoder", "threads", "tokenizer", "weights",
    },
    "jsonl": {"constrained", "generation", "model"},
    "cli_bundle": {
        "bundle", "decoder", "devices", "errors", "generation", "loading", "manifest", "model",
        "onnx_graph", "providers", "weights",
    },
    "cli_cloud": {"cli_bundle", "hybrid", "loading", "model", "threads"},
    "cli": {
        "__init__", "cli_bundle", "cli_cloud", "constrained", "errors", "generation", "jsonl", "loading",
        "model", "providers", "threads",
    },
    "__init__": {"constrained", "errors", "generation", "loading", "manifest", "model", "scoring"},
    "__main__": {"cli"},
}  # fmt: skip


def imports_of(module: str) -> set[str]:
    """Modules of the package that the source imports, wherever the import stands."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif (
            isinstance(node, ast.ImportFrom) and node.module == "edge_s2s"
        ):  # a module, or a name of __init__
            names = [f"edge_s2s.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"edge_s2s.{node.module}" if node.level else str(node.module)]
        else:
            continue
        for name in names:
            if name == "edge_s2s" or name.startswith("edge_s2s."):
                submodule = name.split(".")[1] if "." in name else "__init__"
                is_module = (PACKAGE / f"{submodule}.py").exists() or submodule in ("_core", "hybrid")
                found.add(submodule if is_module else "__init__")
    return found


@pytest.mark.parametrize("module", sorted(path.stem for path in PACKAGE.glob("*.py")))
def test_module_imports_only_what_is_below_it(module: str):
    assert imports_of(module) <= ALLOWED[module]


def test_nothing_imports_the_cloud_but_the_command_line_when_it_is_asked_to():
    assert {module for module in ALLOWED if "hybrid" in imports_of(module)} <= {"cli_cloud"}


def test_only_the_decoder_touches_the_compiled_module():
    assert [module for module in ALLOWED if "_core" in imports_of(module)] == ["decoder"]


def test_a_fresh_interpreter_that_imports_the_package_loads_nothing_of_the_exporters():
    code = f"import sys, edge_s2s, edge_s2s.cli; print(*({FOREIGN} & sys.modules.keys()))"
    code = code.replace(str(FOREIGN), str(set(FOREIGN)))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []
