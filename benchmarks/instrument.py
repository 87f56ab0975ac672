"""Do verdicts, intervals and minimum detectable effects do what they promise? Measured on real runs and on simulated ones.

    python benchmarks/instrument.py --keep runs/a_a-…   what the study needs of the A/A trial, as records/a_a-…
    python benchmarks/instrument.py                     the study, about two minutes on one core
    python benchmarks/instrument.py --quick             does everything work; its rates mean little
    python benchmarks/instrument.py --write             also keep it as benchmarks/results/instrument.json

Real runs: two replicates of one random reward, so every difference between them is false. Simulated ones
(`planted`): known effects, noise as the record has it. Both go through the report's own estimates and verdicts.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import stats

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import planted  # noqa: E402  the repository need not be on Python's path
from benchmarks.planted import Graded, Noise, World  # noqa: E402
from controlarm import protocol, seeds  # noqa: E402
from controlarm.analysis import contrasts  # noqa: E402
from controlarm.analysis.contrasts import Estimate, UnitDifference  # noqa: E402
from controlarm.analysis.folder import BASE, RIGHT, UNKNOWN, read_trial  # noqa: E402
from controlarm.protocol import Protocol, Unit  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "instrument.json"

SIZES = (3, 5, 8)
"""Units of a comparison."""

WIDE = 0.03
"""Standard deviation of a unit difference where runs scatter more than the record's."""
COLLAPSE = 0.20
"""Accuracy that one run in four loses in the collapsing world; the first organisms lost as much under coin flips (LOG.md)."""
SPREAD = 0.12
"""Standard deviation over problems of an effect that differs between them: what ground truth's gain on coder has in the quick record."""

Family = dict[str, Graded]
"""Arm → its graded samples; ``base`` among them."""


# What is kept of a run folder.

KEPT = "verdicts.parquet"
MARK = {RIGHT: "1", UNKNOWN: "?"}
"""One character a sample; every other verdict is 0."""


def keep(folder: Path, root: Path) -> Path:
    """Protocol, plan, environment, and one character a graded sample, in a folder of the same name under ``root``."""
    trial = read_trial(folder)
    end = trial.protocol.endpoint.step
    rows: list[dict[str, Any]] = []
    for family, recipe, arm in product(
        trial.protocol.design.families, trial.protocol.recipes, (BASE, *trial.protocol.arms)
    ):
        for unit, evaluation in trial.cell(family, recipe, arm, 0 if arm == BASE else end).items():
            head = {"family": family, "pretraining_seed": unit.pretraining_seed, "seed": unit.seed, "arm": arm}  # fmt: skip
            rows += [
                head | {"problem_id": problem, "verdicts": "".join(MARK.get(int(v), "0") for v in verdicts)}
                for problem, verdicts in zip(evaluation.problem_ids, evaluation.sampled.strict, strict=True)
            ]  # fmt: skip
    target = root / folder.resolve().name
    target.mkdir(parents=True, exist_ok=True)
    for name in ("protocol.toml", "plan.json", "environment.json"):
        shutil.copy(folder / name, target / name)
    pq.write_table(pa.Table.from_pylist(rows), target / KEPT, compression="zstd")
    return target


def read_kept(record: Path) -> dict[str, Family]:
    """Family → arm → unit → samples, from what ``keep`` wrote."""
    table = pq.read_table(record / KEPT)
    values = {"1": 1.0, "0": 0.0, "?": np.nan}
    keys = [table[name].to_pylist() for name in ("family", "arm", "pretraining_seed", "seed")]
    grids: dict[tuple[str, str, Unit], list[list[float]]] = {}
    for family, arm, model, seed, verdicts in zip(*keys, table["verdicts"].to_pylist(), strict=True):  # fmt: skip
        row = [values[mark] for mark in verdicts]
        grids.setdefault((family, arm, Unit(model, seed)), []).append(row)
    found: dict[str, dict[str, dict[Unit, np.ndarray]]] = {}
    for (family, arm, unit), grid in grids.items():
        found.setdefault(family, {}).setdefault(arm, {})[unit] = np.array(grid)
    return {family: dict(arms) for family, arms in found.items()}


