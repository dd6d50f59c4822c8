"""Plain SVG pictures of measurements, for docs/. Standard library only; light and dark pages alike."""

import html
import pathlib

STYLE = ("<style>text{font:13px sans-serif;fill:#444}.t{font-weight:600}.a{fill:#3b76c4}.p{fill:#d9822b}.l{stroke:#999;stroke-width:1}"
         "@media(prefers-color-scheme:dark){text{fill:#ccc}}</style>")


def write(path, width, height, parts):
    body = "\n".join(parts)
    pathlib.Path(path).write_text(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">\n{STYLE}\n{body}\n</svg>\n',
                                  encoding="utf-8")


def text(x, y, words, kind="", anchor="start"):
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{html.escape(words)}</text>'


def bars(path, title, values, unit):
    """One bar for each of {name: value}."""
    most = max(values.values())
    parts = [text(10, 22, title, "t")]
    for row, (name, value) in enumerate(values.items()):
        y = 40 + 30 * row
        parts.append(text(150, y + 15, name, anchor="end"))
        parts.append(f'<rect x="160" y="{y}" width="{400 * value / most:.1f}" height="20" class="a"/>')
        parts.append(text(168 + 400 * value / most, y + 15, f"{value:.0f} {unit}"))
    write(path, 700, 50 + 30 * len(values), parts)


def curve(path, title, x_name, y_name, lines):
    """{name: [(x, y), ...]} with x on a logarithmic axis."""
    import math
    points = [point for line in lines.values() for point in line]
    x_least, x_most = math.log(min(x for x, _ in points)), math.log(max(x for x, _ in points))
    y_least, y_most = min(0.8, min(y for _, y in points)), max(y for _, y in points) * 1.05
    place = lambda x, y: (60 + 480 * (math.log(x) - x_least) / max(1e-9, x_most - x_least), 250 - 200 * (y - y_least) / (y_most - y_least))
    parts = [text(10, 22, title, "t"), text(300, 295, x_name, anchor="middle"), text(10, 42, y_name),
             '<line x1="60" y1="250" x2="540" y2="250" class="l"/>', '<line x1="60" y1="50" x2="60" y2="250" class="l"/>']
    for x in sorted({x for x, _ in points}):
        parts.append(text(place(x, y_least)[0], 268, f"{x:g}", anchor="middle"))
    for y in (y_least, (y_least + y_most) / 2, y_most):
        parts.append(text(54, place(math.exp(x_least), y)[1] + 4, f"{y:.2f}", anchor="end"))
    for (name, line), colour in zip(lines.items(), ("#3b76c4", "#d9822b", "#5a9e4b", "#a05195")):
        path_points = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in line)
        parts.append(f'<polyline points="{path_points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(text(548, place(*line[-1])[1] + 4, name))
    write(path, 700, 305, parts)


def time_lines(path, title, runs, seconds):
    """{name: [(begin, length, prompt rows, answers), ...]} from the time when the long prompt arrives: steps with answers and without."""
    parts = [text(10, 22, title, "t"), text(160, 44, "blue: every stream gets a token; orange: streams wait")]
    for row, (name, steps) in enumerate(runs.items()):
        y = 60 + 46 * row
        parts.append(text(150, y + 19, name, anchor="end"))
        for begin, length, _, answers in steps:
            if begin > seconds:
                continue
            width = min(length, seconds - begin) * 500 / seconds
            parts.append(f'<rect x="{160 + 500 * begin / seconds:.2f}" y="{y}" width="{max(0.4, width - 0.3):.2f}" height="28" class="{"a" if answers else "p"}"/>')
    y = 60 + 46 * len(runs)
    parts.append(f'<line x1="160" y1="{y}" x2="660" y2="{y}" class="l"/>')
    for share in (0, 0.5, 1):
        parts.append(text(160 + 500 * share, y + 18, f"{share * seconds:.2f} s", anchor="middle"))
    write(path, 700, y + 30, parts)
