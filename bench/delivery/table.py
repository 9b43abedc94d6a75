"""The tables: medians of the rounds, and the aims with what was measured. Pure: no I/O."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

from bench.delivery.scenarios import AIMS, HEADINGS, SCENARIOS, Aim, Result, Scenario

NOT_ASKED = "not asked for"
Results = Mapping[tuple[str, str], Sequence[Result]]  # by scenario and peer, one for each valid round


def number(value: float) -> str:
    if abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def figures(results: Sequence[Result], key: str) -> list[float]:
    return [result[key] for result in results if key in result]


def measured(results: Sequence[Result], key: str) -> str:
    """The median, and the lowest and highest of several rounds."""
    values = figures(results, key)
    if not values:
        return "-"
    middle = number(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({number(min(values))}–{number(max(values))})"


def scenario_table(scenario: Scenario, results: Results) -> Iterator[str]:
    """All figures of one scenario as Markdown."""
    rows = [(peer, found) for peer in scenario.peers if (found := results.get((scenario.name, peer)))]
    if not rows:
        return
    yield ""
    yield f"**{scenario.name}**: {scenario.title}"
    yield ""
    yield f"| | {' | '.join(HEADINGS[key] for key in scenario.columns)} |"
    yield "| --- " * (len(scenario.columns) + 1) + "|"
    for peer, found in rows:
        yield f"| {peer} | {' | '.join(measured(found, key) for key in scenario.columns)} |"


def aims_table(results: Results, reasons: Mapping[tuple[str, str], str], chosen: Sequence[str]) -> Iterator[str]:
    """Each aim of the *chosen* scenarios with the measured value, its ratio, and whether it is met."""
    yield ""
    yield "| | measured | against | ratio | aim | |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for aim in AIMS:
        unwanted = any(reasons.get((aim.scenario, peer)) == NOT_ASKED for peer in (aim.peer, aim.against))
        if aim.scenario in chosen and not unwanted:
            yield f"| {aim.scenario}, {aim.peer}: {HEADINGS[aim.figure]} | {_judged(aim, results, reasons)} |"


def _judged(aim: Aim, results: Results, reasons: Mapping[tuple[str, str], str]) -> str:
    sign = {"<=": "≤", ">=": "≥"}[aim.sense]
    bound = "" if aim.limit is None else f"{sign} {aim.limit:g}{' x' if aim.against else ''}"
    cells = []
    values = []
    for peer in (aim.peer, aim.against) if aim.against else (aim.peer,):
        key = aim.scenario, peer
        found = figures(results.get(key, ()), aim.figure)
        if not found or key in reasons:
            cells.append(f"{peer}: {reasons.get(key, 'not measured')}")
        else:
            values.append(statistics.median(found))
            cells.append(measured(results[key], aim.figure) if peer == aim.peer else f"{peer} {number(values[-1])}")
    cells += [""] * (2 - len(cells))
    if len(values) < (2 if aim.against else 1):
        return f"{cells[0]} | {cells[1]} | | {bound} | -"
    value = values[0] / values[1] if aim.against else values[0]
    ratio = f"{value:.2f} x" if aim.against else ""
    return f"{cells[0]} | {cells[1]} | {ratio} | {bound} | {aim.verdict(value)}"


def report(results: Results, reasons: Mapping[tuple[str, str], str], chosen: Sequence[str]) -> str:
    """The whole text. *reasons*: why a peer has no valid result in a scenario."""
    lines: list[str] = []
    for scenario in SCENARIOS:
        if scenario.name in chosen:
            lines += scenario_table(scenario, results)
    if any(aim.scenario in chosen for aim in AIMS):
        lines += aims_table(results, reasons, chosen)
    return "\n".join(lines)
