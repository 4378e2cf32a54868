"""The test server is what it says: the official client of OpenAI and ours get the same from it."""

from pathlib import Path

import openai
import pytest

from edge_s2s.errors import CloudError
from edge_s2s.hybrid.client import CloudClient
from hybrid.chaos import status
from hybrid.peers import Peer

MESSAGES = [{"role": "user", "content": "A text."}]


def official(peer: Peer) -> openai.OpenAI:
    config = peer.config("openai_chat")
    return openai.OpenAI(base_url=config.base_url, api_key="none", max_retries=0)


def ours(peer: Peer, tmp_path: Path) -> CloudClient:
    return CloudClient(peer.config("openai_chat", state_dir=str(tmp_path)))


def test_both_clients_read_the_same_answer(tmp_path: Path):
    with Peer() as peer, official(peer) as client:
        theirs = client.chat.completions.create(model="teacher", messages=MESSAGES, max_tokens=40)  # type: ignore[arg-type]
        answer = ours(peer, tmp_path).complete("A text.", max_new_tokens=40)
    choice = theirs.choices[0]
    assert (choice.message.content, choice.finish_reason) == (answer.text, "stop")
    assert (theirs.model, theirs.usage and theirs.usage.total_tokens) == (answer.model, answer.n_tokens)
    assert answer.finish_reason == "eos"


def test_both_clients_read_the_same_pieces_of_a_stream(tmp_path: Path):
    with Peer() as peer, official(peer) as client:
        stream = client.chat.completions.create(model="teacher", messages=MESSAGES, stream=True)  # type: ignore[arg-type]
        theirs = [chunk.choices[0].delta.content for chunk in stream if chunk.choices]
        pieces = list(ours(peer, tmp_path).stream("A text.", max_new_tokens=40))
    assert [piece for piece in theirs if piece] == pieces


def test_both_clients_read_the_same_error(tmp_path: Path):
    with Peer(status("429 Too Many Requests")) as peer, official(peer) as client:
        with pytest.raises(openai.RateLimitError) as theirs:
            client.chat.completions.create(model="teacher", messages=MESSAGES)  # type: ignore[arg-type]
        with pytest.raises(CloudError) as caught:
            ours(peer, tmp_path).complete("A text.", max_new_tokens=40)
    assert theirs.value.status_code == caught.value.status == 429
