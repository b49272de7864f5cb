"""Writes docs/benchmarks.md, and two tables of the README, from `measured.json`: python -m bench.documents."""

from collections.abc import Iterable

from bench.contenders import CONTENDERS
from bench.report import (
    BY_CONTENDER,
    Cells,
    contender_rows,
    fault_header,
    fault_rows,
    measured,
    other_rows,
    readings_of,
    target_rows,
)
from bench.run import ROOT
from bench.targets import PARTS, TARGETS, Counts

README = ROOT / "README.md"

_BENCHMARKS = """# Benchmarks

Written by `make docs` from `bench/measured.json`, which `make bench` writes. `bench/targets.py` is the list of targets.

    make bench                                    # everything: about 35 minutes; its figures become those of this page
    .venv/bin/python -m bench --quick             # everything with small counts, once: some minutes, to try it
    .venv/bin/python -m bench drain latency       # some parts

The parts are {parts}.

It needs Linux, and Node.js 20.6 or newer with npm. The queue is fauxqs, an SQS emulator from npm, bound to 127.0.0.1;
Postgres is the embedded one (`fsync` and `synchronous_commit` on) in a temporary directory; AWS is never called. The
other tools are installed from the pinned requirements in `bench/peers`, each into an environment of its own. However
the benchmark ends, every process that it started is ended and its directory is removed. All figures are also written
to `bench/results`.

Each figure is the median of at least three runs, with the lowest and the highest. A ratio compares runs of one round.
What was loaded is verified after each run: nothing is left on the queue, every login is there once, masked, with equal
tokens for equal values. If not, the part fails and has no figures.

Machine: {facts}.

## Targets

{targets}
What is not met, what its profile shows, and what was tried:

{notes}

## The same queue

Each contender gets a fresh queue with the same {messages:,} messages (the row script a fifth of them, since its rate
does not depend on their number), a fresh database on the same Postgres, and a fresh process. One message in a hundred
is not a login; 8 % are from a device that logged in before, as in the samples. The first column is measured from the
first receive to the last commit (loginetl: until `user_logins` is materialized) or, for the others, to the last delete,
which comes after it. CPU is that of the tool's own processes, not of emulator and Postgres.

{contenders}
{tools}
loginetl keeps all its promises ([reliability.md](reliability.md)) meanwhile: encrypted landing, ledger, vault, rejected
messages, checks.

## Faults

`python -m bench faults` sends {faulty:,} messages with one fault, runs the tool up to three times, and looks for every
message. Lost: neither loaded, nor kept elsewhere with a reason, nor on the queue. Twice: a second row. Stuck: still on
the queue after the third run. Table changed: it has columns that it does not have without the fault.

{faults}
## Other figures

{others}
## Limits of the figures

- The emulator and Postgres use the same cores as the tools. AWS has latency instead: see the targets with latency.
- `bench/emulator.mjs` replaces two parts of fauxqs that would cost some tools more than others: at each receive it
  copies the queue and looks at every message in flight.
- Compare figures of one run with each other, not with those of another machine.
"""


def benchmarks_as_markdown() -> str:
    """Returns docs/benchmarks.md."""
    found = measured()
    facts = "; ".join(f"{name} {value}" for name, value in found["machine"].items())
    notes = [
        f"- **{target.what}**: {target.note or 'not profiled yet.'}"
        for target in TARGETS
        if (values := readings_of(found, target.part).get(target.reading)) and not target.is_met(values)
    ]
    return _BENCHMARKS.format(
        parts=", ".join(PARTS),
        messages=Counts().messages,
        faulty=Counts().faulty,
        facts=facts or "not measured",
        targets=_markdown(("figure", "target", "median (lowest to highest)", "met"), target_rows(found)),
        notes="\n".join(notes) or "Nothing that was measured.",
        tools=_markdown(
            ("", "what it does", "a message leaves the queue"), ((c.name, c.what, c.deletes) for c in CONTENDERS)
        ),
        contenders=_markdown(("", *BY_CONTENDER.values()), contender_rows(found)),
        faults=_markdown(fault_header(found), fault_rows(found)),
        others=_markdown(("figure", "median (lowest to highest)"), other_rows(found)),
    )


def readme_with_figures() -> str:
    """Returns README.md with the tables between its two marks."""
    found, readme = measured(), README.read_text(encoding="utf-8")
    before, begin, rest = readme.partition("<!-- figures: written by `make docs` -->\n")
    _, end, after = rest.partition("<!-- end of figures -->\n")
    tables = (
        _markdown(("", *BY_CONTENDER.values()), contender_rows(found)),
        _markdown(fault_header(found), fault_rows(found)),
    )
    return "".join((before, begin, "\n", "\n".join(tables), "\n", end, after))


def _markdown(header: Cells, rows: Iterable[Cells]) -> str:
    if not (body := list(rows)):
        return "Not measured.\n"
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *body)) + "\n"


DOCUMENTS = {ROOT / "docs" / "benchmarks.md": benchmarks_as_markdown, README: readme_with_figures}

if __name__ == "__main__":
    for path, written in DOCUMENTS.items():
        path.write_text(written(), encoding="utf-8")
