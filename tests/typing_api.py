"""Ordinary use of the package. Nobody runs it: the type checker reads it."""

from collections.abc import Iterator

import edge_s2s
from edge_s2s import hybrid


def use(path: str, texts: list[str]) -> None:
    """Each public name once, the way users write it."""
    options = edge_s2s.GenerationOptions(num_beams=4, early_stopping="never", bad_words_ids=[[3, 4]])
    with edge_s2s.load(path, num_threads=2, providers=[("qnn", {"device": "NPU"})], isa="scalar") as model:
        results: list[list[edge_s2s.Generation]] = model.generate(texts, options, truncation=True)
        best: edge_s2s.Generation = results[0][0]
        text: str = best.text
        token_ids: tuple[int, ...] = best.token_ids
        score: float = best.score
        stats: edge_s2s.GenerationStats = best.stats
        pieces: Iterator[str] = model.stream(text, options)
        model.generate([token_ids], batch_size=4)
        model.generate([[3, 4], [5]])
        summary: edge_s2s.Generation = model.summarize("".join(pieces))
        print(score, stats.encoder_ms, summary.finish_reason == "eos", model.encode(text), model.decode([3]))
    try:
        edge_s2s.load()
    except (edge_s2s.BundleError, edge_s2s.InputTooLongError, edge_s2s.ProviderError) as error:
        base: edge_s2s.EdgeS2SError = error
        print(base, edge_s2s.__version__, edge_s2s.default_bundle_path().name)


def use_cloud(model: edge_s2s.Seq2SeqModel, texts: list[str]) -> None:
    """A model with the cloud behind it."""
    client = hybrid.CloudClient(hybrid.CloudConfig(base_url="https://host/v1", model="m", api_key_env="KEY"))
    policy = hybrid.Policy(mode=hybrid.PREFER_IN_CLOUD, privacy="redacted", deny_list=["Heron"])
    governor = hybrid.Governor(hybrid.LinuxDevice())
    models = {hybrid.Step.SMALLER_BUNDLE: model}
    better = hybrid.HybridModel(
        model, client, policy, governor=governor, models=models, cache=hybrid.AnswerCache(max_age_s=60)
    )
    results: list[list[edge_s2s.Generation]] = better.generate(texts)
    try:
        summary: edge_s2s.Generation = better.summarize(texts[0])
        pieces: Iterator[str] = better.stream(texts[0])
        print(results[0][0].origin == "cloud", summary.reasons, *pieces)
    except edge_s2s.CloudError as error:
        print(error.reason, error.status, error.retry_after_s)
