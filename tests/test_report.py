"""The page a stranger sees: whole, escaped, small, the same bytes for the same numbers, and blind to hostile text."""

import base64
import copy
import hashlib
import html
import json
import math
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlarm import report
from controlarm.analysis.summary import summarise
from controlarm.markup import escaped, points, visible
from controlarm.report import rollouts
from controlarm.report.view import view
from tests.fabricate import PROTOCOL, fabricate

FAMILIES = ("coder", "talker", "bungler")
ARMS = ("ground_truth", "majority", "python", "format", "incorrect", "random", "constant")
UNITS = ((1, 11), (2, 12), (3, 13))
EFFECTS = {
    "coder": (0.33, 0.29, 0.21, 0.06, 0.03, 0.0, -0.01),
    "talker": (0.05, 0.02, 0.0, 0.01, -0.03, 0.0, 0.0),
    "bungler": (0.17, 0.11, -0.14, 0.03, -0.06, 0.0, 0.0),
}
HOSTILE = (
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "\x00\x07\x1b[31m \u202egnp.exe\u2028\u2066 \ud800 lone",
    "<!-- <script> ]]> &lt;b&gt; ${document.title='owned'} javascript:alert(1)",
)


def lift(p: float, ks: list[int]) -> list[float]:
    """A curve of pass@k that looks like one."""
    return [1 - (1 - p) ** (k**0.6) for k in ks]


