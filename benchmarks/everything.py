"""What `make bench` runs: every comparison with a peer, one after the other; at the end one table and its JSON.

    python benchmarks/everything.py [--quick] [--output build/bench.json]

An idle machine is needed, and on two cores half an hour; ``--quick`` takes one round of each, to see that all runs.
Needs the project with its extra anomalib, and benchmarks/requirements.txt.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tabulate import tabulate

HERE = Path(__file__).parent
# Script to its arguments, and to those of a quick run.
SCRIPTS = {
    "agreement.py": ((), ()),
    "training.py": (
        ("--with-anomalib", "--device", "cpu", "--recipe", "rkd-official"),
        ("--rounds", "1"),
    ),
    "inference.py": (
        ("--with-anomalib", "--teacher", "resnet18", "--images", "32", "--rounds", "5"),
        ("--rounds", "1", "--images", "16", "--threads", "2"),
    ),
    "metrics.py": ((), ("--rounds", "1")),
}

RECORD_NOTHING = ("agreement.py",)  # it says whether ours and anomalib's compute the same, before speed is compared


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true")
    options.add_argument("--output", type=Path, default=Path("build/bench.json"))
    asked = options.parse_args()
    with TemporaryDirectory() as folder:
        found = [run(script, asked.quick, Path(folder)) for script in SCRIPTS]
    records = [record for record in found if record is not None]
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    asked.output.write_text(json.dumps(records, indent=1) + "\n")
    print("\n# Ours against peers\n")
    print(tabulate(ratios(records), "keys", tablefmt="github"))
    print(f"\nall figures: {asked.output}")


def run(script: str, quick: bool, folder: Path) -> dict[str, Any] | None:
    """Run one script, its output shown; returns what it recorded, if it records anything."""
    always, in_a_hurry = SCRIPTS[script]
    words = [*always, *(in_a_hurry if quick else ())]
    print(f"\n# {script} {' '.join(words)}\n", flush=True)
    file = folder / f"{script}.json"
    record = [] if script in RECORD_NOTHING else ["--json", str(file)]
    done = subprocess.run([sys.executable, str(HERE / script), *words, *record])
    if done.returncode:
        sys.exit(f"{script} failed with status {done.returncode}")
    return json.loads(file.read_text()) if file.exists() else None


def ratios(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Only the comparisons with others: a row each."""
    rows = []
    for record in records:
        for row in record["rows"]:
            if record["benchmark"] == "training" and row["what"] == "anomalib":
                rows.append(line("training step", "anomalib", row["training is so many times as fast"]))
            elif record["benchmark"] == "inference" and row["times as fast as anomalib"] is not None:
                cell = f"{row['engine']}, {row['from']}, batch {row['batch']}, {row['threads']} threads"
                rows.append(line(cell, "anomalib in the same runtime", row["times as fast as anomalib"]))
            elif record["benchmark"] == "metrics" and row["what"].split()[0] in ("adeval", "scikit-learn", "anomalib"):
                rows.append(line("all seven pixel metrics", row["what"], row["times pixel_metrics"]))
    return rows


def line(ours: str, peer: str, ratio: float) -> dict[str, Any]:
    return {"ours": ours, "peer": peer, "times as fast": ratio}


if __name__ == "__main__":
    main()
