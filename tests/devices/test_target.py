"""Names of targets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milliseek.devices.target import GRAMMAR, PRECISIONS, Target, parse
from milliseek.errors import InvalidInput

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,12}", fullmatch=True).filter(str.isascii)
targets = st.builds(
    Target,
    device=names,
    runtime=names,
    precision=st.sampled_from(PRECISIONS),
    threads=st.integers(1, 1024),
    delegate=st.none() | names,
    cores=st.none() | st.sets(st.integers(0, 64), min_size=1).map(lambda cores: tuple(sorted(cores))),
)


@given(targets)
def test_name_and_target_are_two_forms_of_one_thing(target: Target) -> None:
    assert parse(str(target)) == target


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("pixel6/litert/int8/4t", "pixel6/litert/int8/4t"),
        ("pixel6/litert+gpu/fp32", "pixel6/litert+gpu/fp32"),
        ("local/onnxruntime/int8/1t", "xeon-1234/onnxruntime/int8"),
        ("local/onnxruntime/fp32/2t@3,2,5", "xeon-1234/onnxruntime/fp32/2t@2-3,5"),
        ("a/b/fp32@4-6,5", "a/b/fp32@4-6"),
    ],
)
def test_canonical_names(text: str, canonical: str) -> None:
    assert str(parse(text, local_id="xeon-1234")) == canonical


def test_local_stays_when_no_id_is_given() -> None:
    assert parse("local/onnxruntime/int8").device == "local"


@pytest.mark.parametrize(
    "text",
    ["", "local", "a/b", "a/b/int9", "a/b/int8/0t", "a/b/int8/4", "a/b/int8@", "a/b/int8@3-1", "a/b/int8@x",
     "a/b/int8@1,", "a b/c/int8", "a/b/int8/4t/5t", "a/b/int8\n", "a/b/int8@9999", "/b/int8", "a/b+/int8"],
)  # fmt: skip
def test_errors_name_the_grammar(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse(text)
    assert GRAMMAR in str(caught.value)


@given(st.text(max_size=40))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        target = parse(text)
    except InvalidInput:
        return
    assert parse(str(target)) == target
