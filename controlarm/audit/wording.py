"""The audit in sentences. A gain without a control is called a change, never learning."""

from typing import Any

from controlarm.analysis.wording import change, points

Entry = dict[str, Any]


def sentences(found: Entry) -> list[str]:
    """The page's first lines, most important first."""
    said = [line for c in found["comparisons"] for line in _comparison(c)]
    said += [_score(s) for s in found["scores"] if "table" in s]
    damaged = sum(log["num_damaged"] for log in found["logs"])
    rows = sum(log["num_rows"] for log in found["logs"])
    without = sum(side["without_gold"] for side in found["sides"])
    if without:
        said.append(f"{without:,} of {rows:,} completions have no gold answer and no verdict.")
    if damaged:
        said.append(f"{damaged:,} rows could not be used and are in no number; {rows:,} were read.")
    missing = [c["control"] for c in found["controls"] if not c["run"]]
    if missing:
        said.append(
            f"No log of these controls was given: {', '.join(missing)}. Without them nothing here says what the reward taught."
        )
    return said


def _comparison(c: Entry) -> list[str]:
    where = f"{c['after_name']} against {c['before_name']}"
    if "split" not in c:
        return [f"{where}: no gain can be told; {c['note']}."]
    parts = c["split"]
    said = [
        f"{where}: accuracy {change(parts['gain']['estimate'])} ({_interval(parts['gain'])}; {c['num_compared']:,} problems): "
        f"format {_points(parts['format'])}, shift between code and words {_points(parts['share'])}, accuracy within them {_points(parts['within'])} points."
        + (f" But {c['note']}." if c.get("note") else "")
    ]
    if "pass_at_k" not in c:
        return said
    passed = c["pass_at_k"]
    most = passed["ks"][-1]
    if most > 1:
        words = {
            "established": "the one before overtakes the one after as tries increase",
            "none": "no crossing is compatible with the band",
            "undetermined": "whether the curves cross is not decided",
        }[passed["crossover"]["outcome"]]
        last = passed["difference"]["estimate"][-1]
        said.append(f"{where}: pass@{most} {change(last)}; {words}.")
    return said


def _score(s: Entry) -> str:
    rates, read = s["accuracy"], ""
    if (theirs := rates.get("their_answers")) is not None:
        read = f"{points(theirs)} % on the answers that the log read, "
    calls = "calls" if s["num_levels"] == 2 else "is above the middle of its range for"
    right = " right" if s["num_levels"] == 2 else ""
    return (
        f"{s['name']}: the log's {s['score']} {calls} {points(s['share_high'])} % of completions{right}; ours finds right {read}"
        f"{points(rates['lenient'])} % leniently, {points(rates['strict'])} % strictly; they differ on {s['num_different']:,}."
    )


def _points(part: Entry) -> str:
    text = points(part["estimate"])
    return text if text.startswith("-") or text == "0.0" else f"+{text}"


def _interval(part: Entry) -> str:
    if part["low"] != part["low"]:
        return "no interval: one problem"
    return f"95 % interval over problems {points(part['low'])} to {points(part['high'])}"
