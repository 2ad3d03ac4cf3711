#!/usr/bin/env python3
"""Draws deliveries a second over the number of subscribers as an SVG.

    throughput.py throughput.csv --out throughput.svg
    throughput.py result.json --out throughput.svg        # of `compare.py throughput --out result.json`

A row of the CSV is one measurement: server, subscribers, deliveries a second. A point of a curve is the median of the
measurements of one server with one number of subscribers; the bar through the point reaches from the lowest to the
highest. The curves have the order of their first rows. The output depends on nothing but the input.
"""

import argparse
import csv
import json
import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import escape

from latency import AREA_HEIGHT, LEFT, LEGEND_ROW, LEGEND_TOP, RIGHT, STYLES, InputError, opening, scale

# Server, then subscribers: the rates measured.
Table = dict[str, dict[int, list[float]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, metavar="FILE", help="a CSV, or what compare.py --out has written")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the SVG goes; standard output without it")
    parser.add_argument("--title", default="Deliveries a second, as fast as possible", help="above the picture")
    parser.add_argument("--about", default="one publisher, one topic", help="the line below the title")
    arguments = parser.parse_args()
    try:
        image = draw(read(arguments.input), arguments.title, arguments.about)
        if arguments.out:
            arguments.out.write_text(image, encoding="utf-8")
        else:
            sys.stdout.write(image)
    except (InputError, OSError) as error:
        print(f"throughput.py: {error}", file=sys.stderr)
        sys.exit(2)


def read(path: Path) -> Table:
    text = path.read_text(encoding="utf-8")
    try:
        rows = of_comparison(json.loads(text)) if text.lstrip().startswith("{") else of_lines(text)
        table: Table = {}
        for server, subscribers, rate in rows:
            if subscribers < 1 or not 0 < rate < math.inf:
                raise ValueError(f"{server}, {subscribers}, {rate}: expected positive numbers")
            table.setdefault(server, {}).setdefault(subscribers, []).append(rate)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: {error}") from error
    if not table:
        raise InputError(f"{path}: no measurement of throughput")
    if len(table) > len(STYLES):
        raise InputError(f"{path}: {len(table)} servers: at most {len(STYLES)} curves can be told apart")
    return table


def of_lines(text: str) -> list[tuple[str, int, float]]:
    rows = list(csv.reader(line for line in text.splitlines() if line and not line.startswith("#")))
    if rows[:1] != [["server", "subscribers", "deliveries_per_second"]]:
        raise ValueError("expected the columns server,subscribers,deliveries_per_second")
    return [(server, int(subscribers), float(rate)) for server, subscribers, rate in rows[1:]]


def of_comparison(result: dict) -> list[tuple[str, int, float]]:
    return [
        (server, int(name.rpartition("-")[2]), float(run["deliveries_per_second"]))
        for name, scenario in result["scenarios"].items()
        if name.startswith("throughput-")
        for measured in scenario["rounds"]
        for server, run in measured.items()
        if "error" not in run
    ]


def draw(table: Table, title: str, about: str) -> str:
    counts = sorted({count for points in table.values() for count in points})
    low, high = math.log(counts[0]), math.log(max(counts[-1], counts[0] + 1))
    step, top = scale(max(max(rates) for points in table.values() for rates in points.values()) / 1e6)
    area_top = LEGEND_TOP + LEGEND_ROW * len(table) + 16
    area_bottom = area_top + AREA_HEIGHT
    height = area_bottom + 64

    def x(count: int) -> float:
        return LEFT + 20 + (RIGHT - LEFT - 40) * (math.log(count) - low) / (high - low)

    def y(rate: float) -> float:
        return area_bottom - AREA_HEIGHT * rate / 1e6 / top

    medians = {name: {n: statistics.median(rates) for n, rates in sorted(points.items())} for name, points in table.items()}
    summaries = [
        f"{name}: " + ", ".join(f"{rate / 1e6:.2f} with {count:,}" for count, rate in points.items())
        for name, points in medians.items()
    ]
    description = f"Million deliveries a second by subscribers. {'; '.join(summaries)}."
    parts = opening(height, title, description, about)
    for index, (name, (colour, dashes)) in enumerate(zip(table, STYLES)):
        base = LEGEND_TOP + 14 + LEGEND_ROW * index
        parts += [
            f'<path d="M{LEFT} {base - 4.5}h36" stroke="{colour}" stroke-width="2.6" stroke-dasharray="{dashes}"/>',
            f'<text x="{LEFT + 46}" y="{base}" font-weight="600">{escape(name)}</text>',
        ]
    rows = [step * index for index in range(round(top / step) + 1)]
    middle = (area_top + area_bottom) / 2
    parts += ['<g stroke="#e4e8ec">']
    parts += [f'<path d="M{LEFT} {y(row * 1e6):.1f}H{RIGHT}"/>' for row in rows]
    parts += [f'<path d="M{x(count):.1f} {area_top}V{area_bottom}"/>' for count in counts]
    parts += ["</g>", f'<path d="M{LEFT} {area_top}V{area_bottom}H{RIGHT}" fill="none" stroke="#57606a"/>']
    parts += ['<g text-anchor="end" fill="#57606a">']
    parts += [f'<text x="{LEFT - 8}" y="{y(row * 1e6) + 4.5:.1f}">{row:g}</text>' for row in rows]
    parts += ["</g>", '<g text-anchor="middle">', '<g fill="#57606a">']
    parts += [f'<text x="{x(count):.1f}" y="{area_bottom + 19}">{count:,}</text>' for count in counts]
    parts += [
        "</g>",
        f'<text x="{(LEFT + RIGHT) / 2}" y="{area_bottom + 46}">subscribers of the topic</text>',
        f'<text transform="translate(22 {middle}) rotate(-90)">million deliveries a second</text>',
        "</g>",
    ]
    # The first curve last, so that no other covers it.
    for (name, points), (colour, dashes) in reversed(list(zip(medians.items(), STYLES))):
        parts += curve(table[name], points, colour, dashes, x, y)
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def curve(
    measured: dict[int, list[float]],
    points: dict[int, float],
    colour: str,
    dashes: str,
    x: Callable[[int], float],
    y: Callable[[float], float],
) -> list[str]:
    """A line through the medians, and the range of the measurements at each of them."""
    line = " ".join(f"{x(count):.1f},{y(rate):.1f}" for count, rate in points.items())
    parts = [
        f'<polyline class="curve" points="{line}" fill="none" stroke="{colour}" stroke-width="2.2" '
        f'stroke-dasharray="{dashes}" stroke-linejoin="round"/>'
    ]
    for count, rate in points.items():
        lowest, highest = y(min(measured[count])), y(max(measured[count]))
        parts.append(f'<path d="M{x(count):.1f} {lowest:.1f}V{highest:.1f}" stroke="{colour}" stroke-width="1.2" opacity="0.6"/>')
        parts.append(f'<circle cx="{x(count):.1f}" cy="{y(rate):.1f}" r="3.2" fill="{colour}"/>')
    return parts


if __name__ == "__main__":
    main()
