"""Every recipe that TRL runs ends at lockstep's weights: the same rollouts, then its own loss, gradient and optimiser."""

from pathlib import Path

import pytest
from small_trial import prepare
from test_trl import journal, text

pytest.importorskip("trl")

from safetensors.torch import load_file

from controlarm import checkpoints, trial
from controlarm.organisms.export import to_llama
from controlarm.protocol import runs

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # TRL's and its libraries' own
]

RECIPES = {
    "no_bounds": "epsilon_low = inf\nepsilon_high = inf",
    "tight": "epsilon_low = 0.01\nepsilon_high = 0.02",
    "grpo_paper": 'aggregation = "sequence_mean"\nkl_coef = 0.1',
    "dr_grpo": 'algorithm = "dr_grpo"',
    "gspo": 'algorithm = "gspo"',
    "rloo": 'algorithm = "rloo"\nweight_decay = 0.1',
    "whitened": "whiten = true\noverlong_buffer = 8",
    "reinforce_pp": 'algorithm = "reinforce_pp"\nold_logprobs = "sampled"',
    "entropy": "entropy_coef = 0.05\nmax_grad_norm = 0.1\nadam_beta1 = 0.8",
}  # fmt: skip
COMMON = 'prompts_per_step = 4\ngroup_size = 4\nupdates_per_rollout = 2\nlearning_rate = 1e-3\nprecision = "float32"\n'


def weights(folder: Path, engine: str) -> dict:
    if engine == "trl":
        return load_file(folder / "model" / "model.safetensors")
    return to_llama(checkpoints.read(folder / "checkpoints" / "step-000001.safetensors")[0])


@pytest.fixture(scope="module")
def ended(tmp_path_factory) -> dict[str, dict[str, Path]]:
    """One step of two updates under each recipe and engine: recipe → engine → folder of its run."""
    found: dict[str, dict[str, Path]] = {name: {} for name in RECIPES}
    for engine in ("lockstep", "trl"):
        made = text(engine)
        start, end = made.index("[recipes.grpo]"), made.index("[labels]")
        tables = "".join(f"[recipes.{name}]\n{COMMON}{more}\n" for name, more in RECIPES.items())
        made = (made[:start] + tables + made[end:]).replace("num_steps = 3", "num_steps = 1")
        made = made.replace("steps = [0, 2, 3]", "steps = [0, 1]").replace("step = 3", "step = 1")
        small = prepare(tmp_path_factory.mktemp(engine), made)
        specs = runs(small.protocol)
        for number, shard in enumerate(small.plan.shards):
            if any(specs[i].arm == "ground_truth" for i in shard):
                trial.ENGINES[engine](small.plan, number, lambda report: None)
        for spec in specs:
            if spec.arm == "ground_truth":
                found[spec.recipe][engine] = small.folder / spec.path
    return found


@pytest.mark.parametrize("recipe", RECIPES)
def test_one_step_ends_at_the_same_weights(ended, recipe):
    """Adam's first steps have the size of the learning rate whatever the gradient's, so its sign must agree nearly element by element."""
    lines = [journal(ended[recipe][engine])[0] for engine in ("lockstep", "trl")]
    names = ["grad_norm", "clip_low", "clip_high", "approx_kl"]
    # Of a sequence's ratio lockstep states the loss whose gradient is the same: without the constants of clipped completions.
    names += ["loss"] if recipe != "gspo" else []
    for name in names:
        assert lines[1][name] == pytest.approx(lines[0][name], rel=2e-4, abs=1e-6), name
    ours, theirs = (weights(ended[recipe][engine], engine) for engine in ("lockstep", "trl"))
    base = weights_of_base()
    moved = 0.0
    for name, mine in ours.items():
        step = (mine - base[name]).norm()
        moved += float(step)
        assert float((mine - theirs[name]).norm()) <= 0.05 * float(step) + 1e-7, name
    assert moved > 0.01, "the recipe trains"


def weights_of_base() -> dict:
    from controlarm.organisms import released

    return to_llama(released.load("coder", 1)[0])
