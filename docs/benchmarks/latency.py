#!/usr/bin/env python3
"""Draws the latency distributions of bench results as an SVG.

    latency.py janus=janus.json redis=redis.json --out latency.svg

Each file is what `janus-server bench --json FILE` has written, and becomes one curve: within which time since the
publication (upwards) which share of the subscribers had the message (to the right), over all messages of the run. The
lower and the flatter a curve, the sooner and the fairer its server serves; its right end is the last subscriber of the
slowest message. A curve is called LABEL, or as its file without one. The output depends on nothing but the input.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH = 800
# The area of the curves; what is around it is for the titles, the legend and the numbers of the axes.
LEFT, RIGHT, AREA_HEIGHT = 72, 764, 300
LEGEND_TOP, LEGEND_ROW = 60, 20
# Told apart by people who do not see all colours, on white, and by the dashes also without any.
STYLES = [
    ("#0b5cad", "none"),
    ("#c8460a", "9 4"),
    ("#0a7d5a", "2 3"),
    ("#a03c8c", "12 3 3 3"),
    ("#6b5b00", "5 2"),
    ("#3d3d3d", "1 5"),
]


class InputError(Exception):
    """What is wrong with the input, with the file and the key."""


@dataclass
class Curve:
    label: str
    # (percent of the deliveries, milliseconds), rising.
    points: list[tuple[float, float]]
    # What was run, as far as it must be the same for a comparison to mean anything.
    run: dict[str, object]

    def at(self, percent: float) -> float:
        """The time within which this share of the deliveries was made."""
        return next(time for share, time in self.points if share >= percent)

    @property
    def last(self) -> float:
        return self.points[-1][1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", metavar="[LABEL=]FILE", help=f"bench results, at most {len(STYLES)}")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the SVG goes; standard output without it")
    parser.add_argument("--title", default="How long until a subscriber has the message", help="above the picture")
    arguments = parser.parse_args()
    try:
        curves = read_all(arguments.inputs)
        image = draw(curves, arguments.title)
        if arguments.out:
            arguments.out.write_text(image, encoding="utf-8")
        else:
            sys.stdout.write(image)
    except (InputError, OSError) as error:
        print(f"latency.py: {error}", file=sys.stderr)
        sys.exit(2)


def read_all(inputs: list[str]) -> list[Curve]:
    if len(inputs) > len(STYLES):
        raise InputError(f"{len(inputs)} files: at most {len(STYLES)} curves can be told apart")
    curves = [read(text) for text in inputs]
    labels = [curve.label for curve in curves]
    for label in labels:
        if labels.count(label) > 1:
            raise InputError(f"two curves are called {label!r}: write LABEL=FILE")
    return curves


def read(text: str) -> Curve:
    label, separator, name = text.partition("=")
    path = Path(name if separator else text)
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    table = result.get("latency_percentiles_us") if isinstance(result, dict) else None
    if table is None:
        raise InputError(f"{path}: no key latency_percentiles_us: expected what `janus-server bench --json` writes")
    try:
        points = [(float(percent), float(microseconds) / 1000) for percent, microseconds in table]
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: latency_percentiles_us: expected pairs of a percentile and microseconds") from error
    if not points:
        raise InputError(f"{path}: latency_percentiles_us is empty: nothing was delivered")
    shares, times = zip(*points)
    rising = list(shares) == sorted(shares) and list(times) == sorted(times)
    if not rising or (shares[0], shares[-1]) != (0, 100) or times[0] <= 0:
        raise InputError(f"{path}: latency_percentiles_us: expected rising pairs from 0 to 100 percent")
    run = {key: result.get(key) for key in ("clients", "topics", "messages", "size", "rate", "window")}
    return Curve(label if separator else path.stem, points, run)


def draw(curves: list[Curve], title: str) -> str:
    step, top = scale(max(curve.last for curve in curves))
    area_top = LEGEND_TOP + LEGEND_ROW * (len(curves) + 1) + 16
    area_bottom = area_top + AREA_HEIGHT
    height = area_bottom + 64

    def x(percent: float) -> float:
        return LEFT + (RIGHT - LEFT) * percent / 100

    def y(milliseconds: float) -> float:
        return area_bottom - AREA_HEIGHT * milliseconds / top

    summaries = [f"{curve.label}: half within {time(curve.at(50))}, all within {time(curve.last)}" for curve in curves]
    description = f"Time since the publication by share of the subscribers served. {'; '.join(summaries)}."
    parts = [
        *opening(height, title, description, describe(curves)),
        *legend(curves),
        '<g stroke="#e4e8ec">',
    ]
    rows = [step * index for index in range(round(top / step) + 1)]
    parts += [f'<path d="M{LEFT} {y(row):.1f}H{RIGHT}"/>' for row in rows]
    parts += [f'<path d="M{x(share):.1f} {area_top}V{area_bottom}"/>' for share in range(0, 101, 10)]
    parts += ["</g>", f'<path d="M{LEFT} {area_top}V{area_bottom}H{RIGHT}" fill="none" stroke="#57606a"/>']
    parts += ['<g text-anchor="end" fill="#57606a">']
    parts += [f'<text x="{LEFT - 8}" y="{y(row) + 4.5:.1f}">{row:g}</text>' for row in rows]
    parts += ["</g>", '<g text-anchor="middle">', '<g fill="#57606a">']
    parts += [f'<text x="{x(share):.1f}" y="{area_bottom + 19}">{share} %</text>' for share in range(0, 101, 10)]
    middle = (area_top + area_bottom) / 2
    parts += [
        "</g>",
        f'<text x="{(LEFT + RIGHT) / 2}" y="{area_bottom + 46}">share of the subscribers that have the message</text>',
        f'<text transform="translate(22 {middle}) rotate(-90)">time since it was published, ms</text>',
        "</g>",
    ]
    # The first curve last, so that no other covers it.
    for curve, (colour, dashes) in reversed(list(zip(curves, STYLES))):
        points = " ".join(f"{x(share):.1f},{y(milliseconds):.1f}" for share, milliseconds in curve.points)
        parts.append(
            f'<polyline class="curve" points="{points}" fill="none" stroke="{colour}" stroke-width="2.2" '
            f'stroke-dasharray="{dashes}" stroke-linejoin="round"/>'
        )
        # The last subscriber of the slowest message, which a dash may not reach.
        parts.append(f'<circle cx="{RIGHT}" cy="{y(curve.last):.1f}" r="3" fill="{colour}"/>')
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def legend(curves: list[Curve]) -> list[str]:
    """A table above the curves, where it covers none of them."""
    # There is no measuring of text here: this is what the longest label may take.
    numbers = LEFT + 48 + max(9 * max(len(curve.label) for curve in curves), 60)
    parts = [
        '<g text-anchor="end" font-size="12" fill="#57606a">',
        f'<text x="{numbers + 70}" y="{LEGEND_TOP + 14}">half within</text>',
        f'<text x="{numbers + 158}" y="{LEGEND_TOP + 14}">99 % within</text>',
        f'<text x="{numbers + 246}" y="{LEGEND_TOP + 14}">all within</text>',
        "</g>",
    ]
    for index, (curve, (colour, dashes)) in enumerate(zip(curves, STYLES)):
        base = LEGEND_TOP + 14 + LEGEND_ROW * (index + 1)
        parts += [
            f'<path d="M{LEFT} {base - 4.5}h36" stroke="{colour}" stroke-width="2.6" stroke-dasharray="{dashes}"/>',
            f'<text x="{LEFT + 46}" y="{base}" font-weight="600">{escape(curve.label)}</text>',
            f'<g text-anchor="end"><text x="{numbers + 70}" y="{base}">{time(curve.at(50))}</text>',
            f'<text x="{numbers + 158}" y="{base}">{time(curve.at(99))}</text>',
            f'<text x="{numbers + 246}" y="{base}">{time(curve.last)}</text></g>',
        ]
    return parts


def describe(curves: list[Curve]) -> str:
    """What was run, as far as all of the files agree on it."""
    first = curves[0].run
    for curve in curves[1:]:
        differs = [key for key in first if curve.run[key] != first[key]]
        if differs:
            keys = ", ".join(differs)
            print(f"latency.py: warning: {curve.label} and {curves[0].label} differ in {keys}", file=sys.stderr)
    same = {key: value for key, value in first.items() if all(curve.run[key] == value for curve in curves)}
    parts = []
    texts = {"clients": "subscribers", "topics": "topics", "messages": "messages", "size": "bytes each"}
    for key, text in texts.items():
        value = same.get(key)
        if isinstance(value, int) and (key, value) != ("topics", 1):
            parts.append(f"{value:,} {text}")
    if isinstance(same.get("rate"), (int, float)):
        parts.append(f"{same['rate']:,g} messages a second")
    elif same.get("window") == 1:
        parts.append("each sent when the one before has arrived everywhere")
    elif isinstance(same.get("window"), int):
        parts.append(f"{same['window']:,} under way at once")
    return ", ".join(parts)


def opening(height: float, title: str, description: str, about: str) -> list[str]:
    """The beginning of a picture: its frame, its title, and the line below the title."""
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'role="img" aria-labelledby="title description" '
        'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" font-size="13" fill="#24292f">',
        f'<title id="title">{escape(title)}</title>',
        f'<desc id="description">{escape(description)}</desc>',
        # Its own background: the page around it may be dark.
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="6" fill="#ffffff" stroke="#d0d7de"/>',
        f'<text x="{LEFT}" y="28" font-size="17" font-weight="600">{escape(title)}</text>',
        f'<text x="{LEFT}" y="48" fill="#57606a">{escape(about)}</text>',
    ]


def scale(largest: float) -> tuple[float, float]:
    """The step between the lines of the grid, and the uppermost line, for values up to the largest."""
    for power in range(-6, 12):
        for digit in (1, 2, 5):
            step = digit * 10.0**power
            if largest <= 8 * step:
                lines = int(largest / step) + (largest % step > 0)
                return step, step * lines
    raise InputError(f"{largest} ms is not a latency")


def time(milliseconds: float) -> str:
    """Three digits that matter."""
    value, unit = (milliseconds * 1000, "µs") if milliseconds < 1 else (milliseconds, "ms")
    decimals = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{decimals}f} {unit}"


if __name__ == "__main__":
    main()
