"""The cloud as an upgrade of the local answer, as far as the user's policy allows it.

    from edge_s2s.hybrid import CloudClient, CloudConfig, HybridModel, Policy

    cloud = CloudClient(CloudConfig.from_toml("cloud.toml"))
    hybrid = HybridModel(edge_s2s.load(), cloud, Policy(privacy="redacted"))

Needs `pip install 'edge_s2s[cloud]'`.
"""

from edge_s2s.hybrid.cache import AnswerCache
from edge_s2s.hybrid.check import CloudCheck, check
from edge_s2s.hybrid.client import CloudClient
from edge_s2s.hybrid.config import CloudConfig
from edge_s2s.hybrid.device import Device, DeviceConfig, DeviceState, Governor, LinuxDevice, Step
from edge_s2s.hybrid.model import HybridModel, Upgrade
from edge_s2s.hybrid.policy import ONLY_IN_CLOUD, ONLY_ON_DEVICE, PREFER_IN_CLOUD, PREFER_ON_DEVICE, Policy
from edge_s2s.hybrid.redaction import Redacted, redact
from edge_s2s.hybrid.remote_policy import RemotePolicy, sign_policy

__all__ = [
    "ONLY_IN_CLOUD",
    "ONLY_ON_DEVICE",
    "PREFER_IN_CLOUD",
    "PREFER_ON_DEVICE",
    "AnswerCache",
    "CloudCheck",
    "CloudClient",
    "CloudConfig",
    "Device",
    "DeviceConfig",
    "DeviceState",
    "Governor",
    "HybridModel",
    "LinuxDevice",
    "Policy",
    "Redacted",
    "RemotePolicy",
    "Step",
    "Upgrade",
    "check",
    "redact",
    "sign_policy",
]
