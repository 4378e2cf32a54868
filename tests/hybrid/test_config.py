from pathlib import Path

import pytest

from edge_s2s.hybrid.config import CloudConfig, default_state_dir

GOOD = {"base_url": "https://host.example/v1", "model": "m"}


def test_a_file_is_read_into_a_configuration(tmp_path: Path):
    (tmp_path / "c.toml").write_text(
        '[cloud]\nbase_url = "http://127.0.0.1:9/v2"\nmodel = "m"\nprotocol = "open_inference"\n'
        'timeout_s = 5\nmodel_aliases = ["n"]\n'
    )
    config = CloudConfig.from_toml(tmp_path / "c.toml")
    assert (config.protocol, config.timeout_s, config.model_aliases) == ("open_inference", 5, ("n",))
    assert hash(config)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[cloud]\nbase_ur = 1\n", 'has no key "base_ur"; it has allow_plain_http, '),
        ("[cloud]\nbase_url = 'https://h'\n", 'lacks the key "model"'),
        ("[cloud\n", "c.toml: "),
        ("cloud = 3\n", r"expected a table \[cloud\]"),
    ],
)
def test_a_wrong_file_is_refused_with_what_is_wrong(text: str, sentence: str, tmp_path: Path):
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(ValueError, match=sentence):
        CloudConfig.from_toml(tmp_path / "c.toml")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"base_url": "http://host.example/v1"}, "not encrypted"),
        ({"base_url": "ftp://host.example"}, "expected https://host/path"),
        ({"base_url": "https://u:secret@host.example"}, "no credentials"),
        ({"base_url": "https://host.example?key=secret"}, "no credentials"),
        ({"base_url": "https://host.example:99999"}, "base_url: "),
        ({"protocol": "grpc"}, "protocol"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"timeout_s": "5"}, "timeout_s"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_attempts": True}, "max_attempts"),
        ({"max_tokens_per_day": -1}, "max_tokens_per_day"),
        ({"model": ""}, "model"),
        ({"model_aliases": "m"}, "model_aliases"),
        ({"api_key_env": "A", "api_key_file": "b"}, "give one of them"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name_and_without_secrets(change: dict[str, object], sentence: str):
    with pytest.raises(ValueError, match=sentence) as caught:
        CloudConfig(**{**GOOD, **change})  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_this_machine_may_be_asked_without_tls(host: str):
    CloudConfig(base_url=f"http://{host}:8000/v1", model="m")
    CloudConfig(base_url="http://192.168.1.5/v1", model="m", allow_plain_http=True)


def test_a_key_comes_from_the_environment_or_a_file_of_its_owner(tmp_path: Path):
    assert CloudConfig(**GOOD).read_api_key({}) is None
    assert CloudConfig(**GOOD, api_key_env="KEY").read_api_key({"KEY": "abc"}) == "abc"
    file = tmp_path / "key"
    file.write_text("abc\n")
    file.chmod(0o600)
    config = CloudConfig(**GOOD, api_key_file=str(file))
    assert config.read_api_key({}) == "abc"
    file.chmod(0o640)
    with pytest.raises(ValueError, match="chmod 600"):
        config.read_api_key({})


@pytest.mark.parametrize("key", ["", "ab\ncd", "ab cd", "schlüssel"])
def test_a_key_that_cannot_be_a_header_is_refused_without_showing_it(key: str):
    with pytest.raises(ValueError, match="KEY: expected a key") as caught:
        CloudConfig(**GOOD, api_key_env="KEY").read_api_key({"KEY": key})
    assert not key or key not in str(caught.value)


def test_counters_are_kept_where_the_system_keeps_state(tmp_path: Path):
    assert default_state_dir({"XDG_STATE_HOME": str(tmp_path)}) == tmp_path / "edge_s2s"
    assert default_state_dir({}) == Path.home() / ".local/state/edge_s2s"