def made_up_summary(
    num_steps: int = 12,
    num_problems: int = 3,
    complete: bool = True,
    families: tuple[str, ...] = FAMILIES,
) -> dict[str, Any]:
    """A summary with everything in it, of the size of the quick trial: 63 runs."""
    draw = np.random.default_rng(7)
    evaluated = list(range(0, num_steps + 1, max(1, num_steps // 6)))
    made: dict[str, Any] = {key: [] for key in (
        "contrasts", "curves", "strategies", "partition", "kitagawa", "format_split", "decomposition",
        "pass_at_k", "guess", "maj_at_k", "boundary", "transitions", "entropy_law", "saturation", "clipping",
        "sampling_cost", "rewards", "labels", "rollouts")}  # fmt: skip
    for family in families:
        truth = dict(zip(ARMS, EFFECTS[family], strict=True))
        base = {"coder": 0.45, "talker": 0.24, "bungler": 0.31}[family]
        code = {"coder": 0.65, "talker": 0.0, "bungler": 0.9}[family]
        where = {"family": family, "recipe": "grpo"}
        ks = [1, 2, 4, 8, 16]
        made["guess"].append(
            {"family": family, "k": ks, "values": [1 - (1 - 0.002) ** k for k in ks]}
        )
        made["pass_at_k"].append(
            {**where, "arm": "base", "step": 0, "k": ks, "values": lift(base, ks), "units": []}
        )
        for pretraining_seed, _ in UNITS:
            made["labels"].append({"family": family, "pretraining_seed": pretraining_seed, "problems": 512,
                                   "majority_right": 0.61, "majority_missing": 3, "incorrect_is_right": 0, "near_misses": 21})  # fmt: skip
        for arm in ARMS:
            effect, mine = truth[arm], {**where, "arm": arm}
            share = min(1.0, code + (0.3 if arm in ("python", "ground_truth") and code else 0.0))
            for versus in ("placebo", "base"):
                if arm == "random" and versus == "placebo":
                    continue
                units = [float(effect + d) for d in draw.normal(0, 0.02, 3)]
                mean, se = sum(units) / 3, float(np.std(units, ddof=1)) / math.sqrt(3)
                made["contrasts"].append({
                    **mine, "versus": versus, "metric": "accuracy", "step": num_steps, "primary": arm in ARMS[:3],
                    "num_units": 3, "estimate": mean, "sd": se * math.sqrt(3), "se": se,
                    "ci95": [mean - 4.303 * se, mean + 4.303 * se], "ci90": [mean - 2.92 * se, mean + 2.92 * se],
                    "p_superior": 0.0004 if effect > 0.1 else 0.31, "p_holm": 0.004 if effect > 0.1 else None,
                    "holm_lower": mean - 5 * se, "problem_se": 0.011, "mde": 0.043, "family_claim": True,
                    "verdict": None if versus == "base" else "superior" if effect > 0.1 else "inferior"
                    if effect < -0.1 else "equivalent" if abs(effect) < 0.02 else "inconclusive",
                    "units": [{"pretraining_seed": p, "seed": s, "arm_value": base + u, "other_value": base, "difference": u}
                              for (p, s), u in zip(UNITS, units, strict=True)]})  # fmt: skip
            for pretraining_seed, seed in UNITS:
                run = {**mine, "pretraining_seed": pretraining_seed, "seed": seed}
                for metric, start, end, steps in (
                    ("accuracy", base, base + effect, evaluated),
                    ("lenient_accuracy", base + 0.08, base + effect + 0.05, evaluated),
                    ("greedy_accuracy", base + 0.05, base + effect + 0.02, evaluated),
                    ("code_share", code, share, evaluated), ("boxed_share", 0.84, 0.95, evaluated),
                    ("reward", 0.5, 0.5 + effect, None), ("entropy", 0.42, 0.2, None),
                    ("train_accuracy", base, base + effect, None), ("train_code_share", code, share, None),
                    ("clip_low", 0.004, 0.01, None), ("clip_high", 0.004, 0.012, None), ("grad_norm", 0.8, 0.5, None),
                    ("equal_groups", 0.2, 0.5, None), ("num_tokens", 22.0, 25.0, None),
                    ("sampler_gap_max", 0.003, 0.006, None),
                ):  # fmt: skip
                    xs = steps or list(range(1, num_steps + 1))
                    noise = draw.normal(0, 0.012, len(xs)) * (1 if arm != "constant" else 0.2)
                    ys = [float(start + (end - start) * (1 - math.exp(-4 * x / num_steps)) + n)
                          for x, n in zip(xs, noise, strict=True)]  # fmt: skip
                    if metric.endswith("share") or metric == "equal_groups":
                        ys = [min(1.0, max(0.0, y)) for y in ys]
                    made["curves"].append({**run, "metric": metric, "steps": xs, "values": ys})
                for i in range(num_problems):
                    a, b = 100 + 37 * i, 28 + i
                    for step in (0, num_steps):
                        for decoding in ("greedy", "sampled"):
                            right = draw.random() < base + (effect if step else 0)
                            in_code = draw.random() < (share if step else code)
                            answer = a + b if right else a - b
                            text = (f"Let me use Python.\n```python\nx = {a} + {b} # {answer}\n```\nSo the answer is \\boxed{{{answer}}}."
                                    if in_code else f"{a} and {b} make {answer}. \\boxed{{{answer}}}")  # fmt: skip
                            made["rollouts"].append({
                                **run, "problem_id": f"{a}+{b}", "gold": str(a + b),
                                "problem": f"Ann has {a} pens and gets {b} more. How many pens now?", "step": step,
                                "decoding": decoding, "text": text, "strict": "right" if right else "wrong",
                                "lenient": "right" if right else "wrong", "answer": str(answer), "code": in_code})  # fmt: skip
            for step in evaluated:
                done = step / num_steps
                for decoding in ("greedy", "sampled"):
                    for detector in ("substring", "parsed"):
                        now = code + (share - code) * done
                        for strategy, part, accuracy in (
                            ("code", now, 0.8),
                            ("words", 1 - now, 0.3),
                        ):
                            made["strategies"].append({
                                **mine, "step": step, "decoding": decoding, "strategy": strategy, "detector": detector,
                                "share": part, "accuracy": accuracy if part else None,
                                "lenient_accuracy": accuracy + 0.05 if part else None, "num_completions": 1000})  # fmt: skip
            cells = {name: {"num_problems": n, "right_before": int(0.4 * n), "right_after": int((0.4 + effect * w) * n),
                            "change": int((0.4 + effect * w) * n) - int(0.4 * n), "share_of_gain": w / 4 if effect else None}
                     for name, n, w in (("code_code", 330, 0.5), ("code_words", 160, -0.4), ("words_code", 200, 2.6), ("words_words", 310, 0.6))}  # fmt: skip
            made["partition"].append({**mine, "step": num_steps, "cells": cells,
                                      "change_total": sum(c["change"] for c in cells.values())})  # fmt: skip
            made["kitagawa"].append({
                **mine, "step": num_steps, "gain": effect, "share_effect": 0.7 * effect, "accuracy_effect": 0.3 * effect,
                "interaction_free": True, "units": [], "share_effect_ci95": [0.5 * effect, 0.9 * effect],
                "accuracy_effect_ci95": [0.1 * effect, 0.5 * effect]})  # fmt: skip
            made["format_split"].append({**mine, "gain_strict": effect, "gain_lenient": effect - 0.02,
                                         "format_part": 0.02, "step": num_steps, "format_part_ci95": [0.01, 0.03]})  # fmt: skip
            made["pass_at_k"].append(
                {**mine, "step": num_steps, "k": ks, "values": lift(base + effect, ks), "units": []}
            )
            lost, new = (24, 2) if effect < 0 else (3, int(100 * effect))
            made["boundary"].append({
                **mine, "step": num_steps, "num_units": 3, "num_samples": 16, "smallest_visible": 0.17, "k": ks,
                "difference": [effect - 0.004 * k for k in ks], "low": [effect - 0.05 - 0.004 * k for k in ks],
                "high": [effect + 0.05 - 0.004 * k for k in ks], "num_problems": [256] * 5, "crossover": 8 if 0 < effect < 0.05 else None,
                "crossover_interval": [4, 16] if 0 < effect < 0.05 else None,
                "outcome": "undetermined" if 0 < effect < 0.05 else "none", "same": False,
                "sentence": f"{family}: the base overtakes {arm} at k = 8 (95 % band over problems: 4 to 16).",
                "solvable": {"both": 500, "base_only": lost, "trained_only": new, "neither": 268 - lost - new},
                "solvable_ci95": {"both": [0.6, 0.7], "base_only": [0.0, 0.05], "trained_only": [0.1, 0.2], "neither": None},
                "without_all_samples": 0, "srr": 0.95, "ndr": 0.1, "sds": 0.18, "nscr": 0.05, "sampling_gap": 0.2,
                "gap_sentence": "Sampling-efficiency gap = base's pass@16 - trained pass@1 = +20.0 points; lower is better. Above 0, so and so.",
                "new_to_trained": 40.5, "new_to_base": 21.0})  # fmt: skip
            for metric in ("train_code_share", "train_accuracy"):
                jumped = arm == "python"
                made["transitions"].append({
                    **mine, "metric": metric, "num_runs": 3, "change_point": 4.5 if jumped else None,
                    "verdicts": {"constant": 0 if jumped else 2, "linear": 1, "step": 1 if jumped else 0, "logistic": 1 if jumped else 0, "unknown": 0},
                    "first_change": 3.5 if jumped else None, "last_change": 5.5 if jumped else None,
                    "false_detections": 1 / 3, "false_detections_ci95": [0.008, 0.906], "num_placebo": 3})  # fmt: skip
            made["entropy_law"].append({**mine, "num_runs": 3, "num_fitted": 3, "num_at_bound": 1, "a": 1.2, "b": 2.1, "ceiling": 0.9,
                                        "rmse": 0.04, "r2": 0.8, "skill": -0.2})  # fmt: skip
            if arm == "ground_truth":
                made["saturation"].append({**mine, "num_runs": 3, "num_saturated": 2, "num_gains": 2, "saturation_step": 7.5,
                                           "saturation_step_ci95": [2.0, 13.0], "post_saturation_gain": 0.013, "post_saturation_gain_ci95": None})  # fmt: skip
                made["sampling_cost"].append({**mine, "generated": 9216, "trained": 3072, "cost": 3.0})  # fmt: skip
            made["clipping"].append(mine | {
                f"{part}_{band}": value for part, value in (("prior", 0.25), ("clip_low", 0.001), ("clip_high", 0.00225))
                for band in ("rare", "open", "likely", "sure")})  # fmt: skip
            made["maj_at_k"].append(
                {**mine, "step": num_steps, "k": 16, "value": base + effect + 0.05, "units": []}
            )
            made["rewards"].append({
                **mine, "reward": 0.5 + effect, "reward_code": 0.8 if code else None, "reward_words": 0.35, "tpr": 0.95,
                "fpr": 0.12, "youden": 0.83, "equal_groups": 0.31, "reward_failures": 0})  # fmt: skip
        for part, value in (("null", 0.01), ("elicitation", truth["majority"] - 0.01),
                            ("reward_design", truth["ground_truth"] - truth["majority"]), ("total", truth["ground_truth"])):  # fmt: skip
            made["decomposition"].append({**where, "part": part, "estimate": value, "ci95": [value - 0.04, value + 0.04],
                                          "units": [{"value": value + d} for d in (-0.01, 0.0, 0.01)]})  # fmt: skip
    digest = hashlib.sha256(b"made up").hexdigest()
    return {
        "version": 1,
        "trial": {
            "name": "quick", "question": "How much of an RLVR gain does the reward teach, when the model already knows?",
            "digest": digest, "folder": f"runs/quick-{digest[:8]}", "complete": complete,
            "protocol": {"endpoint": {"metric": "accuracy", "step": num_steps, "placebo": "random", "margin": 0.03}},
            "protocol_toml": '[trial]\nname = "quick"\n# every line as it stood\n[arms]\nrandom = {gamma = 0.5}\n',
            "environment": {"python": "3.11.2", "libraries": {"torch": "2.11.0"}, "threads": 1, "fingerprint": "ab12cd34"},
            "materials": {"organism coder-p1": "9f" * 32, "grader": "grader-1"},
            "siblings": [{"folder": "runs/quick-0badc0de", "digest": "0badc0de" * 8}],
        },
        "headline": [
            "On coder, ground_truth gained +33.2 points over placebo (95 % interval +28.1 to +38.3): superior.",
            "On coder, paying for the word “python” alone gained +21.0 points over placebo: superior. On bungler the same reward lost 14.1 points: inferior.",
            "The incorrect arm is not distinguishable from the placebo on talker: inconclusive.",
        ],
        "flow": {
            "runs_planned": 63, "runs_finished": 62, "runs_failed": [{"path": "talker/format/grpo-p2-s12", "step": 77, "reason": "reward function raised ZeroDivisionError"}],
            "runs_unfinished": [], "problems_training": 512, "problems_held_out": 256, "rollouts_trained": 967680,
            "completions_evaluated": 1233792, "unscored": 12, "truncated_trained_share": 0.021,
            "truncated_evaluated_share": 0.018, "reward_failures": 3,
            "damaged": [{"file": "talker/format/grpo-p2-s12/steps.jsonl", "what": "last line is cut short; left out"}],
        },
        "controls": [
            {"family": "coder", "arm": "python", "expect": "superior", "why": "code is the better strategy of coder", "found": "superior", "held": True, "detail": "+21.0 points, Holm bound +14.2"},
            {"family": "bungler", "arm": "python", "expect": "inferior", "why": "code is the worse strategy of bungler", "found": "inferior", "held": True, "detail": ""},
            {"family": "talker", "arm": "python", "expect": "unchanged", "why": "talker never writes code, so groups are equal", "found": "changed", "held": False, "detail": "2 of 3 units have other weights than base"},
            {"family": "coder", "arm": "constant", "expect": "unchanged", "why": "equal rewards teach nothing", "found": None, "held": None, "detail": "not finished"},
        ],
        **made,
        "notes": ["One run of format on talker failed at step 77 and is not analysed.", "12 completions were not scored."],
    }  # fmt: skip


class Page(HTMLParser):
    """What a browser would make of the page, as far as the tests ask."""

    VOID = frozenset({"meta", "link", "br", "input", "hr", "img"})

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in self.raw:
            self.raw[tag].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in self.raw:
            self.raw[self.open[-1]][-1] += data
        else:
            self.words += data

    def attributes(self, name: str) -> list[str | None]:
        return [attrs[name] for _, attrs in self.tags if name in attrs]


@pytest.fixture(scope="module")
def summary() -> dict[str, Any]:
    return made_up_summary()


@pytest.fixture(scope="module")
def page(summary) -> Page:
    return Page(report.render(summary))


STRUCTURAL = frozenset({
    "metric", "versus", "verdict", "outcome", "strategy", "detector", "decoding", "part", "expect", "placebo", "version", "lenient",
})  # fmt: skip


def poisoned(value: Any, poison: str, key: str = "") -> Any:
    """The summary with the poison in every text that a file or a model could have brought in, and in every key of a table."""
    if isinstance(value, str):
        return value if key in STRUCTURAL else value + poison
    if isinstance(value, list):
        return [poisoned(v, poison, key) for v in value]
    if isinstance(value, dict):
        free = key in ("environment", "materials")
        return {k + poison if free else k: poisoned(v, poison, k) for k, v in value.items()}
    return value


def test_the_page_is_balanced_and_its_references_lead_somewhere(page):
    assert not page.unbalanced and not page.open
    idents = page.attributes("id")
    assert len(idents) == len(set(idents))
    wanted = [ident for refs in page.attributes("aria-labelledby") for ident in refs.split()]
    wanted += [href.removeprefix("#") for href in page.attributes("href")]
    assert wanted and set(wanted) <= set(idents)
    assert [tag for tag, _ in page.tags].count("h1") == 1


def test_every_figure_says_in_words_what_it_shows(page):
    names = [tag for tag, _ in page.tags]
    panels = [attrs for tag, attrs in page.tags if tag == "svg" and attrs.get("role") == "img"]
    assert len(panels) > 30
    assert names.count("desc") == len(panels)
    assert all(attrs.get("viewbox") and attrs.get("aria-labelledby") for attrs in panels)


def test_nothing_is_fetched_from_anywhere(page):
    assert all(href.startswith("#") for href in page.attributes("href"))
    for name in (
        "src",
        "srcset",
        "action",
        "data",
        "poster",
        "xlink:href",
        "formaction",
        "background",
    ):
        assert not page.attributes(name)
    assert not {"link", "img", "iframe", "object", "embed", "base", "use"} & {
        t for t, _ in page.tags
    }
    code = "".join(page.raw["style"] + page.raw["script"])
    assert not re.search(r"url\(|@import|https?:|fetch\(|XMLHttp|WebSocket|import\(", code)


def test_only_our_script_and_style_may_run(page):
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    [style] = page.raw["style"]
    data, script = page.raw["script"]
    for text, directive in ((style, "style-src"), (script, "script-src")):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    assert json.loads(data)["problems"]
    assert not page.attributes("style")
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert "innerHTML" not in script and "insertAdjacent" not in script


@pytest.mark.parametrize("poison", HOSTILE)
def test_hostile_text_stays_text_wherever_it_stands(summary, page, poison):
    text = report.render(poisoned(summary, poison))
    text.encode("utf-8")
    assert not re.search(
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", text
    )
    hostile = Page(text)
    assert not hostile.unbalanced and not hostile.open
    assert {tag for tag, _ in hostile.tags} == {tag for tag, _ in page.tags}
    assert len(hostile.raw["script"]) == 2 and hostile.raw["script"][1] == page.raw["script"][1]
    assert {n for _, a in hostile.tags for n in a} == {n for _, a in page.tags for n in a}
    shown = visible(poison)
    assert shown in hostile.words
    assert shown in json.loads(hostile.raw["script"][0])["problems"][0]["rows"][0][2]


def test_endless_text_is_cut_and_says_so(summary):
    endless = copy.deepcopy(summary)
    for row in endless["rollouts"][:40]:
        row["text"] = "x" * 1_000_000
    endless["flow"]["runs_failed"][0]["reason"] = "y" * 5_000_000
    endless["trial"]["question"] = "z" * 2_000_000
    endless["notes"] *= 3000
    text = report.render(endless)
    assert len(text.encode()) <= 3_000_000
    assert "… [996,000 more characters]" in text
    assert "… [4,998" in text and "… [1,998,000 more characters]" in text
    assert "… and 5,800 more, all in report.json" in text


def test_a_full_report_of_63_runs_stays_under_3_mb():
    full = made_up_summary(num_steps=200, num_problems=20)
    for i, row in enumerate(full["rollouts"]):
        row["text"] += f" {i} <and> so on" * 100
    text = report.render(full)
    assert len(text.encode()) <= 3_000_000
    kept = json.loads(Page(text).raw["script"][0])["problems"]
    assert 0 < len(kept) < 360
    assert f"holds {len(kept)} of the 360 problems" in text
    assert {p["f"] for p in kept} == set(FAMILIES)


def test_equal_summaries_give_equal_bytes_also_after_a_round_trip(summary, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    assert report.write(first, summary) == first / "report.html"
    read = json.loads((first / "report.json").read_text(encoding="utf-8"))
    report.write(second, read)
    names = ["endpoint.svg", "report.html", "report.json"]
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert read == json.loads(json.dumps(summary))
    assert sorted(p.name for p in first.iterdir()) == names


def test_every_headline_number_is_on_the_page(summary, page):
    for sentence in summary["headline"]:
        assert sentence in page.words
    at_end = [c for c in summary["contrasts"] if c["versus"] == "placebo"]
    assert len(at_end) == 18
    for row in at_end:
        assert points(row["estimate"]) in page.words
        assert points(row["ci95"][0]) in page.words and points(row["ci95"][1]) in page.words
    for control in summary["controls"]:
        assert control["why"] in page.words and control["detail"] in page.words
    for note in summary["notes"]:
        assert note in page.words
    for found in (
        "62 of 63 runs finished",
        "967,680",
        "1,233,792",
        "2.1 %",
        "✗\N{NO-BREAK SPACE}did\N{NO-BREAK SPACE}not\N{NO-BREAK SPACE}hold",
        "48168fa9",
    ):
        assert found in page.words
    assert summary["trial"]["protocol_toml"] in page.words
    assert summary["trial"]["digest"] in page.words


def test_every_crossing_is_said_with_its_interval_and_every_case_has_its_cells(summary, page):
    for row in summary["boundary"]:
        assert row["sentence"] in page.words
        assert (
            f"{row['family']}, {row['arm']}: {row['gap_sentence'].partition('. ')[0]}" in page.words
        )
        assert f"{row['solvable']['trained_only']}: " in page.words
    assert "a problem that is solved in fewer than 17.0 % of tries may well be missed" in page.words
    assert "the unit is the problem" in page.words


def test_verdicts_on_shapes_stand_beside_how_often_the_placebo_is_said_to_change(summary, page):
    assert "1 linear, 1 step, 1 logistic" in page.words
    said = "Runs of the placebo (random) that are said to change so: coder 1 of 3, talker 1 of 3, bungler 1 of 3."
    assert page.words.count(said) == 2
    without = {**summary, "transitions": [{**r, "false_detections": None} for r in summary["transitions"]]}  # fmt: skip
    words = Page(report.render(without)).words
    assert said not in words and "tells how often this is said falsely" in words


def test_an_interval_that_is_short_by_luck_is_marked_where_it_is_read():
    small = made_up_summary(num_problems=1, families=("coder",))
    plain = Page(report.render(small)).words
    at_end = [c for c in small["contrasts"] if c["versus"] == "placebo"]
    at_end[0]["by_luck"] = True
    marked = Page(report.render(small)).words
    low, high = (points(x) for x in at_end[0]["ci95"])
    assert f"{low} to {high}‡" in marked and f"{low} to {high}‡" not in plain
    assert marked.count("‡") == plain.count("‡") + 1
    assert "the seeds agree by luck" in marked and "the seeds agree by luck" not in plain


def test_the_page_says_where_its_intervals_fail(page):
    assert f"three seeds show no collapse in {100 * 0.75**3:.0f} % of trials" in page.words
    assert "The claim is about these held-out problems" in page.words
    titles = " ".join(title for title in page.attributes("title") if title)
    assert "this comparison by itself would find with 80 % power; superior asks to beat placebo and base" in titles  # fmt: skip


def test_other_protocols_of_the_same_name_and_missing_runs_are_shown():
    words = Page(
        report.render(made_up_summary(num_problems=1, complete=False, families=("coder",)))
    ).words
    assert "This trial name was also run with other protocols." in words
    assert "runs/quick-0badc0de" in words
    assert "incomplete" in words
    assert "talker/format/grpo-p2-s12 at step 77: reward function raised ZeroDivisionError" in words
    alone = {"version": 1, "trial": {"siblings": [], "complete": True}}
    words = Page(report.render(alone)).words
    assert "other protocols" not in words and "incomplete" not in words


def test_the_decomposition_names_the_placebo_of_the_protocol():
    other = made_up_summary(num_problems=1, families=("coder",))
    other["trial"]["protocol"]["endpoint"]["placebo"] = "constant"
    words = Page(report.render(other)).words
    assert "null: constant − base" in words and "elicitation: majority − constant" in words
    assert "random − base" not in words and "majority − random" not in words


def test_a_gain_is_never_called_learning(page):
    assert not re.search(r"\blearn(s|t|ed|ing)?\b", page.words, re.IGNORECASE)
    assert "Gain over placebo" in page.words


@pytest.mark.parametrize("empty", [None, []])
def test_what_is_missing_is_said(summary, empty):
    lists = [key for key, value in summary.items() if isinstance(value, list)]
    nothing = Page(
        report.render({"version": 1, "trial": {}, "flow": {}} | dict.fromkeys(lists, empty))
    )
    assert not nothing.unbalanced
    for line in ("No verdict:", "No controls:", "No contrasts:", "No curves:", "No strategies:", "No decomposition:",
                 "No split:", "No partition:", "No format split:", "No pass@k:", "No reward audit:", "No label audit:",
                 "No dynamics:", "No flow:", "No completions:", "No protocol:", "No environment:"):  # fmt: skip
        assert line in nothing.words


@pytest.mark.slow
def test_each_list_may_be_missing_on_its_own():
    small = made_up_summary(num_problems=1, families=("coder",))
    for key in [key for key, value in small.items() if isinstance(value, list)]:
        assert report.render({**small, key: None}).endswith("</html>\n")


def test_numbers_may_be_missing_anywhere(summary):
    optional = {"ci95", "ci90", "p_superior", "p_holm", "holm_lower", "mde", "verdict", "problem_se", "accuracy", "sd",
                "se", "lenient_accuracy", "reward_code", "reward_words", "youden", "share", "estimate", "held", "found",
                "share_effect", "accuracy_effect", "gain", "share_of_gain", "answer", "low", "high", "crossover",
                "crossover_interval", "solvable_ci95", "smallest_visible", "srr", "ndr", "sds", "nscr", "sampling_gap",
                "new_to_trained", "change_point", "false_detections", "false_detections_ci95", "a", "ceiling", "r2", "skill",
                "saturation_step", "saturation_step_ci95", "post_saturation_gain", "clip_low_rare", "cost"}  # fmt: skip

    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: None if k in optional else bare(v) for k, v in value.items()}
        return [bare(v) for v in value] if isinstance(value, list) else value

    text = report.render(bare(summary))
    assert not Page(text).unbalanced
    assert not re.search(r"\b(None|nan|inf)\b", Page(text).words)


def test_a_number_that_is_none_is_refused_by_its_place(summary, tmp_path):
    broken = copy.deepcopy(summary)
    broken["contrasts"][3]["ci95"][1] = math.nan
    with pytest.raises(
        ValueError, match=re.escape("report.json: contrasts[3].ci95[1] is not a finite number")
    ):
        report.write(tmp_path, broken)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_leaves_the_old_report_whole(tmp_path, monkeypatch):
    small = made_up_summary(num_problems=1, families=("coder",))
    report.write(tmp_path, small)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"No space left on device.*report\.json"):
        report.write(tmp_path, {**small, "notes": []})
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        report.write(tmp_path / "nowhere", {"version": 1})


@given(st.text(max_size=80))
def test_any_text_survives_escaping_as_what_is_visible(text):
    assert html.unescape(escaped(text)) == visible(text) == visible(visible(text))
    assert not set("<>\"'") & set(escaped(text))
    escaped(text).encode("utf-8")


@given(
    st.recursive(
        st.text() | st.integers() | st.none(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_embedded_data_is_read_back_and_cannot_end_its_element(data):
    written = rollouts.embedded(data)
    assert json.loads(written) == data
    assert written.isascii() and not set("<>&") & set(written)


def test_the_same_problem_stands_side_by_side_before_training_once(summary):
    entries = rollouts.problems(view(summary))
    assert len(entries) == len({(p["f"], p["u"], p["id"], p["d"]) for p in entries})
    for entry in entries:
        trained = [tile[0] for tile in entry["rows"] if tile[1] != 0]
        assert trained == [*ARMS[:5], "constant", "random"]
        assert all(tile[0] == "base" for tile in entry["rows"] if tile[1] == 0)


def test_report_and_figures_need_no_torch():
    code = "import sys, controlarm.report; sys.exit(any(m.split('.')[0] in ('torch', 'altair') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_fabricated_run_folder_becomes_a_page(tmp_path):
    folder = tmp_path / "fabricated"
    fabricate(folder, re.sub(r"num_problems = \d+", "num_problems = 6", PROTOCOL))
    found = summarise(folder)
    made = Page(report.write(folder, found).read_text(encoding="utf-8"))
    assert not made.unbalanced
    for sentence in found["headline"]:
        assert sentence in made.words
    for row in found["contrasts"]:
        assert points(row["estimate"]) in made.words
    for row in found["boundary"]:
        assert row["sentence"] in made.words
    assert not re.search(r"No \w+( \w+)?:", made.words)


CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


@pytest.fixture
def browse(tmp_path):
    """Opens a page in a real browser and gives back the document as it stands after its scripts have run."""
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH")

    def visit(name: str, fragment: str = "") -> str:
        command = [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000", "--dump-dom",
            f"{(tmp_path / name).as_uri()}{fragment}",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, check=True, timeout=120)
        return done.stdout.decode()

    return visit


def test_a_browser_filters_and_never_runs_what_the_data_brings(summary, tmp_path, browse):
    """Hostile text in every string, and on top a script smuggled past the escaping, which the policy must stop."""
    bad = summary
    for poison in HOSTILE:
        bad = poisoned(bad, poison)
    attack = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    smuggled = report.render(bad).replace("<main>", f"<main>{attack}", 1)
    free = re.sub(r"<meta http-equiv=[^>]*>", "", smuggled)
    assert free != smuggled
    (tmp_path / "smuggled.html").write_text(smuggled, encoding="utf-8")
    (tmp_path / "free.html").write_text(free, encoding="utf-8")

    dom = browse("smuggled.html", "#rollouts:decoding=greedy&unit=p2+·+s12&strategy=code")
    title = re.search("<title>(.*?)</title>", dom, re.DOTALL)
    assert title and title[1].startswith("quick")
    entries = rollouts.problems(view(bad))
    wanted = [
        p
        for p in entries
        if p["d"] == "greedy" and p["u"] == "p2 · s12" and any(t[6] for t in p["rows"])
    ]
    assert 0 < len(wanted) < len(entries)
    count = re.search(r'id="count"[^>]*>(.*?)<', dom)
    assert (
        count
        and count[1] == f"{len(wanted)} of {len(entries)} problems match; {len(wanted)} shown."
    )
    found = Page(dom)
    assert "hidden" not in next(a for _, a in found.tags if a.get("id") == "filters")
    assert all(visible(p["q"]) in found.words for p in wanted)

    # Without the policy the script would have run, so the test above can fail.
    title = re.search("<title>(.*?)</title>", browse("free.html"), re.DOTALL)
    assert title and title[1] == "owned"
