"""When the cloud may be asked, and when it should be. Pure functions of what is known about an answer.

Why the cloud was asked, in `Generation.reasons`:

    low_confidence      P(good), by the bundle's calibration, is below the threshold
    low_probability, unlikely_tokens, new_number, new_name, loop, incomplete
                        what `confidence.doubts` says while a bundle has no calibration
    ask_cloud           `repair` could not mend what a check found
    long                the document has more pieces than the model can put together well
    too_long            the model cannot read the text in one pass
    language            the tokenizer does not know much of the text
    task                the model was made for another task
    device              the device is too hot, too empty or too full for the model
    blocked             the remote policy blocks the bundle
    mode                `prefer_in_cloud` and `only_in_cloud` ask for every text

Why it did not answer is `cloud_` and the reason of the CloudError, such as `cloud_privacy`, or `cloud_slow`
where the local answer won the race.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, Self, TypeAlias, get_args

from edge_s2s.confidence import Calibration, doubts, features
from edge_s2s.faithfulness import Findings
from edge_s2s.generation import Generation
from edge_s2s.hybrid.config import read_table
from edge_s2s.manifest import Manifest
from edge_s2s.repair import ASK_CLOUD

Mode: TypeAlias = Literal["prefer_on_device", "only_on_device", "prefer_in_cloud", "only_in_cloud"]
PREFER_ON_DEVICE: Mode = "prefer_on_device"
ONLY_ON_DEVICE: Mode = "only_on_device"
PREFER_IN_CLOUD: Mode = "prefer_in_cloud"
ONLY_IN_CLOUD: Mode = "only_in_cloud"

Privacy: TypeAlias = Literal["never", "ask", "redacted", "allow"]


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What the user allows. By default nothing leaves the device."""

    mode: Mode = PREFER_ON_DEVICE
    privacy: Privacy = "never"
    """never: no connection is opened. ask: a function decides for each text. redacted: the text goes without
    what `redaction` finds. allow: the text goes as it is."""
    deny_list: Sequence[str] = ()
    """Phrases that `redacted` replaces, too"""
    task: str | None = None
    """What texts are for, such as summarization; another task than the bundle's is one for the cloud"""
    min_confidence: float | None = None
    """P(good) below which the cloud is asked; None is the threshold of the bundle's calibration"""
    careful: bool = True
    """Whether the device is `GenerationOptions.careful` where the cloud may be asked"""
    max_chunks: int = 4
    """Pieces of a document from which on the cloud is asked"""
    max_unknown_tokens: float = 0.2
    """Share of a text's tokens"""
    metered_network: bool = False
    """Whether a network may be used that costs by volume"""

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ValueError(f"mode: expected one of {', '.join(get_args(Mode))}, found {self.mode!r}")
        if self.privacy not in get_args(Privacy):
            raise ValueError(
                f"privacy: expected one of {', '.join(get_args(Privacy))}, found {self.privacy!r}"
            )
        if isinstance(self.deny_list, str) or not all(
            isinstance(p, str) and p.strip() for p in self.deny_list
        ):
            raise ValueError(f"deny_list: expected a list of phrases, found {self.deny_list!r}")
        object.__setattr__(self, "deny_list", tuple(self.deny_list))

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> Self:
        """Reads the table `[policy]` of a file; without one it is the default."""
        return cls(**read_table(Path(path), "policy", [field.name for field in fields(cls)]))


def reasons_before(policy: Policy, manifest: Manifest, token_ids: Sequence[int]) -> list[str]:
    """What speaks against the model before it has read a text."""
    unknown = manifest.special_tokens.unk
    found = {
        "task": policy.task not in (None, manifest.task),
        "language": unknown is not None
        and sum(token == unknown for token in token_ids) > policy.max_unknown_tokens * len(token_ids),
    }
    return [reason for reason, is_so in found.items() if is_so]


def reasons_after(
    policy: Policy, manifest: Manifest, draft: Generation, findings: Findings, source: str
) -> list[str]:
    """What speaks against an answer of the model."""
    reasons = [ASK_CLOUD] if ASK_CLOUD in draft.reasons else []
    if draft.stats.n_chunks > policy.max_chunks:
        reasons.append("long")
    if draft.confidence is not None:
        threshold = policy.min_confidence
        if threshold is None:
            calibration = Calibration.of(manifest, careful=bool(draft.draws))
            threshold = 0.0 if calibration is None else calibration.threshold
        return [*reasons, "low_confidence"] if draft.confidence < threshold else reasons
    values = features(draft, findings, source)
    if values is not None:
        return [*reasons, *doubts(values)]
    return reasons if draft.finish_reason == "eos" else [*reasons, "incomplete"]
