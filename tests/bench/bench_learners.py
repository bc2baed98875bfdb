"""A class at work: thirty learners on one server: `python tests/bench/bench_learners.py [learners] [--pause P]`.

A teacher opens a class on the first demo and looks at its lesson. Then thirty visitors (Streamlit's own protocol over
thirty websockets on loopback, see learner_client.py; no browsers, for those would take the cores from the server) open
its link, join, play the first lesson with a prediction and a number of their own, put a plan of their own on the desk,
have it measured and hand it in, all at once, 1 to 4 seconds between two steps, while the boards refresh.

Judged: a step, from the click to the end of what the server sends (bar 4 s, p95); no cross-talk: every learner's
answers and plan, on their page and in the store, are their own; the board holds every learner's plan once, with the
store's own numbers. Reported besides: how long a plan waits for its measurement, and the load.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from core import Assignment, desk_plan, entries, find_result, measured_plan, open_class, open_subject, to_query
from core.keep.store import open_store
from core.keep.workspace import Workspace, edit
from core.records import Scores
from tests.bench.learner_client import Visitor
from tests.browser.conftest import Server, start_app

MODEL, GROUP, CRITERION, LESSON = "demo/digits-vgg", "features.10", "weight-l2", "channel"
STEP_BAR_S, OPTIONS = 4.0, ("own", "both", "none")


class Learner:
    """One of them: ``number`` decides what is predicted, answered and removed."""

    def __init__(self, number: int, link: str) -> None:
        self.number, self.link, self.name = number, link, f"Learner {number:02d}"
        self.steps: dict[str, float] = {}
        self.measured_s = 0.0
        self.token = ""
        self.faults: list[str] = []

    async def live(self, removed_from: str, pause: float) -> None:
        rng = random.Random(self.number)
        await asyncio.sleep(rng.uniform(0, 2))
        async with Visitor(self.link) as page:
            self.steps["open the link"] = await page.open(lambda it: it.has("Join"))
            self.token = page.token
            await asyncio.sleep(rng.uniform(1, 4) * pause)
            page.enter("text_input", self.name)
            self.steps["join"] = await page.press("Join", lambda it: not it.has("Join") and it.has("Go on"))
            await self._lesson(page, rng, pause)
            await self._hand_in(page, removed_from, rng, pause)
            self.faults += page.errors

    async def _lesson(self, page: Visitor, rng: random.Random, pause: float) -> None:
        """To its check, answered with a number that is this learner's own."""
        turn = 0
        while True:
            await asyncio.sleep(rng.uniform(1, 4) * pause)
            turn += 1
            if page.has("Lock in my prediction"):
                page.choose(self.number % 3)
                ready = lambda it: not it.has("Lock in my prediction")  # noqa: E731
                self.steps["lock a prediction"] = await page.press("Lock in my prediction", ready)
            elif page.has("Check"):
                page.enter("number_input", 0.001 * (self.number + 1))
                ready = lambda it: "Not yet" in it.said()  # noqa: E731
                self.steps["check an answer"] = await page.press("Check", ready)
                break
            else:
                before = page.said()
                self.steps[f"go on {turn}"] = await page.press("Go on", lambda it, old=before: it.said() != old)
        foresaw = "You saw it coming" in page.said()
        if foresaw != (OPTIONS[self.number % 3] == "both"):
            self.faults.append(f"{self.name} reads the answer to another's prediction")
        if self.name not in page.said():
            self.faults.append(f"{self.name} is not called so on the page")

    async def _hand_in(self, page: Visitor, group: str, rng: random.Random, pause: float) -> None:
        take_away(self.token, group, self.number + 1)
        ready = lambda it: it.has("Measure this plan") or it.has("Hand in this plan")  # noqa: E731
        await asyncio.sleep(rng.uniform(1, 4) * pause)
        self.steps["back on the page"] = await page.open(ready)
        begun = time.monotonic()
        while not page.has("Hand in this plan"):
            if page.has("Measure this plan"):
                self.steps["ask to measure"] = await page.press("Measure this plan", lambda it: True)
            await asyncio.sleep(0.5)
            if time.monotonic() - begun > 600:
                self.faults.append(f"{self.name}'s plan was not measured: {page.said()[-300:]}")
                return
        self.measured_s = time.monotonic() - begun
        await asyncio.sleep(rng.uniform(1, 4) * pause)
        ready = lambda it: any(one.button.label == "On the board" for one in it.of("button"))  # noqa: E731
        self.steps["hand in"] = await page.press("Hand in this plan", ready)


