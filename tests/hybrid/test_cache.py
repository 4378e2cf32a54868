from edge_s2s.hybrid.cache import AnswerCache
from edge_s2s.hybrid.config import CloudConfig
from edge_s2s.hybrid.wire import CloudAnswer

CONFIG = CloudConfig(base_url="https://host.example/v1", model="m")


def answer(text: str) -> CloudAnswer:
    return CloudAnswer(text, "eos")


def test_the_same_question_finds_its_answer_and_no_other_does():
    cache = AnswerCache()
    cache.put(CONFIG, "a", 40, answer("A"))
    assert cache.get(CONFIG, "a", 40) == answer("A")
    other = CloudConfig(base_url="https://host.example/v1", model="n")
    told = CloudConfig(base_url="https://host.example/v1", model="m", instruction="Translate.")
    for config, text, n in ((CONFIG, "b", 40), (CONFIG, "a", 41), (other, "a", 40), (told, "a", 40)):
        assert cache.get(config, text, n) is None


def test_the_least_used_answers_go_first_when_there_is_no_room():
    cache = AnswerCache(max_bytes=3 * 1000)
    for name in "abc":
        cache.put(CONFIG, name, 40, answer(name * 100))
    assert cache.get(CONFIG, "a", 40)
    cache.put(CONFIG, "d", 40, answer("d" * 100))
    assert [cache.get(CONFIG, name, 40) is not None for name in "abcd"] == [True, False, True, True]
    cache.put(CONFIG, "e", 40, answer("e" * 10_000))
    assert cache.get(CONFIG, "e", 40) is None
    assert len(cache) == 3


def test_an_old_answer_is_forgotten():
    now = [0.0]
    cache = AnswerCache(max_age_s=60, clock=lambda: now[0])
    cache.put(CONFIG, "a", 40, answer("A"))
    now[0] = 60
    assert cache.get(CONFIG, "a", 40)
    now[0] = 61
    assert cache.get(CONFIG, "a", 40) is None
    assert len(cache) == 0


def test_keys_of_two_tenants_have_nothing_in_common_and_no_text():
    caches = [AnswerCache(tenant_key=key) for key in (b"one", b"two")]
    for cache in caches:
        cache.put(CONFIG, "secret text", 40, answer("A"))
    one, two = ({*cache._entries} for cache in caches)
    assert not one & two
    assert all(b"secret" not in key and len(key) == 32 for key in one | two)
    caches[0].clear()
    assert caches[0].get(CONFIG, "secret text", 40) is None