# One trial's answer, as the report makes it.


class Judged(NamedTuple):
    """One comparison."""

    placebo: Estimate
    base: Estimate
    outcome: str
    sampling_se: float
    problem_se: float


def judge(
    placebo: Sequence[UnitDifference], base: Sequence[UnitDifference], alpha: float, margin: float,
    shift: float = 0.0,
) -> Judged:  # fmt: skip
    """Estimates and verdict of one arm, alone in its family of tests; ``shift`` is added to every difference."""
    over, raw = (
        contrasts.over_units({d.unit: d.difference + shift for d in differences})
        for differences in (placebo, base)
    )
    p = contrasts.intersection_union(contrasts.p_superior(over), contrasts.p_superior(raw))
    outcome, _ = contrasts.verdict(over, p, alpha, margin)
    sampling, problem = (
        planted.root_mean_square([d.sampling_se for d in placebo]),
        planted.root_mean_square([d.problem_se for d in placebo]),
    )
    return Judged(over, raw, outcome, sampling, problem)


def rate(count: int, trials: int) -> dict[str, Any]:
    """A share with its standard error, and its exact 95 % interval (Clopper and Pearson 1934)."""
    if trials == 0:
        return {"count": 0, "of": 0, "rate": None, "se": None, "ci95": None}
    count = int(count)  # numpy's is nothing that JSON knows
    share = count / trials
    exact = stats.binomtest(count, trials).proportion_ci(0.95, "exact")
    return {"count": count, "of": trials, "rate": share, "se": float(np.sqrt(share * (1 - share) / trials)),
            "ci95": [float(exact.low), float(exact.high)]}  # fmt: skip


def rates(judged: Sequence[Judged], truth: float, alpha: float, margin: float) -> dict[str, Any]:
    """How often each thing happened, the true mean difference being ``truth``."""

    def share(happened: Iterable[bool]) -> dict[str, Any]:
        return rate(sum(happened), len(judged))

    def covers(e: Estimate) -> bool:
        low, high = contrasts.t_interval(e, 0.95)
        return low <= truth <= high

    def within(e: Estimate) -> bool:
        """Equivalent, were the base not beaten: otherwise superior comes first."""
        return contrasts.verdict(e, 1.0, alpha, margin)[0] == "equivalent"

    outcomes = [j.outcome for j in judged]
    return {
        "covered": share(covers(j.placebo) for j in judged),
        "above_placebo": share(contrasts.p_superior(j.placebo) < alpha for j in judged),
        "within_margin": share(within(j.placebo) for j in judged),
        **{name: share(o == name for o in outcomes)
           for name in ("superior", "inferior", "equivalent", "inconclusive")},
    }  # fmt: skip


# Real runs.

Group = list[Unit]


