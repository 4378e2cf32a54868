"""Real Open Inference servers give our client the answers of their models.

MLServer and KServe need environments of their own: EDGE_S2S_MLSERVER and EDGE_S2S_KSERVE are their Pythons.

    python -m venv mlserver && mlserver/bin/pip install mlserver==1.7.1
    python -m venv kserve && kserve/bin/pip install kserve==0.21.0
"""

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_s2s.errors import CloudError
from edge_s2s.hybrid import CloudClient, CloudConfig, check
from edge_s2s_export.probe_texts import probe_texts

REPORT = Path(__file__).parents[2] / "reports" / "open_inference_servers.json"

MLSERVER_MODEL = """
from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.types import InferenceResponse

class Shout(MLModel):
    async def load(self):
        return True

    async def predict(self, payload):
        [text] = StringCodec.decode_input(payload.inputs[0])
        output = StringCodec.encode_output("summary", [text.upper()])
        return InferenceResponse(model_name=self.name, outputs=[output])
"""
KSERVE_MODEL = """
import sys
from kserve import InferOutput, InferResponse, Model, ModelServer

class Shout(Model):
    def load(self):
        self.ready = True

    def get_input_types(self):
        return [{"name": "document", "datatype": "BYTES", "shape": [1]}]

    def get_output_types(self):
        return [{"name": "summary", "datatype": "BYTES", "shape": [1]}]

    def predict(self, payload, headers=None):
        [text] = payload.inputs[0].data
        text = text.decode() if isinstance(text, bytes) else text
        output = InferOutput("summary", [1], "BYTES", [text.upper()])
        return InferResponse(payload.id or "1", self.name, [output])

model = Shout("teacher")
model.load()
ModelServer(http_port=int(sys.argv[1]), grpc_port=int(sys.argv[2]), workers=1).start([model])
"""


def free_ports(n: int) -> list[int]:
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [server.getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    return ports


def mlserver_command(python: str, folder: Path, ports: list[int]) -> list[str]:
    names = dict(zip(("http_port", "grpc_port", "metrics_port"), ports, strict=True))
    (folder / "settings.json").write_text(json.dumps({"host": "127.0.0.1", "parallel_workers": 0, **names}))
    tensors = {
        kind: [{"name": name, "datatype": "BYTES", "shape": [1]}]
        for kind, name in (("inputs", "document"), ("outputs", "summary"))
    }
    model = {"name": "teacher", "implementation": "shout.Shout", **tensors}
    (folder / "model-settings.json").write_text(json.dumps(model))
    (folder / "shout.py").write_text(MLSERVER_MODEL)
    return [str(Path(python).parent / "mlserver"), "start", str(folder)]


def kserve_command(python: str, folder: Path, ports: list[int]) -> list[str]:
    (folder / "shout.py").write_text(KSERVE_MODEL)
    return [python, str(folder / "shout.py"), str(ports[0]), str(ports[1])]


SERVERS = {
    "mlserver": ("EDGE_S2S_MLSERVER", mlserver_command),
    "kserve": ("EDGE_S2S_KSERVE", kserve_command),
}


@contextmanager
def serving(name: str, folder: Path) -> Iterator[CloudConfig]:
    variable, command_of = SERVERS[name]
    ports = free_ports(3)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    command = command_of(os.environ[variable], folder, ports)
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            cwd=folder,
            env={**os.environ, "PATH": path, "PYTHONPATH": str(folder)},
        ) as process,
    ):
        config = CloudConfig(
            base_url=f"http://127.0.0.1:{ports[0]}/v2", model="teacher", protocol="open_inference",
            input_name="document", output_name="summary", state_dir=str(folder / "state"),
        )  # fmt: skip
        try:
            wait_until_ready(config, process, folder / "log")
            yield config
        finally:
            process.terminate()
            process.wait(30)


def wait_until_ready(config: CloudConfig, process: "subprocess.Popen[bytes]", log: Path) -> None:
    client = CloudClient(config)
    for _ in range(240):
        assert process.poll() is None, log.read_text()
        try:
            client.get("/models/teacher", time.monotonic() + 2)
            return
        except CloudError:
            time.sleep(0.25)
    raise AssertionError(log.read_text())


@pytest.mark.release
@pytest.mark.parametrize("name", SERVERS)
def test_a_real_server_gives_the_answers_of_its_model(name: str, tmp_path: Path):
    if SERVERS[name][0] not in os.environ:
        pytest.skip(f"{name} is not there ({SERVERS[name][0]})")
    texts = [*probe_texts(30), 'Quotes " and \\ and Ünïcode ✓', "two\nlines"]
    with serving(name, tmp_path) as config:
        client = CloudClient(config)
        same = sum(client.complete(text, max_new_tokens=400).text == text.upper() for text in texts)
        first = next(iter(check(config)))
    report = json.loads(REPORT.read_text()) if REPORT.exists() else {}
    REPORT.write_text(json.dumps({**report, name: {"texts": len(texts), "same": same}}, indent=2) + "\n")
    assert same == len(texts)
    assert first.ok, first
