"""Does every token belong to one window, with as much before it as the context allows?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xent.errors import OptionError
from xent.scoring._windows import Window, windows_of


@given(st.integers(2, 200), st.integers(1, 40), st.data())
def test_every_token_but_the_first_is_scored_once(num_tokens: int, context: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, context))
    windows = windows_of(num_tokens, context, stride)
    scored = [place for window in windows for place in range(window.first, window.end)]
    assert scored == list(range(1, num_tokens))
    for begin, first, end in windows:
        assert 0 <= begin < first < end
        assert end - 1 - begin == min(context, end - 1) or len(windows) == 1  # a full context, or all there is
    for _, first, end in windows[1:]:
        assert end - first <= stride


def _rolling(num_tokens: int, most: int) -> list[tuple[list[int], list[int]]]:
    """Contexts and continuations of lm-evaluation-harness's rolling log-likelihood with context_len=1.

    Written from its description: each token is predicted once; a request holds at most `most` tokens of input; the
    last window reaches back to be full. Token 0 is the prefix.
    """
    made, done = [], 0
    while done < num_tokens - 1:
        end = min(done + most, num_tokens - 1)
        begin = max(0, end - most) if made else 0
        made.append((list(range(begin, end)), list(range(done + 1, end + 1))))
        done = end
    return made


@pytest.mark.parametrize("num_tokens", [2, 5, 8, 9, 10, 17, 23])
def test_a_stride_of_the_context_gives_the_rolling_windows(num_tokens: int) -> None:
    windows = windows_of(num_tokens, 8, 8)
    made = [(list(range(begin, end - 1)), list(range(first, end))) for begin, first, end in windows]
    assert made == _rolling(num_tokens, 8)


def test_short_and_long_texts() -> None:
    assert windows_of(0, 8, None) == windows_of(1, 8, None) == []
    assert windows_of(9, 8, None) == [Window(0, 1, 9)]
    assert windows_of(900, None, None) == [Window(0, 1, 900)]
    with pytest.raises(
        OptionError, match=r"9 tokens to score and a context of 8; .*: pass --stride, such as --stride 4"
    ):
        windows_of(10, 8, None)
