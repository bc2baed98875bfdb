"""A learner's progress as a file: to keep, and to go on elsewhere. JSON; what comes back is checked like any upload."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from core.errors import CoreError
from core.learn.answers import Progress
from core.learn.lesson import Lesson, list_lessons

KIND, FORMAT = "prunescope-progress", 1
MAX_BYTES, LONGEST_ANSWER = 1 << 18, 200


def pack_progress(kept: Mapping[str, Any], model: str) -> bytes:
    """``kept``: by lesson, as ``Progress.to_dict``. ``model``: the network that the answers were given on."""
    lessons = {name: Progress.from_dict(found).to_dict() for name, found in kept.items()}
    told = {"kind": KIND, "format": FORMAT, "network": model, "lessons": lessons}
    return json.dumps(told, indent=1).encode()


def unpack_progress(packed: bytes, kept: Mapping[str, Any]) -> tuple[dict[str, Any], list[str], str]:
    """``kept`` with what a file brings: of each lesson whichever is further. Also the titles of the lessons that were
    taken from the file, and the network it was made on.

    Lessons that are not known here are left out. Raises CoreError for what is no such file.
    """
    if len(packed) > MAX_BYTES:
        raise CoreError(f"Expected a progress file of at most {MAX_BYTES >> 10} KiB; this one is larger.")
    try:
        found = json.loads(packed)
        if not isinstance(found, dict) or found["kind"] != KIND or not isinstance(found["lessons"], dict):
            raise ValueError
        if not 1 <= int(found["format"]) <= FORMAT:
            raise CoreError("This progress was saved by a newer Prunescope. Update this one.")
        network = found.get("network", "")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CoreError("Expected a progress file (.json) saved on the page Learn; this one cannot be read.") from error
    merged, taken = dict(kept), []
    for lesson in list_lessons():
        if lesson.name in found["lessons"]:
            brought = _checked(found["lessons"][lesson.name], lesson)
            if _further(brought, Progress.from_dict(kept.get(lesson.name))):
                merged[lesson.name] = brought.to_dict()
                taken.append(lesson.title)
    return merged, taken, network[:200] if isinstance(network, str) else ""


def _further(brought: Progress, kept: Progress) -> bool:
    return (brought.done, brought.step, len(brought.answers)) > (kept.done, kept.step, len(kept.answers))


def _checked(found: Any, lesson: Lesson) -> Progress:
    """Raises CoreError with the lesson's name for what its steps cannot have."""
    wrong = CoreError(f"The progress file tells of the lesson “{lesson.title}” what cannot be. Save it anew.")
    if not isinstance(found, dict) or not isinstance(found.get("answers"), dict):
        raise wrong
    step, answers = found.get("step"), found["answers"]
    if isinstance(step, bool) or not isinstance(step, int) or not 1 <= step <= len(lesson.steps):
        raise wrong
    for number, answer in answers.items():
        known = number.isdigit() and 1 <= int(number[:4]) <= step and str(int(number[:4])) == number
        if not known or not _is_answer(answer, lesson.steps[int(number) - 1].kind):
            raise wrong
    asked = [str(n) for n, one in enumerate(lesson.steps[: step - 1], start=1) if one.kind in ("predict", "check")]
    done = found.get("done") is True and step == len(lesson.steps)
    if any(number not in answers for number in asked):
        raise wrong
    return Progress(step, answers, done)


def _is_answer(answer: Any, kind: str) -> bool:
    if kind not in ("predict", "check") or isinstance(answer, bool):
        return False
    if isinstance(answer, str):
        return 0 < len(answer) <= LONGEST_ANSWER
    return isinstance(answer, int | float) and abs(answer) < 1e300 and math.isfinite(answer)
