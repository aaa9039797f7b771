"""The report as one HTML page, to be read offline, on a phone and on paper: no script and no other file.

Every text from an image passes `_text`. A Content-Security-Policy forbids the browser to load or run anything, should
a text escape all the same. The page is ASCII, so it reads the same whatever encoding a server declares.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape

from ociexport.cli.output.report import (
    ReportTime,
    about_text,
    change_text,
    changes_summary,
    expected_text,
    missing_text,
    platform_text,
    shown_time,
    title_of,
    totals_lines,
)
from ociexport.errors import escaped
from ociexport.system.progress.protocol import format_bytes
from ociexport.system.version import __version__
from ociexport.verification.changes import Change, Changes
from ociexport.verification.parts import AboutKind
from ociexport.verification.report import Report, ReportedImage

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --paper: #fff; --card: #f5f7f9; --line: #d0d7de;
  --unique: #0a6ebd; --shared: #8fb8dd; --good: #1a7f37; --bad: #b42318 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9aa4af; --paper: #0d1117; --card: #161b22;
  --line: #30363d; --unique: #58a6ff; --shared: #27466b; --good: #3fb950; --bad: #ff7b72 } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 75rem; padding: 1.5rem; color: var(--ink); background: var(--paper);
  font: 16px/1.45 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif }
h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere }
h2 { font-size: 1.15rem; margin: 2rem 0 .75rem }
h3 { font-size: 1rem; margin: 0 0 .5rem; overflow-wrap: anywhere }
p { margin: .25rem 0 } a { color: inherit } .soft { color: var(--soft) } .bad { color: var(--bad) }
code { font: .85em/1.4 ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere }
dl.sums { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: .75rem; margin: 1.25rem 0 0 }
dl.sums div, section.image { background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  padding: .75rem 1rem }
dt { color: var(--soft); font-size: .85rem } dd { margin: 0 }
table { width: 100%; border-collapse: collapse }
th, td { text-align: left; vertical-align: top; padding: .5rem .6rem; border-bottom: 1px solid var(--line) }
th { font-size: .85rem; color: var(--soft); font-weight: 600 }
td.name { overflow-wrap: anywhere; min-width: 12rem } td.number { white-space: nowrap }
.bar { display: flex; height: .4rem; width: 5rem; border-radius: .2rem; overflow: hidden; background: var(--line);
  margin-top: .3rem; print-color-adjust: exact; -webkit-print-color-adjust: exact }
.bar i { background: var(--unique) } .bar i + i { background: var(--shared) }
.mark { color: var(--good); font-weight: 600 } section.image { margin: 0 0 .75rem }
section.image dl { margin: 0; display: grid; grid-template-columns: max-content 1fr; gap: .2rem .9rem }
section.image dd { overflow-wrap: anywhere } footer { margin-top: 2rem; font-size: .85rem; color: var(--soft) }
@media screen and (max-width: 64rem) {
  body { padding: 1rem } thead { position: absolute; left: -99rem }
  table, tbody { display: block }
  tr { display: block; border: 1px solid var(--line); border-radius: .5rem; margin-bottom: .6rem; padding: .3rem .6rem }
  td { display: grid; grid-template-columns: 7rem 1fr; gap: .5rem; border: 0; padding: .2rem 0 }
  td::before { content: attr(data-label); color: var(--soft); font-size: .85rem }
  td > span { min-width: 0; overflow-wrap: anywhere } section.image dl { grid-template-columns: 1fr; gap: 0 }
  section.image dd { margin-bottom: .35rem }
}
@media print {
  :root { --ink: #000; --soft: #444; --paper: #fff; --card: #fff; --line: #999; --unique: #000; --shared: #aaa;
    --good: #000; --bad: #000 }
  @page { margin: 15mm } body { max-width: none; padding: 0; font-size: 10pt } a { text-decoration: none }
  thead { display: table-header-group } tr, section.image, dl.sums div { break-inside: avoid }
  h2, h3 { break-after: avoid } td.name { min-width: 8rem } .bar { display: none } th, td { padding: .3rem .4rem }
}
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def report_page(report: Report, changes: Changes | None, time: ReportTime) -> str:
    """Return the page. The same report at the same time gives the same bytes."""
    title = f"Contents of {_text(report.place)}"
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        '<meta name="referrer" content="no-referrer">',
        f"<title>{title}</title>",
        f"<style>{_STYLE}</style>",
        "</head>",
        "<body>",
        f"<header><h1>{title}</h1>",
        f'<p class="soft">As of {shown_time(time.now)}, by ociexport {_text(__version__)}</p></header>',
        "<main>",
        '<dl class="sums">',
        *(f"<div><dt>{_text(name)}</dt><dd>{_text(text)}</dd></div>" for name, text in totals_lines(report)),
        "</dl>",
        *(_changes_lines(changes) if changes is not None else ()),
        *_table_lines(report, changes, time),
        "<h2>Digests</h2>",
        *(line for number, image in enumerate(report.images, start=1) for line in _image_lines(number, image)),
        *_problem_lines(report),
        "</main>",
        "<footer><p>Sizes are of the blobs as stored; 1 kB is 1000 bytes. A blob that several images need is counted "
        "in the size of each, and once in the sums.</p><p>Signatures, SBOMs and attestations are present; this page "
        "does not say that they are valid. <code>ociexport verify</code> checks the blobs.</p></footer>",
        "</body>",
        "</html>",
    ]
    return "".join(f"{line}\n" for line in lines).encode("ascii", "xmlcharrefreplace").decode("ascii")


def _text(untrusted: str) -> str:
    """Return a text that HTML shows as it is: no markup, no control characters, no change of direction."""
    return escape(escaped(untrusted), quote=True)


def _changes_lines(changes: Changes) -> Iterator[str]:
    yield f"<h2>Changed since {_text(changes.since)}</h2>"
    yield f"<p>{_text(changes_summary(changes))}</p>"
    changed = [one for one in changes.names if one.change is not Change.UNCHANGED]
    if not changed:
        return
    rows = [(("Image", "name", _text(one.name)), ("What", "", _text(change_text(one)))) for one in changed]
    yield from _table(("Image", "What"), rows)


def _table_lines(report: Report, changes: Changes | None, time: ReportTime) -> Iterator[str]:
    yield "<h2>Images</h2>"
    if not report.images:
        yield "<p>None.</p>"
        return
    heads = ["Image", "Platforms", "Created", "Size", "Unique", "Shared", "Signed", "SBOM"]
    rows = []
    for number, image in enumerate(report.images, start=1):
        names = "<br>".join(_text(name) for name in image.names[1:])
        link = f'<a href="#image-{number}">{_text(title_of(image))}</a>'
        row = [
            ("Image", "name", link + (f'<br><span class="soft">{names}</span>' if names else "")),
            ("Platforms", "", _text(", ".join(image.platforms)) or '<span class="soft">none stated</span>'),
            ("Created", "number", _text(time.shown_age(image.created)).replace(", ", "<br>")),
            ("Size", "number", format_bytes(image.size) + _bar(image)),
            ("Unique", "number", format_bytes(image.unique)),
            ("Shared", "number", format_bytes(image.shared)),
            ("Signed", "", _mark(image.count(AboutKind.SIGNATURE))),
            ("SBOM", "", _mark(image.count(AboutKind.SBOM))),
        ]
        if changes is not None:
            row.append(("Change", "", changes.of(image).value))
        rows.append(row)
    yield from _table([*heads, *(["Change"] if changes is not None else [])], rows)


def _table(heads: Iterable[str], rows: Iterable[Iterable[tuple[str, str, str]]]) -> Iterator[str]:
    """Yield a table; each cell has its column's name, which a phone shows beside it, a class, and its HTML."""
    cells = "".join(f'<th scope="col">{head}</th>' for head in heads)
    yield f"<table><thead><tr>{cells}</tr></thead><tbody>"
    for row in rows:
        shown = (
            f'<td data-label="{label}"{f" class={kind!r}" if kind else ""}><span>{content}</span></td>'
            for label, kind, content in row
        )
        yield f"<tr>{''.join(shown)}</tr>"
    yield "</tbody></table>"


