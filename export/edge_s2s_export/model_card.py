"""MODEL_CARD.md and LICENSE of a bundle."""

from collections.abc import Mapping

from edge_s2s.manifest import Manifest

UNKNOWN_LICENCE = "NOASSERTION"  # SPDX's word for: nobody said


def licence_text(manifest: Manifest) -> str:
    """What the weights may be used for, where the complete text is, and whose data they come from."""
    spdx = manifest.licence.weights
    if spdx == UNKNOWN_LICENCE:
        return (
            "The licence of these weights was not given when they were converted: ask where they come from.\n"
        )
    lines = [f"The weights in this bundle are licensed under {spdx}.", f"Full text: {_full_text(spdx)}"]
    if "-NC" in spdx:
        lines.append("They may not be used for commercial purposes.")
    if "-SA" in spdx:
        lines.append("Weights made from them must be shared under the same licence.")
    if manifest.licence.data:
        lines += ["", "They were trained on:", *(f"* {source}" for source in manifest.licence.data)]
    return "\n".join(lines) + "\n"


def model_card(manifest: Manifest, metrics: Mapping[str, float]) -> str:
    """What the model is, how it was made and what its gates measured."""
    dimensions, features, quantization = manifest.dimensions, manifest.features, manifest.quantization
    facts = {
        "Task": manifest.task,
        "Languages": ", ".join(manifest.languages) or "not stated",
        "Prefix of every input": f"`{manifest.prefix}`" if manifest.prefix else "none",
        "Layers": f"{dimensions.n_encoder_layers} in the encoder, {dimensions.n_layers} in the decoder",
        "Sizes": f"d_model {dimensions.d_model}, {dimensions.n_heads} heads of {dimensions.d_head}, "
        f"d_ff {dimensions.d_ff} ({features.ffn}), {dimensions.vocab_size} tokens",
        "Numbers": f"decoder {quantization.weights}, encoder {quantization.encoder_weights}",
        "Longest input and output": f"{dimensions.max_source_len} and {dimensions.max_target_len} tokens",
        "Licence of the weights": manifest.licence.weights,
        "Made by": manifest.created_by,
    }
    rows = [f"| {name} | {value} |" for name, value in facts.items()]
    measured = [f"| {name} | {value:.4g} |" for name, value in metrics.items()]
    data = [f"* {source}" for source in manifest.licence.data] or ["* not stated"]
    return "\n".join(
        [
            f"# {manifest.name} {manifest.version}", "",
            "| | |", "|---|---|", *rows, "",
            "## Training data", "", *data, "",
            "## Conversion, measured against transformers in float32", "",
            "| gate | value |", "|---|---|", *measured, "",
            "Texts are generated: they can be wrong, also where they sound right.", "",
        ]
    )  # fmt: skip


def _full_text(spdx: str) -> str:
    if spdx.startswith("CC-BY") and len(parts := spdx.rsplit("-", 1)) == 2:
        kind, version = parts
        return f"https://creativecommons.org/licenses/{kind.removeprefix('CC-').lower()}/{version}/legalcode"
    return f"https://spdx.org/licenses/{spdx}.html"
