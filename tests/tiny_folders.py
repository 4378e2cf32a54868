"""Makes a Hugging Face folder with a tiny random T5 and a tokenizer trained on the spot, for tests that convert."""

import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

WORDS = (
    "the a one we they Anna Tom river house train ticket morning coffee letter garden doctor asks tells wants buys "
    "opens finds forgets early late green small quiet new old again with about before after and but because"
).split()


def make_tiny_folder(path: Path, seed: int = 0, **config: Any) -> Path:
    """Writes config, weights, generation settings and tokenizer.json to `path` and returns it.

    `config` overrides the T5 configuration, for example `feed_forward_proj="gated-gelu"`, `tie_word_embeddings=False`.
    The weights are random, but drawn so that the answers depend on the source, do not loop at once and have clear winners.
    """
    path.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(path)
    tiny_model(seed, vocab_size=len(tokenizer), **config).save_pretrained(path)
    return path


def tiny_model(seed: int = 0, **config: Any) -> T5ForConditionalGeneration:
    """A random `T5ForConditionalGeneration` with 2 + 2 layers, 2 heads of 16, d_model 32, and 300 tokens."""
    settings = {
        "vocab_size": 300,
        "d_model": 32,
        "d_kv": 16,
        "d_ff": 64,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "num_heads": 2,
        "decoder_start_token_id": 0,
        "feed_forward_proj": "relu",
        "dropout_rate": 0.0,
    }
    torch.manual_seed(seed)
    model = T5ForConditionalGeneration(T5Config(**(settings | config))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layer_norm" in name:
                parameter.uniform_(0.5, 1.5)
            elif "relative_attention_bias" in name:
                parameter.normal_(0, 1)
    model.generation_config.max_new_tokens = 24
    return model


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """BPE with byte fallback as the shipped tokenizer has it, trained on sentences of `WORDS`; fewer than 400 tokens."""
    specials = ["<pad>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    shuffle = random.Random(0)
    sentences = [" ".join(shuffle.choices(WORDS, k=12)) + "." for _ in range(200)]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=[*specials, *(f"<0x{byte:02X}>" for byte in range(256))], show_progress=False
    )
    tokenizer.train_from_iterator(sentences, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )
