"""Frames survive being cut anywhere."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from milliseek.devices.processes.wire import FrameReader, encode

headers = st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=8) | st.none(), max_size=4)


@given(st.lists(st.tuples(headers, st.binary(max_size=64)), max_size=5), st.integers(1, 50))
def test_frames_arrive_whole_however_the_stream_is_cut(
    frames: list[tuple[dict[str, object], bytes]], step: int
) -> None:
    stream = b"".join(encode(*frame) for frame in frames)
    reader, found = FrameReader(), []
    for start in range(0, len(stream), step):
        reader.feed(stream[start : start + step])
        while (frame := reader.take()) is not None:
            found.append(frame)
    assert found == frames
