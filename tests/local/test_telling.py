"""What the trials rely on: no fact is lost to a writer's neighbour who was killed, and half a one is none."""

from __future__ import annotations

from pathlib import Path

from tests.telling import facts_of, write_down


def test_half_a_line_is_passed_over_and_takes_no_neighbour_along(tmp_path: Path) -> None:
    file = tmp_path / "facts"
    assert facts_of(file) == []
    write_down(file, number=1)
    with file.open("ab") as torn:
        torn.write(b'\n{"number": 2, "na')
    assert facts_of(file) == [{"number": 1}]
    begins = file.stat().st_size
    write_down(file, number=3)
    assert facts_of(file) == [{"number": 1}, {"number": 3}]
    assert facts_of(file, begins) == [{"number": 3}]