def designs(units: Sequence[Unit]) -> dict[str, list[Group]]:
    """Disjoint comparisons of each kind that the report knows: a unit of each model, several of one, several of each.

    No two models of a comparison share a training seed, as in a paired trial.
    """
    models = sorted({u.pretraining_seed for u in units})
    of_model = {m: [u for u in units if u.pretraining_seed == m] for m in models}
    offset = {m: i * len(of_model[m]) // len(models) for i, m in enumerate(models)}
    turned = {m: of_model[m][offset[m] :] + of_model[m][: offset[m]] for m in models}
    columns = [list(column) for column in zip(*turned.values(), strict=False)]
    found = {f"one unit of each of {len(models)} models": columns}
    for size in SIZES[1:]:
        found[f"{size} units of one model"] = [
            g for m in models for g in _chunks(of_model[m], size)
        ]
    found[f"3 units of each of {len(models)} models"] = [
        [unit for column in three for unit in column] for three in _chunks(columns, 3)
    ]
    return found


def _chunks(values: Sequence[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(values) - size + 1, size):
        yield list(values[start : start + size])


class Pairs(NamedTuple):
    """One family's differences, arm from placebo and arm from base, by unit."""

    placebo: dict[Unit, UnitDifference]
    base: dict[Unit, UnitDifference]

    def judge(self, group: Group, trial: Protocol, shift: float = 0.0) -> Judged:
        """The comparison of these units."""
        placebo, base = [self.placebo[u] for u in group], [self.base[u] for u in group]
        return judge(placebo, base, trial.endpoint.alpha, trial.endpoint.margin, shift)


def pairs(family: Family, arm: str, placebo: str) -> Pairs:
    """Paired by unit."""
    return Pairs(*(
        {d.unit: d for d in contrasts.unit_differences(family[arm], family[other])} for other in (placebo, BASE)
    ))  # fmt: skip


REGROUPED = 50


def null_study(found: Mapping[str, Pairs], trial: Protocol) -> list[dict[str, Any]]:
    """Replicates against each other, all families together: as they are, with the margin added, with the detectable effect added."""
    end = trial.endpoint
    rows = []
    shuffled: dict[str, list[Judged]] = {}
    for i, p in product(range(REGROUPED), found.values()):
        order = seeds.generator("regrouped", i).permutation(len(p.placebo))
        units = sorted(p.placebo)
        for kind, groups in designs([units[k] for k in order]).items():
            shuffled.setdefault(kind, []).extend(p.judge(g, trial) for g in groups)
    for kind in shuffled:
        plain, at_margin, at_mde = [], [], []
        for p in found.values():
            sd = float(np.std([d.difference for d in p.placebo.values()], ddof=1))
            for group in designs(sorted(p.placebo))[kind]:
                plain.append(p.judge(group, trial))
                at_margin.append(p.judge(group, trial, end.margin))
                models = {u.pretraining_seed for u in group}
                top = len(models) if len(models) > 1 else len(group)
                effect = contrasts.mde(sd * np.sqrt(top / len(group)), top, end.alpha)
                at_mde.append(p.judge(group, trial, effect))
        again = rates(shuffled[kind], 0.0, end.alpha, end.margin)
        rows.append({
            "design": kind, "comparisons": len(plain), "null": rates(plain, 0.0, end.alpha, end.margin),
            "regrouped": {name: {"rate": again[name]["rate"], "se": None} for name in again},
            "at_margin": rates(at_margin, end.margin, end.alpha, end.margin),
            "power_at_mde": rate(sum(contrasts.p_superior(j.placebo) < end.alpha for j in at_mde), len(at_mde)),
        })  # fmt: skip
    return rows


def spread_of(differences: Iterable[float]) -> dict[str, Any]:
    """Standard deviation with its 95 % interval, from chi-square; mean and shape."""
    values = np.array(list(differences))
    sd, df = float(np.std(values, ddof=1)), len(values) - 1
    low, high = (float(sd * np.sqrt(df / stats.chi2.ppf(q, df))) for q in (0.975, 0.025))
    return {"units": len(values), "mean": float(values.mean()), "se": sd / float(np.sqrt(len(values))), "sd": sd,
            "sd_ci95": [low, high], "skewness": float(stats.skew(values)), "excess_kurtosis": float(stats.kurtosis(values))}  # fmt: skip


def noise_study(found: Mapping[str, Pairs], measured: Mapping[str, Noise]) -> dict[str, Any]:
    """How much two replicates differ, by family, and whether families that share seeds differ together."""
    rows = {
        family: spread_of(d.difference for d in p.placebo.values())
        | {
            name: value
            for name, value in measured[family]._asdict().items()
            if name not in ("share", "sd")
        }
        for family, p in found.items()
    }
    together = {}
    for i, j in ((i, j) for i in found for j in found if i < j):
        units = sorted(found[i].placebo.keys() & found[j].placebo.keys())
        values = np.array([[found[f].placebo[u].difference for u in units] for f in (i, j)])
        one, two = values - values.mean(axis=1, keepdims=True)
        together[f"{i}, {j}"] = float(one @ two / np.sqrt((one @ one) * (two @ two)))
    return {"families": rows, "correlation": together}


def planning_study(measured: Mapping[str, Noise], trials: Path) -> list[dict[str, Any]]:
    """The detectable effect that `controlarm check` prints for each trial, beside the one that the replicates' spread gives."""
    rows = []
    for path in sorted(trials.glob("*.toml")):
        trial = protocol.load(path)
        known = [measured[f].sd for f in trial.design.families if f in measured]
        if not known:
            continue
        compared = len(trial.endpoint.primary) * len(trial.recipes)
        units, alpha = len(set(trial.design.pretraining_seeds)), trial.endpoint.alpha
        rows.append({
            "trial": trial.trial.name, "planning_sd": trial.endpoint.planning_sd, "replicates_sd": max(known),
            "mde": contrasts.mde(trial.endpoint.planning_sd, units, alpha, compared),
            "replicates_mde": contrasts.mde(max(known), units, alpha, compared),
        })  # fmt: skip
    return rows


# Simulated runs.


def worlds(found: Noise) -> dict[str, World]:
    """Where effects are planted, from the kindest on."""
    return {
        "as measured": planted.as_measured(found),
        "seeds scatter, normal": planted.wide(found, WIDE, "normal"),
        "seeds scatter, skewed": planted.wide(found, WIDE, "skewed"),
        "seeds scatter, heavy tails": planted.wide(found, WIDE, "heavy"),
        "one seed in four collapses": planted.collapsing(found, COLLAPSE),
        "other problems each time": planted.varying(found, SPREAD),
    }


def planted_study(found: Noise, trial: Protocol, num_comparisons: int) -> list[dict[str, Any]]:
    """Every world, with no effect, with the margin as effect, and with the effect said to be detectable."""
    end = trial.endpoint
    rows = []
    for (name, world), size in product(worlds(found).items(), SIZES):
        effects = {"none": 0.0, "margin": end.margin}
        for kind in ("none", "margin", "detectable"):
            effect = effects[kind]
            logit = planted.planted(world, effect)
            rng = seeds.generator("instrument", name, size, kind)
            made = planted.simulate(world, logit, size, num_comparisons, rng)
            judged = [judge(p, b, end.alpha, end.margin) for p, b in zip(*made, strict=True)]
            sd = float(np.sqrt(np.mean([j.placebo.sd**2 for j in judged])))
            if kind == "none":
                effects["detectable"] = contrasts.mde(sd, size, end.alpha)
            rows.append(
                {"world": name, "units": size, "effect": kind, "truth": effect, "sd": sd,
                 "mean": float(np.mean([j.placebo.mean for j in judged]))}
                | rates(judged, effect, end.alpha, end.margin) | {"rules": rules(judged, effect, end.alpha)}
            )  # fmt: skip
    return rows


def rules(judged: Sequence[Judged], truth: float, alpha: float) -> dict[str, Any]:
    """The t interval against wider ones, whose spread is at least what samples, or problems, make of it by themselves."""
    mean, sd, sampling, problem = np.array(
        [(j.placebo.mean, j.placebo.sd, j.sampling_se, j.problem_se) for j in judged]
    ).T
    units = judged[0].placebo.num_units
    t, z = stats.t.isf(0.025, units - 1), stats.t.isf(alpha, units - 1)
    found = {}
    for name, spread in (
        ("t", sd), ("floor: samples", np.maximum(sd, sampling)), ("floor: problems", np.maximum(sd, problem)),
    ):  # fmt: skip
        error = spread / np.sqrt(units)
        missed = int((np.abs(mean - truth) > t * error).sum())
        found[name] = {
            "covered": rate(len(mean) - missed, len(mean)),
            "above_placebo": rate(int((mean > z * error).sum()), len(mean)),
        }
    lucky = contrasts.by_luck(sd, sampling, units)
    inside = np.abs(mean - truth) <= t * sd / np.sqrt(units)
    found["t, where the spread is small by luck"] = {
        "covered": rate(int(inside[lucky].sum()), int(lucky.sum())),
        "share": rate(int(lucky.sum()), len(mean)),
    }
    return found


# The whole.


def study(
    source: Path, num_comparisons: int, arm: str, placebo: str, planted_in: str
) -> dict[str, Any]:
    """Everything, from a record of replicates."""
    trial = protocol.load(source / "protocol.toml")
    families = read_kept(source)
    found = {name: pairs(family, arm, placebo) for name, family in families.items()}
    measured = {
        name: planted.noise(list(found[name].placebo.values()), family[BASE])
        for name, family in families.items()
    }
    return {
        "source": source.name, "alpha": trial.endpoint.alpha, "margin": trial.endpoint.margin,
        "noise": noise_study(found, measured),
        "planning": planning_study(measured, ROOT / "trials"),
        "replicates": null_study(found, trial),
        "planted_in": planted_in,
        "planted": planted_study(measured[planted_in], trial, num_comparisons),
    }  # fmt: skip


def _percent(found: Mapping[str, Any]) -> str:
    if found["rate"] is None:
        return "–"
    error = "" if found["se"] is None else f" ±{100 * found['se']:4.1f}"
    return f"{100 * found['rate']:5.1f}{error}"


NAMES = ("covered", "above_placebo", "superior", "inferior", "within_margin", "equivalent")


def _row(head: str, cells: Iterable[str]) -> None:
    print(f"{head:52}" + "".join(f"{cell:>15}" for cell in cells))


def show(found: Mapping[str, Any]) -> None:
    """The study as tables; rates in per cent with their standard errors."""
    print(
        f"Replicates of {found['source']}; alpha {found['alpha']:g}, margin {found['margin']:g}\n"
    )
    for family, n in found["noise"]["families"].items():
        low, high = n["sd_ci95"]
        print(
            f"{family}: {n['units']} pairs, mean {100 * n['mean']:.2f} ±{100 * n['se']:.2f}, "
            f"SD {100 * n['sd']:.2f} ({100 * low:.2f} to {100 * high:.2f}) points, of which samples "
            f"{100 * n['sampling_se']:.2f}, samples and problems {100 * n['problem_se']:.2f}; "
            f"skewness {n['skewness']:.2f}, excess kurtosis {n['excess_kurtosis']:.2f}"
        )
    print("correlation between families:", found["noise"]["correlation"])
    for row in found["planning"]:
        print(
            f"{row['trial']}: planning_sd {row['planning_sd']:g}: {100 * row['mde']:.1f} points detectable; "
            f"the replicates' SD is {row['replicates_sd']:.4f}: {100 * row['replicates_mde']:.1f}"
        )
    print()
    _row("no difference", (*NAMES, "power at MDE"))
    for row in found["replicates"]:
        cells = [_percent(row["null"][name]) for name in NAMES]
        _row(f"{row['design']} ({row['comparisons']})", (*cells, _percent(row["power_at_mde"])))
        _row("  in other groups", (_percent(row["regrouped"][name]) for name in NAMES))
        _row("  the margin added", (_percent(row["at_margin"][name]) for name in NAMES))
    print()
    _row(f"planted in {found['planted_in']}", NAMES)
    for row in found["planted"]:
        head = f"{row['world']}, {row['units']} units, {row['effect']} {100 * row['truth']:.2f}"
        _row(head, (_percent(row[name]) for name in NAMES))
    print()
    rules = ("t", "floor: samples", "floor: problems")
    _row("covered, then found", (*rules, *rules, "by luck"))
    for row in found["planted"]:
        each = row["rules"]
        cells = [each[name]["covered"] for name in rules]
        cells += [each[name]["above_placebo"] for name in rules]
        cells.append(each["t, where the spread is small by luck"]["covered"])
        head = f"{row['world']}, {row['units']} units, {row['effect']}"
        _row(head, map(_percent, cells))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--keep", type=Path, help="a run folder to make a record of, instead of the study"
    )
    parser.add_argument("--records", type=Path, default=ROOT / "records", help="where records are")
    parser.add_argument("--quick", action="store_true", help="few simulated comparisons")
    parser.add_argument("--write", action="store_true", help=f"keep the study as {RESULTS.name}")
    given = parser.parse_args()
    if given.keep:
        print(keep(given.keep, given.records))
        return
    sources = [path.parent for path in given.records.glob(f"*/{KEPT}")]
    if len(sources) != 1:
        parser.error(f"{given.records}: {len(sources)} records have a {KEPT}; one is needed")
    found = study(sources[0], 200 if given.quick else 1000, "random_again", "random", "coder")
    show(found)
    if given.write:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