def _bar(image: ReportedImage) -> str:
    if not image.size:
        return ""
    unique = round(100 * image.unique / image.size)
    label = f"{unique} % unique"
    parts = f'<i style="width:{unique}%"></i><i style="width:{100 - unique}%"></i>'
    return f'<span class="bar" role="img" aria-label="{label}">{parts}</span>'


def _mark(count: int) -> str:
    return f'<span class="mark">yes</span> ({count})' if count else "no"


def _image_lines(number: int, image: ReportedImage) -> Iterator[str]:
    yield f'<section class="image" id="image-{number}"><h3>{_text(title_of(image))}</h3><dl>'
    yield _row("also named", "<br>".join(map(_text, image.names[1:])))
    yield _row(image.kind, _code(str(image.digest)))
    for part in image.parts:
        config = f"<br>config {_code(str(part.config))}" if part.config is not None else ""
        yield _row(platform_text(part), f"{_code(str(part.digest))}{config}")
    if image.missing:
        missing = f"{missing_text(image)}: "
        shown = " ".join(_code(str(digest)) for digest in image.missing)
        yield _row("not here", f'<span class="bad">{missing}</span>{shown}')
    if image.expected:
        shown = " ".join(_code(str(digest)) for digest in image.expected)
        yield _row("not inside", f"{_text(expected_text(image))}: {shown}")
    yield _row("about it", _text(about_text(image)))
    for one in image.about:
        yield _row(one.kind.value, _code(str(one.digest)))
    yield "</dl></section>"


def _row(name: str, content: str) -> str:
    return f"<dt>{_text(name)}</dt><dd>{content}</dd>" if content else ""


def _code(text: str) -> str:
    return f"<code>{_text(text)}</code>"


def _problem_lines(report: Report) -> Iterator[str]:
    if report.findings:
        yield '<h2>Problems</h2><ul class="bad">'
        yield from (f"<li>{_text(str(finding))}</li>" for finding in report.findings)
        yield "</ul>"
