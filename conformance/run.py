"""`make conformance`: run the suites against real servers and write docs/conformance.md.

    run.py                         all suites; writes the page
    run.py openai-python mcp-...   these alone; prints, writes nothing

The exit status is 1 if a check failed.
"""

from __future__ import annotations

import argparse
import sys
import time

from conformance.environments import HERE, SetupError
from conformance.outcomes import OUTCOMES, SuiteReport
from conformance.page import conformance_page
from conformance.servers import running_servers
from conformance.suites import SUITES

PAGE = HERE.parent / "docs" / "conformance.md"


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", metavar="suite", help=f"of {', '.join(SUITES)}")
    wanted = parser.parse_args().suites
    unknown = [name for name in wanted if name not in SUITES]
    if unknown:
        parser.error(f"there is no suite {unknown[0]!r}; there is {', '.join(SUITES)}")
    reports = []
    try:
        with running_servers() as servers:
            for name in wanted or SUITES:
                started = time.monotonic()
                reports.append(SUITES[name].run(servers))
                _tell(reports[-1], time.monotonic() - started)
    except SetupError as error:
        print(error, file=sys.stderr)
        return 2
    if not wanted:
        PAGE.write_text(conformance_page(reports))
        print(f"wrote {PAGE.relative_to(HERE.parent)}")
    return int(any(report.count("failed") for report in reports))


def _tell(report: SuiteReport, seconds: float) -> None:
    counts = ", ".join(f"{report.count(outcome)} {outcome}" for outcome in OUTCOMES)
    print(f"{report.name} {report.version}: {counts} ({seconds:.0f} s)", flush=True)
    for check in report.checks:
        if check.outcome == "failed":
            print(f"  failed: {check.sentence}: {check.reason}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
