"""The peaks of this host, measured briefly: what they are made of, not how high they are."""

from whet.engine import load_runtime
from whet.engine.peaks import compute_peaks


def test_every_precision_that_runs_here_has_a_peak_with_its_interval():
    peaks = compute_peaks(1, seconds=0.01)
    assert set(peaks) == {*load_runtime("openvino").capabilities().precisions, "int8"}
    for name, peak in peaks.items():
        assert 0 < peak.low <= peak.value <= peak.high <= peak.best
        assert peak.unit == "GFLOP/s"
        assert f"in {name}, 1 stream of one thread" in peak.how
