"""From rounds of measurements to what is saved and printed; every ratio lies within one round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from benchmarks.measure import Usage

Round = Mapping[str, Usage]  # by contender

_MEASURES = ("wall", "cpu", "rss")


def summarise(rounds: Sequence[Round], base: str) -> dict[str, Any]:
    """By contender: medians, the spread of wall, the first run, and the median ratio to `base`."""
    names = list(dict.fromkeys(name for one in rounds for name in one))
    return {name: _contender(name, rounds, base) for name in names}


def _contender(name: str, rounds: Sequence[Round], base: str) -> dict[str, Any]:
    mine = [asdict(one[name]) for one in rounds if name in one]
    floors = [asdict(one[base]) for one in rounds if name in one]
    return {
        "runs": len(mine),
        "median": {what: round(median(run[what] for run in mine), 3) for what in _MEASURES},
        "wall_spread": [round(edge(run["wall"] for run in mine), 3) for edge in (min, max)],
        "first": {what: round(mine[0][what], 3) for what in _MEASURES},
        "ratio": {
            what: round(median(run[what] / floor[what] for run, floor in zip(mine, floors, strict=True)), 2)
            for what in _MEASURES
        },
    }


def bar(saved: Mapping[str, Any], contender: str, measure: str, limit: float, base: str) -> dict[str, Any]:
    """A limit for one ratio to `base`; missing it is printed, it fails nothing."""
    return _bar(contender, measure, limit, f"x {base}", saved[contender]["ratio"][measure])


def bar_in_seconds(saved: Mapping[str, Any], contender: str, limit: float) -> dict[str, Any]:
    return _bar(contender, "wall", limit, "s", saved[contender]["median"]["wall"])


def _bar(contender: str, measure: str, limit: float, unit: str, found: float) -> dict[str, Any]:
    return {
        "contender": contender, "measure": measure, "limit": limit, "unit": unit, "found": found,
        "met": found <= limit,
    }  # fmt: skip


def lines(result: Mapping[str, Any]) -> list[str]:
    """One result file, as text."""
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    load = f"load {machine['load'][0]:.1f} before, {machine['load'][1]:.1f} after"
    text = [
        f"{result['title']} ({result['at']}; {machine['cores']} cores, {load}; {versions})",
        *(f"  {note}" for note in result["notes"]),
        "",
        f"  {'':<20} {'runs':>4} {'wall s (min-max)':>22} {'first':>7} {'CPU s':>8} {'RSS MB':>7}"
        f" {'x wall':>7} {'x CPU':>7} {'x RSS':>7}",
    ]
    for name, found in result["contenders"].items():
        middle, ratio, (low, high) = found["median"], found["ratio"], found["wall_spread"]
        wall = f"{middle['wall']:.2f} ({low:.2f}-{high:.2f})"
        text.append(
            f"  {name:<20} {found['runs']:>4} {wall:>22} {found['first']['wall']:>7.2f}"
            f" {middle['cpu']:>8.2f} {middle['rss']:>7.0f}"
            f" {ratio['wall']:>7.2f} {ratio['cpu']:>7.2f} {ratio['rss']:>7.2f}"
        )
    text.append("")
    for limit in result["bars"]:
        verdict = "met" if limit["met"] else "MISSED"
        text.append(
            f"  bar: {limit['contender']} <= {limit['limit']} {limit['unit']} {limit['measure']}: "
            f"{limit['found']:.2f}, {verdict}"
        )
    return text
