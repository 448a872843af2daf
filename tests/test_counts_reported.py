"""What is reported of answers by who is no Envoy of ours."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError

from rejoinder.rules.counts import Series
from rejoinder.xds import counts
from rejoinder.xds.counts import REPORT, Counted, decode

MOST = 100


def _report(*points: dict[str, str], name: str = "rejoinder.answers") -> bytes:
    report = REPORT()
    metric = report.resource_metrics.add().scope_metrics.add().metrics.add(name=name.encode())
    for tags in points:
        point = metric.sum.data_points.add(as_int=1)
        for key, value in tags.items():
            point.attributes.add(key=key.encode()).value.string_value = value.encode()
    return bytes(report.SerializeToString())


def test_a_stranger_makes_no_series_of_its_own() -> None:
    ours = {"rule": "busy", "placement": "module", "original_status": "503", "status": "200"}
    values = ("2000", "\u0662\u0660\u0660", "x" * 100_000, "modul")
    strange = [ours | {key: value} for key in ours if key != "rule" for value in values]
    assert decode(_report(ours, *strange)) == Counted(((Series("busy", "module", "503", "200"), 1),), ())


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(_report({"rule": "," * MOST}, name="rejoinder.passed_responses"), id="names"),
        pytest.param(b"\x0a\x00" * (MOST + 1), id="resources"),
        pytest.param(_report(*[{}] * MOST), id="counters"),
    ],
)
def test_what_takes_long_to_read_is_refused(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    decode(data)
    monkeypatch.setattr(counts, "MOST", MOST)
    with pytest.raises(DecodeError):
        decode(data)
