"""Says after the run how many hostile cases there were."""

from typing import Any

from hostile import counts, refused


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if counts:
        parts = [f"{name} {counts[name]} ({refused[name]} refused)" for name in sorted(counts)]
        terminalreporter.write_line(f"hostile cases: {sum(counts.values())}: " + ", ".join(parts))
