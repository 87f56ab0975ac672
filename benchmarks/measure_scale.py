"""Analysis and report of a made-up trial, in this process: `python -m benchmarks.measure_scale RESULT.json RECIPES UNITS`."""

import json
import multiprocessing
import resource
import shutil
import sys
import time
from pathlib import Path

PROTOCOL = """
[trial]
name = "scale"
question = "How much can a report hold?"
[design]
families = ["coder", "talker", "bungler", "crammer", "rote", "stammerer"]
pretraining_seeds = [{units}]
seeds = [{units}]
num_steps = 8
num_problems = 12
{recipes}
[arms]
ground_truth = {{}}
majority = {{}}
incorrect = {{}}
format = {{}}
python = {{}}
random = {{}}
constant = {{}}
[evaluation]
num_problems = 12
samples = 4
steps = [0, 8]
pass_at_k = [1, 4]
[endpoint]
metric = "accuracy"
step = 8
placebo = "random"
margin = 0.03
planning_sd = 0.03
primary = [{{ family = "coder", arm = "ground_truth" }}, {{ family = "talker", arm = "ground_truth" }}]
[logging]
rollouts_every = 100
"""
RECIPE = """[recipes.rate{number}]
prompts_per_step = 2
group_size = 4
updates_per_rollout = 2
learning_rate = {rate}
"""


def protocol(recipes: int, units: int) -> str:
    """A trial file of 42 runs a recipe and unit."""
    listed = "".join(RECIPE.format(number=i, rate=1e-4 * (i + 1)) for i in range(recipes))
    return PROTOCOL.format(units=", ".join(map(str, range(1, units + 1))), recipes=listed)


def main() -> None:
    """Make the folder, then measure what reads it."""
    from controlarm import report
    from controlarm.analysis import summary
    from tests.fabricate import fabricate

    result, recipes, units = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    folder = result.with_suffix("") / "scale"
    began = time.perf_counter()
    # In a process of its own: the peak of memory is then that of analysis and report.
    maker = multiprocessing.get_context("spawn").Process(
        target=fabricate, args=(folder, protocol(recipes, units))
    )
    maker.start()
    maker.join()
    assert maker.exitcode == 0
    made = time.perf_counter() - began
    paths = [path for path in folder.rglob("*") if path.is_file()]
    content = sum(path.stat().st_size for path in paths)
    began = time.perf_counter()
    found = summary.summarise(folder)
    analysed = time.perf_counter()
    page = report.write(folder, found)
    written = time.perf_counter()
    row = {
        "runs": len(json.loads((folder / "plan.json").read_text())["runs"]), "files": len(paths), "folder_bytes": content,
        "making": made, "analysis": analysed - began, "page": written - analysed, "page_bytes": page.stat().st_size,
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }  # fmt: skip
    result.write_text(json.dumps(row))
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
