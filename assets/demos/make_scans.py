"""Scan the demos, so that the app opens with curves: ``python assets/demos/make_scans.py`` (part of ``make demos``).

The functions are those of a live scan, and the results are filed under the same keys, which name the weights, the
images and the arguments. After any change of these the keys no longer match and the app scans again.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from core.keep.shelf import SHIPPED, job_key, write_shipped
from core.keep.subject import open_subject
from core.measure.importance import list_criteria
from core.work.proposal import search_proposal
from core.work.tasks import scan_subject, score_subject

DEMOS = ("demo/digits-vgg", "demo/digits-resnet", "demo/shapes-cnn")
SCANNED = ("weight-l2", "taylor", "qr")


def main() -> None:
    results = {}
    for source in DEMOS:
        subject = open_subject(source)
        for row in list_criteria():
            started = time.perf_counter()
            scores = score_subject(subject, row.name)
            results[job_key("score", subject, criterion=row.name)] = scores.to_dict()
            if row.name in SCANNED:
                curves = scan_subject(subject, row.name)
                results[job_key("scan", subject, criterion=row.name)] = curves.to_dict()
                proposal = search_proposal(subject, scores, curves)
                results[job_key("propose", subject, criterion=row.name)] = proposal.to_dict()
            print(f"{source} {row.name}: {time.perf_counter() - started:.1f} s", flush=True)
    write_shipped(results)
    print(f"{SHIPPED.name}: {len(results)} results, {SHIPPED.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