def take_away(token: str, group: str, units: int) -> None:
    """As this learner's other window would: the plan on the desk loses ``units`` of one group."""
    state, revision = open_store().workspace(token) or ({}, 0)
    changed = edit(Workspace.from_json(state, revision), {group: units}, "by hand")
    open_store().save_workspace(token, changed.to_json(), revision)


async def all_at_once(learners: list[Learner], group: str, pause: float) -> None:
    async with Visitor(learners[0].link) as teacher:  # who looks at the lesson before the class begins
        await teacher.open(lambda it: it.has("Go on"), seconds=240)
    print(f"the class begins, load {os.getloadavg()[0]:.1f}", flush=True)
    await asyncio.gather(*(learner.live(group, pause) for learner in learners))


def check(learners: list[Learner], code: str, group: str) -> list[str]:
    """What is wrong in the store and on the board."""
    faults = [fault for learner in learners for fault in learner.faults]
    subject, store = open_subject(MODEL), open_store()
    board = entries(store, code)
    if sorted(entry.name for entry in board) != sorted(learner.name for learner in learners):
        faults.append(f"the board holds {len(board)} plans: {[entry.name for entry in board]}")
    if len({learner.token for learner in learners}) != len(learners):
        faults.append("two learners share their work")
    ranked = Scores.from_dict(find_result(store, "score", subject, criterion=CRITERION))
    task = Assignment(MODEL, lesson=LESSON, criterion=CRITERION)
    by_name = {entry.name: entry for entry in board}
    for learner in learners:
        state, _ = store.workspace(learner.token) or ({"choices": {}}, 0)
        answers = state["choices"].get("lessons", {}).get(LESSON, {}).get("answers", {})
        if OPTIONS[learner.number % 3] not in answers.values() or 0.001 * (learner.number + 1) not in answers.values():
            faults.append(f"{learner.name}'s answers are {answers}")
        plan = desk_plan(subject.trace, ranked, {group: learner.number + 1})
        if learner.name not in by_name:
            continue  # told above
        wanted = measured_plan(store, subject, task, plan, "none")
        if by_name[learner.name].told != wanted:
            faults.append(f"{learner.name}'s numbers on the board are another plan's")
    return faults


def used_s(server: Server) -> float:
    """Processor time of the server itself until now, its workers left out."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def report(learners: list[Learner], took_s: float, processor_s: float) -> bool:
    """Whether the bar is met."""
    steps: dict[str, list[float]] = {}
    for learner in learners:
        for name, seconds in learner.steps.items():
            steps.setdefault(name.rstrip(" 0123456789"), []).append(seconds)
    every = [seconds for values in steps.values() for seconds in values]
    for name, values in [*steps.items(), ("every step", every)]:
        print(f"{name:<20} p50 {statistics.median(values):6.2f} s  p95 {p95(values):6.2f} s  n {len(values)}")
    waits = [learner.measured_s for learner in learners if learner.measured_s]
    if waits:
        print(f"a plan measured after p50 {statistics.median(waits):.1f} s, p95 {p95(waits):.1f} s")
    each = 1000 * processor_s / max(1, len(every))
    print(f"the server used {processor_s:.1f} s of processor time, boards included: {each:.0f} ms per step")
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"{len(learners)} learners, {took_s:.0f} s in all, {os.cpu_count()} cores, load {load}")
    return p95(every) < STEP_BAR_S


def p95(values: list[float]) -> float:
    return sorted(values)[max(0, round(0.95 * len(values)) - 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("learners", type=int, nargs="?", default=30)
    parser.add_argument("--pause", type=float, default=1.0, help="times 1 to 4 s between two steps")
    given = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="prunescope-bench-"))
    os.environ["PRUNESCOPE_HOME"] = str(home)
    print(f"load before: {os.getloadavg()[0]:.1f}", flush=True)
    server: Server = start_app(home)
    try:
        group = next(one.id for one in open_subject(MODEL).trace.prunable if one.id == GROUP)
        task = Assignment(MODEL, lesson=LESSON, criterion=CRITERION)
        code, _ = open_class(open_store(), task, "teacher")
        learners = [
            Learner(number, f"{server.address}/Learn?{to_query(task, code)}") for number in range(given.learners)
        ]
        begun, before = time.monotonic(), used_s(server)
        asyncio.run(all_at_once(learners, group, given.pause))
        met = report(learners, time.monotonic() - begun, used_s(server) - before)
        faults = check(learners, code, group)
    finally:
        server.stop()
    print("\n".join(faults[:20]) or "no cross-talk; every learner's plan is on the board once, with its own numbers")
    if faults or not met:
        sys.exit("missed")


if __name__ == "__main__":
    main()
