"""The energy model, by numbers computed by hand."""

from __future__ import annotations

import pytest

from emulator.energy import Energy, EnergyModel, spent


@pytest.mark.parametrize(
    ("model", "seconds", "cpu", "share", "moved", "expected"),
    [
        # 10 s idle: 27 J; half of a tenth of a core used: busy half of the time, 5 s x 3.7 W; 200 MB x 0.01 J.
        (EnergyModel(), 10.0, 0.5, 0.1, 200e6, Energy(27.0, 18.5, 2.0)),
        # A board that is busy all the time draws its busy watts: 4 x 6.4 = 25.6 J.
        (EnergyModel(), 4.0, 8.0, 2.0, 0.0, Energy(10.8, 14.8, 0.0)),
        (EnergyModel(0.0, 1.0, 1.0), 100.0, 3.0, 1.0, 5e6, Energy(0.0, 3.0, 5.0)),
        (EnergyModel(2.0, 2.0, 0.0), 3.0, 1.0, 0.5, 1e9, Energy(6.0, 0.0, 0.0)),
    ],
)
def test_joules_by_hand(
    model: EnergyModel, seconds: float, cpu: float, share: float, moved: float, expected: Energy
) -> None:
    found = spent(model, seconds=seconds, cpu_seconds=cpu, share=share, moved=moved)
    assert (found.idle, found.busy, found.moved) == pytest.approx((expected.idle, expected.busy, expected.moved))
    assert found.total == pytest.approx(expected.idle + expected.busy + expected.moved)
