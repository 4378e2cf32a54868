"""The cloud on the command line: `--cloud` of `edge-s2s summarize`, and `edge-s2s cloud`."""

import argparse
import dataclasses
import importlib.util
import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_s2s.cli_bundle import bundle_path
from edge_s2s.loading import load
from edge_s2s.model import Seq2SeqModel
from edge_s2s.threads import default_num_threads

if TYPE_CHECKING:
    from edge_s2s import hybrid


def add_cloud_options(command: argparse.ArgumentParser) -> None:
    """What a command may be told about the cloud."""
    group = command.add_argument_group("cloud", "who may better a doubtful answer; needs edge_s2s[cloud]")
    group.add_argument(
        "--cloud", metavar="CONFIG", help="TOML file with [cloud] and perhaps [policy] and [device]"
    )
    modes = ("prefer_on_device", "only_on_device", "prefer_in_cloud", "only_in_cloud")
    group.add_argument("--mode", choices=modes, help="who answers; by default prefer_on_device")
    privacies = ("never", "ask", "redacted", "allow")
    group.add_argument("--privacy", choices=privacies, help="what may be sent; by default never")
    group.add_argument(
        "--fewer-threads",
        action=argparse.BooleanOptionalAction,
        help="load the bundle with half of the threads when the device is warm; by default yes",
    )
    group.add_argument("--smaller-bundle", metavar="DIR", help="what answers when the device is hot")


def with_cloud(
    arguments: argparse.Namespace, model: Seq2SeqModel, stack: ExitStack
) -> "Seq2SeqModel | hybrid.HybridModel":
    """The model, with the cloud behind it if there is one; what is loaded besides, `stack` closes."""
    if arguments.cloud is None:
        given = ("mode", "privacy", "fewer_threads", "smaller_bundle")
        if any(getattr(arguments, name) is not None for name in given):
            arguments.usage_error("--mode, --privacy, --fewer-threads and --smaller-bundle are for --cloud")
        return model
    _check_cloud_is_installed()
    from edge_s2s import hybrid

    policy = hybrid.Policy.from_toml(arguments.cloud)
    policy = dataclasses.replace(policy, **_given(arguments, "mode", "privacy"))
    device = hybrid.DeviceConfig.from_toml(arguments.cloud)
    device = dataclasses.replace(device, **_given(arguments, "fewer_threads", "smaller_bundle"))
    client = hybrid.CloudClient(hybrid.CloudConfig.from_toml(arguments.cloud))
    return hybrid.HybridModel(
        model,
        client,
        policy,
        consent=_consent(client.config.base_url),
        governor=hybrid.Governor(hybrid.LinuxDevice(Path(device.root))),
        models=_models(arguments, device, stack),
    )


def _given(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(arguments, name)) is not None}


def _models(
    arguments: argparse.Namespace, device: "hybrid.DeviceConfig", stack: ExitStack
) -> "dict[hybrid.Step, Seq2SeqModel | Callable[[], Seq2SeqModel]]":
    """What answers instead of the model, loaded when it is needed."""
    from edge_s2s import hybrid

    n_threads = arguments.num_threads or default_num_threads()
    fewer = max(1, n_threads // 2)
    models: dict[hybrid.Step, Seq2SeqModel | Callable[[], Seq2SeqModel]] = {}
    if device.fewer_threads and fewer < n_threads:
        path = bundle_path(arguments.bundle)
        models[hybrid.Step.FEWER_THREADS] = lambda: stack.enter_context(load(path, num_threads=fewer))
    if (smaller := device.smaller_bundle) is not None:
        models[hybrid.Step.SMALLER_BUNDLE] = lambda: stack.enter_context(load(smaller, num_threads=fewer))
    return models


def _check_cloud_is_installed() -> None:
    for name in ("urllib3", "cryptography"):
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"the cloud needs {name}: pip install 'edge_s2s[cloud]'")


def _consent(address: str) -> Callable[[str], bool]:
    """Asks on the terminal; without one nobody agrees."""

    def ask(text: str) -> bool:
        try:
            with Path("/dev/tty").open("r+b", buffering=0) as terminal:
                terminal.write(
                    f"\nSend all {len(text)} characters of this text to {address}? [y/N] ".encode()
                )
                return terminal.readline().strip().lower() in (b"y", b"yes")
        except OSError:
            return False

    return ask


def cloud_check(arguments: argparse.Namespace) -> int:
    """`edge-s2s cloud check`."""
    _check_cloud_is_installed()
    from edge_s2s import hybrid

    checks = [*hybrid.check(hybrid.CloudConfig.from_toml(arguments.config))]
    if arguments.json:
        print(json.dumps({"ok": checks[0].ok, "checks": [found._asdict() for found in checks]}))
    else:
        for found in checks:
            print(f"{'✓' if found.ok else '✗'} {found.name}: {found.detail}")
    return int(not checks[0].ok)


def cloud_sign(arguments: argparse.Namespace) -> int:
    """`edge-s2s cloud sign`."""
    _check_cloud_is_installed()
    from edge_s2s import hybrid

    envelope, public_key = hybrid.sign_policy(
        Path(arguments.policy).read_bytes(), Path(arguments.key).read_bytes()
    )
    sys.stdout.write(envelope.decode("ascii"))
    print(f'remote_policy_keys = ["{public_key}"]', file=sys.stderr)
    return 0
