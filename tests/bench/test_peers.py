"""What the comparison with other systems rests on: pinned lists, honest series, pictures that anything can show."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from bench.peers import compare
from bench.peers.catalogue import DRAMATIQ, OURS, SYSTEMS, System
from bench.peers.compare import Measured
from bench.peers.environment import LISTS, version
from bench.pictures import Axis, chart, decades, linear

PEERS = [system for system in SYSTEMS if system.package is not None]


@pytest.mark.parametrize("name", [*(peer.package for peer in PEERS), "valkey"])
def test_every_requirement_of_a_peer_is_pinned_with_hashes_and_names_no_address(name: str) -> None:
    text = (LISTS / f"{name}.txt").read_text()
    requirements = re.split(r"\n(?=\S)", re.sub(r"^ +# .*\n?", "", text, flags=re.MULTILINE).strip())
    assert requirements
    assert all(re.match(r"[\w.-]+(\[[\w,]+\])?==\S+ ", each) and "--hash=sha256:" in each for each in requirements)
    assert "://" not in text
    assert "--index-url" not in text


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_the_version_that_is_told_is_the_one_that_is_installed(peer: System) -> None:
    assert peer.package is not None
    assert f"{peer.package}=={version(peer.package)}" in (LISTS / f"{peer.package}.txt").read_text()


def test_a_peer_that_could_not_be_measured_is_not_measured_and_ends_nothing() -> None:
    done = {system.name: [] for system in SYSTEMS} | {OURS.name: [a_round(6000.0, 4.0), a_round(6600.0, 4.0)]}
    done[DRAMATIQ.name] = [a_round(3000.0, 2.0)]
    series = {each.name: each for each in compare.series(done)}
    assert series["drain outbox / Celery"].values == []
    assert series["drain outbox / Celery"].met is None
    assert series["drain outbox / Dramatiq"].values == [2.0]
    assert series["drain outbox / Dramatiq"].met


def test_a_latency_beyond_plain_dramatiqs_by_more_than_four_milliseconds_misses_its_target() -> None:
    done = {system.name: [] for system in SYSTEMS}
    done |= {OURS.name: [a_round(6000.0, 7.0)], DRAMATIQ.name: [a_round(3000.0, 2.0)]}
    series = {each.name: each for each in compare.series(done)}
    assert series["latency p50 outbox - Dramatiq"].met is False
    assert series["latency p99 outbox / Dramatiq"].met is False


def test_a_picture_is_readable_in_light_and_dark_has_its_names_as_text_and_runs_nothing() -> None:
    svg = chart(
        "Ours & theirs", {"a<b": [(1, 1), (10, 5)], "other": [(100, 10)]}, decades("ms", 1, 100), linear("tasks", 10)
    )
    root = ElementTree.fromstring(svg)
    texts = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"Ours & theirs", "a<b", "other", "ms", "tasks"} <= set(texts)
    assert "prefers-color-scheme:dark" in svg
    assert "<script" not in svg


def test_a_line_stays_within_its_frame_whatever_its_values() -> None:
    svg = chart("t", {"a": [(0.0, -5), (1e9, 1e9)]}, decades("x", 1, 100), linear("y", 10))
    points = re.search(r'<polyline[^>]* points="([^"]+)"', svg)
    assert points is not None
    assert points[1] == "78.0,402.0 670.0,56.0"


@pytest.mark.parametrize(("value", "share"), [(1, 0.0), (10, 0.5), (100, 1.0), (0, 0.0), (1000, 1.0)])
def test_a_logarithmic_axis_gives_each_decade_the_same_room(value: float, share: float) -> None:
    assert decades("ms", 1, 100).share(value) == pytest.approx(share)


@pytest.mark.parametrize("most", [0.3, 1, 7, 19.5, 20000])
def test_a_linear_axis_has_few_round_ticks_none_beyond_its_end(most: float) -> None:
    axis: Axis = linear("s", most)
    assert 4 <= len(axis.ticks) <= 10
    assert axis.ticks[-1] <= most


def a_round(rate: float, milliseconds: float) -> Measured:
    return Measured([milliseconds / 1000] * 100, rate, [(0.0, 0), (1.0, 10)], alone=100.0, with_task=95.0, memory=50.0)
