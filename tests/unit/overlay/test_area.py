"""What `make area` counts, and what it refuses."""

from __future__ import annotations

import json

import pytest

from bitstreams import FOLDER
from bitstreams.area import DEVICE, OVERLAYS, RELEASE, excesses, figures, page


def test_cells_count_as_the_sites_they_take() -> None:
    cells = {
        "LUT6": 10,
        "LUT2": 1,
        "RAM64M": 2,
        "FDRE": 7,
        "DSP48E1": 3,
        "RAMB18E1": 3,
        "RAMB36E1": 1,
        "CARRY4": 9,
    }
    assert figures(cells) == {"LUT": 19, "FF": 7, "DSP": 3, "BRAM36": 2.5}


def test_an_unknown_cell_is_not_left_out_of_the_sum() -> None:
    with pytest.raises(ValueError, match="RAMB99"):
        figures({"RAMB99": 1})


def test_only_what_is_above_its_share_is_an_excess() -> None:
    fits = {"LUT": 26_600.0, "FF": 106_400.0, "DSP": 176.0, "BRAM36": 105.0}
    assert excesses(fits) == []
    for kind in ("LUT", "DSP", "BRAM36"):
        (problem,) = excesses(fits | {kind: fits[kind] + 1})
        assert f" {kind} " in problem


def test_the_page_shows_counts_and_shares() -> None:
    text = page({"npu": {"LUT": 5320.0, "FF": 1064.0, "DSP": 22.0, "BRAM36": 3.5}}, "Yosys 0")
    assert "| npu | 5,320 (10.0%) | 1,064 (1.0%) | 22 (10.0%) | 3.5 (2.5%) |" in text


def test_the_committed_report_is_within_the_limits() -> None:
    report = json.loads((RELEASE / "area.json").read_text())
    assert report["device"] == DEVICE
    assert set(report["overlays"]) == set(OVERLAYS)
    for kinds in report["overlays"].values():
        assert excesses({kind: each["count"] for kind, each in kinds.items()}) == []


def test_the_readme_quotes_the_committed_report() -> None:
    readme = (FOLDER / "npu" / "README.md").read_text().splitlines()
    rows = [line for line in (RELEASE / "area.md").read_text().splitlines() if line.startswith("|")]
    assert [row for row in rows if row not in readme] == []
