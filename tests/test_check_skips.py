from check_skips import unexpected_skips

OUTPUT = """\
======== short test summary info ========
SKIPPED [1] tests/test_a.py:3: no qemu
SKIPPED [2] tests/test_b.py:9: needs macOS
1 passed, 3 skipped in 0.1s
"""


def test_a_skip_that_no_pattern_matches_is_reported():
    assert unexpected_skips(OUTPUT, "tests/test_b.py:\\d+: needs macOS  # runs in the macOS job\n") == [
        "tests/test_a.py:3: no qemu"
    ]


def test_comments_and_empty_lines_allow_nothing():
    assert len(unexpected_skips(OUTPUT, "# anything\n\n")) == 2
