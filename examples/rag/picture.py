"""A comparison as an SVG picture, for light and dark pages alike."""

import html
import os
import pathlib

from texts import Trouble, shown

STYLE = ("<style>text{font:13px sans-serif;fill:#444}.t{font-weight:600}.known{fill:#3b76c4}.new{fill:#d9822b}.stored{fill:#5a9e4b}.l{stroke:#999;stroke-width:1}"
         "@media(prefers-color-scheme:dark){text{fill:#ccc}}</style>")
LEGEND = {"new": "new passages", "known": "known passages", "stored": "loaded from files"}
LEFT, WIDTH, ROW, BAR = 90, 250, 72, 18  # of a panel: where bars begin, the longest, from way to way, a bar's height


def text(x, y, words, kind="", anchor="start"):
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{html.escape(words)}</text>'


def panel(x, title, names, bars, most):
    """Bars for each name: {name: [(kind, value, words)]}, which end at `most`."""
    parts = [text(x + LEFT, 52, title, "t"), f'<line x1="{x + LEFT}" y1="62" x2="{x + LEFT}" y2="{66 + ROW * len(names)}" class="l"/>']
    for row, name in enumerate(names):
        y = 68 + ROW * row
        parts.append(text(x + LEFT - 8, y + BAR * len(bars[name]) / 2 + 5, name, anchor="end"))
        for number, (kind, value, words) in enumerate(bars[name]):
            width = max(1.0, WIDTH * value / most) if most else 1.0
            parts.append(f'<rect x="{x + LEFT}" y="{y + (BAR + 2) * number}" width="{width:.1f}" height="{BAR}" class="{kind}"/>')
            parts.append(text(x + LEFT + width + 6, y + (BAR + 2) * number + 14, words))
    return parts


def write(path, report):
    names = [way["way"] for way in report["passes"][0]["ways"]]
    times, nearness = {name: [] for name in names}, {name: [] for name in names}
    for each in report["passes"]:
        for way in each["ways"]:
            seconds = way["median_first_token_seconds"]
            times[way["way"]].append((each["passages"], seconds, f"{1e3 * seconds:.0f} ms"))
            nearness[way["way"]].append((each["passages"], way["f1"], f"{way['f1']:.2f}, {100 * way['equal_answers']:.0f} % equal"))
    parts = [text(10, 24, f"{len(report['questions'])} questions, {report['passages_each']} passages each", "t")]
    x = 300
    for each in report["passes"]:
        parts += [f'<rect x="{x}" y="13" width="12" height="12" class="{each["passages"]}"/>', text(x + 18, 24, LEGEND[each["passages"]])]
        x += 150
    parts += panel(0, "Time to the first token (median)", names, times, max(bar[1] for bars in times.values() for bar in bars))
    parts += panel(440, "Answers against those of reading everything (F1)", names, nearness, 1.0)
    height = 80 + ROW * len(names)
    body = "\n".join(parts)
    drawn = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 940 {height}" width="940" role="img">\n{STYLE}\n{body}\n</svg>\n'
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(drawn, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise Trouble(f"{shown(path)} cannot be written: {error.strerror}") from None
