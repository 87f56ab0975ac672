"""The trial file: every way to get it wrong is an error that names the key and the remedy; the digest misses nothing."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from controlarm import protocol

VALID = """
[trial]
name = "quick"
question = "What did the reward teach?"

[design]
families = ["coder", "talker"]
pretraining_seeds = [1, 2, 3]
seeds = [1, 2, 3]
num_steps = 40
num_problems = 64

[recipes.grpo]
prompts_per_step = 8
group_size = 8
updates_per_rollout = 2
learning_rate = 3e-4
epsilon_high = inf

[arms.ground_truth]
[arms.random]
gamma = 0.5
[arms.random_again]
reward = "random"
replicate = 1
gamma = 0.5

[evaluation]
num_problems = 100
samples = 16
steps = [0, 20, 40]
pass_at_k = [1, 4, 16]

[endpoint]
metric = "accuracy"
step = 40
placebo = "random"
margin = 0.03
planning_sd = 0.02
primary = [{ family = "coder", arm = "ground_truth" }]

[[controls]]
family = "coder"
arm = "ground_truth"
expect = "superior"
why = "a real reward teaches"
"""


class Fault(NamedTuple):
    """One edit of the valid file and what the message must say."""

    old: str
    new: str
    key: str
    remedy: str


FAULTS = {
    "unknown table": Fault("[trial]", "[trail]\n[trial]", "trail", "did you mean trial?"),
    "unknown key": Fault("num_steps", "num_step", "design.num_step", "did you mean num_steps?"),
    "missing key": Fault("num_steps = 40", "", "design.num_steps", "add it"),
    "unknown key of a recipe": Fault(
        "group_size = 8", "group_size = 8\nclip = 0.2", "recipes.grpo.clip", "known here: algorithm"
    ),
    "unknown key of a comparison": Fault(
        'arm = "ground_truth" }', 'arm = "ground_truth", step = 4 }',
        "endpoint.primary.0.step", "known here: family, arm",
    ),
    "unknown key of a control": Fault(
        "why =", "because =", "controls.0.because", "known here: family, arm, expect, why"
    ),
    "recipe inside an arm": Fault(
        "[arms.ground_truth]", '[arms.ground_truth]\nrecipe = "grpo"',
        "arms.ground_truth.recipe", "put it under [recipes]",
    ),
    "recipe's number inside an arm": Fault(
        "[arms.ground_truth]", "[arms.ground_truth]\nlearning_rate = 1e-3",
        "arms.ground_truth.learning_rate", "arms differ only in what they pay",
    ),
    "recipe as a table of an arm": Fault(
        "[arms.ground_truth]", "[arms.ground_truth.recipe]\nlearning_rate = 1e-3",
        "arms.ground_truth.recipe", "put it under [recipes]",
    ),
    "zero seeds": Fault("\nseeds = [1, 2, 3]", "\nseeds = []", "design.seeds", "at least 1"),
    "zero families": Fault(
        '["coder", "talker"]', "[]", "design.families", "at least 1"
    ),
    "fewer seeds than pretraining seeds": Fault(
        "\nseeds = [1, 2, 3]", "\nseeds = [1, 2]", "design.pairing", 'pairing = "crossed"'
    ),
    "a seed twice": Fault("\nseeds = [1, 2, 3]", "\nseeds = [1, 2, 2]", "design.seeds", "once"),
    "a negative seed": Fault(
        "\nseeds = [1, 2, 3]", "\nseeds = [1, 2, -3]", "design.seeds.2", "greater than or equal to 0"
    ),
    "k greater than samples": Fault(
        "samples = 16", "samples = 8", "evaluation.pass_at_k",
        "pass@16 needs at least 16 samples per problem; there are 8; raise evaluation.samples or drop 16",
    ),
    "the base is not evaluated": Fault("[0, 20, 40]", "[20, 40]", "evaluation.steps", "add it"),
    "the end is not evaluated": Fault("[0, 20, 40]", "[0, 20]", "evaluation.steps", "add it"),
    "evaluation after the end": Fault(
        "[0, 20, 40]", "[0, 40, 60]", "evaluation.steps", "after the last step, 40"
    ),
    "endpoint between evaluations": Fault(
        "\nstep = 40", "\nstep = 30", "endpoint.step", "not among evaluation.steps [0, 20, 40]"
    ),
    "unknown metric": Fault('"accuracy"', '"accurcy"', "endpoint.metric", "'lenient_accuracy'"),
    "unknown placebo": Fault(
        'placebo = "random"', 'placebo = "rando"', "endpoint.placebo", "did you mean 'random'?"
    ),
    "no margin": Fault("margin = 0.03", "", "endpoint.margin", "add it"),
    "a margin in per cent": Fault("margin = 0.03", "margin = 3.0", "endpoint.margin", "less than 1"),
    "unknown family of a comparison": Fault(
        '{ family = "coder"', '{ family = "codr"', "endpoint.primary.0.family", "did you mean 'coder'?"
    ),
    "unknown arm of a control": Fault(
        'arm = "ground_truth"\nexpect', 'arm = "majority"\nexpect', "controls.0.arm", "known: ground_truth, random"
    ),
    "unknown outcome": Fault('"superior"', '"better"', "controls.0.expect", "'superior', 'inferior'"),
    "the placebo against itself": Fault(
        'arm = "ground_truth" }', 'arm = "random" }', "endpoint.primary.0.arm", "name another arm"
    ),
    "one comparison twice": Fault(
        '[{ family = "coder", arm = "ground_truth" }]',
        '[{ family = "coder", arm = "ground_truth" }, { family = "coder", arm = "ground_truth" }]',
        "endpoint.primary", "list each once",
    ),
    "no primary comparison": Fault(
        '[{ family = "coder", arm = "ground_truth" }]', "[]", "endpoint.primary", "at least 1"
    ),
    "more prompts than problems": Fault(
        "num_problems = 64", "num_problems = 5", "recipes.grpo.prompts_per_step", "raise that, or let it divide"
    ),
    "unequal updates": Fault(
        "updates_per_rollout = 2", "updates_per_rollout = 3", "recipes.grpo", "does not divide prompts_per_step = 8"
    ),
    "a group of one": Fault(
        "group_size = 8", "group_size = 1", "recipes.grpo.group_size", "greater than or equal to 2"
    ),
    "an unknown algorithm": Fault(
        "group_size = 8", 'group_size = 8\nalgorithm = "trpo"', "recipes.grpo.algorithm", "'grpo'"
    ),
    "a coin above one": Fault(
        "[arms.random]\ngamma = 0.5", "[arms.random]\ngamma = 1.5", "arms.random.gamma", "less than or equal to 1"
    ),
    "a text for a number": Fault("num_steps = 40", 'num_steps = "40"', "design.num_steps", "valid integer"),
    "a fraction of a step": Fault("num_steps = 40", "num_steps = 40.0", "design.num_steps", "valid integer"),
    "a name that is no folder": Fault(
        'name = "quick"', 'name = "../quick"', "trial.name", "should match pattern"
    ),
    "an arm that is no folder": Fault("[arms.ground_truth]", '[arms."a/b"]', "arms.a/b", "should match pattern"),
    "an arm twice": Fault("[arms.random]", "[arms.ground_truth]\n[arms.random]", "protocol", "not valid TOML"),
    "not TOML": Fault("[trial]", "[trial", "protocol", "not valid TOML"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_is_an_error_that_names_its_key_and_the_remedy(fault: Fault):
    assert VALID.count(fault.old) == 1, "the edit must be unambiguous"
    with pytest.raises(protocol.ProtocolError) as error:
        protocol.parse(VALID.replace(fault.old, fault.new))
    lines = str(error.value).splitlines()
    assert any(f"{fault.key}" in line and fault.remedy in line for line in lines), error.value


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-0.1"])
@pytest.mark.parametrize(
    "key",
    ["learning_rate", "kl_coef", "entropy_coef", "weight_decay", "adam_beta1", "adam_beta2"],
)
def test_a_recipe_refuses_what_is_no_number(key: str, value: str):
    text = VALID.replace("learning_rate = 3e-4", "")
    with pytest.raises(protocol.ProtocolError, match=rf"recipes\.grpo\.{key}: "):
        protocol.parse(text.replace("group_size = 8", f"group_size = 8\n{key} = {value}"))


def test_a_decay_of_one_is_refused():
    with pytest.raises(protocol.ProtocolError, match=r"recipes\.grpo\.adam_beta2: .*less than 1"):
        protocol.parse(VALID.replace("group_size = 8", "group_size = 8\nadam_beta2 = 1.0"))


def test_every_fault_is_reported_at_once():
    text = VALID.replace("samples = 16", "samples = 8").replace("[0, 20, 40]", "[0, 60]")
    with pytest.raises(protocol.ProtocolError) as error:
        protocol.parse(text, "mine.toml")
    source, *faults = str(error.value).splitlines()
    assert source == "mine.toml:"
    assert [fault.strip().split(":")[0] for fault in faults] == [
        "evaluation.steps",
        "evaluation.steps",
        "evaluation.pass_at_k",
        "endpoint.step",
    ]


def test_a_trial_without_an_endpoint_is_refused():
    text = VALID[: VALID.index("[endpoint]")]
    with pytest.raises(protocol.ProtocolError, match="endpoint: is missing; add it"):
        protocol.parse(text)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "latin.toml").write_bytes('name = "é"'.encode("latin-1"))
    for name in ("absent.toml", "latin.toml", "."):
        with pytest.raises(protocol.ProtocolError, match="cannot be read"):
            protocol.load(tmp_path / name)


def test_a_file_reads_as_its_text(tmp_path):
    (tmp_path / "trial.toml").write_text(VALID)
    assert protocol.load(tmp_path / "trial.toml") == protocol.parse(VALID)


def test_infinite_bounds_survive_writing_and_reading():
    trial = protocol.parse(VALID)
    written = json.dumps(trial.model_dump(mode="json"))
    assert trial.recipes["grpo"].epsilon_high == float("inf")
    assert protocol.Protocol.model_validate(json.loads(written)) == trial


def test_an_infinite_bound_has_a_digest_of_its_own():
    trial = protocol.parse(VALID)
    finite = protocol.parse(VALID.replace("epsilon_high = inf", "epsilon_high = 1e308"))
    assert protocol.digest(trial, {}) != protocol.digest(finite, {})


def test_runs_of_one_unit_are_adjacent_and_their_folders_differ():
    trial = protocol.parse(VALID)
    runs = protocol.runs(trial)
    assert len(runs) == 2 * 3 * 3
    assert [r.arm for r in runs[:3]] == ["ground_truth", "random", "random_again"]
    assert len({(*r[:3], r.seed) for r in runs[:3]}) == 1
    assert len({r.path for r in runs}) == len(runs)
    assert runs[0].path == "coder/ground_truth/grpo-p1-s1"


def test_crossed_seeds_train_every_pretrained_model():
    text = VALID.replace("\nseeds = [1, 2, 3]", '\nseeds = [7, 8]\npairing = "crossed"')
    units = protocol.parse(text).design.units()
    assert [tuple(u) for u in units] == [(1, 7), (1, 8), (2, 7), (2, 8), (3, 7), (3, 8)]


@pytest.mark.parametrize("key", ["kl_coef", "entropy_coef", "weight_decay"])
def test_a_recipe_with_another_term_does_not_claim_that_only_the_reward_acts(key: str):
    assert protocol.parse(VALID).recipes["grpo"].only_reward_acts
    other = VALID.replace("group_size = 8", f"group_size = 8\n{key} = 0.001")
    assert not protocol.parse(other).recipes["grpo"].only_reward_acts


FULL = protocol.parse(
    VALID.replace(
        "[arms.ground_truth]",
        """[arms.full]
reward = "custom"
replicate = 2
gamma = 0.25
p = 0.125
of = ["format", "python"]
problem = "a"
function = "module:name"
reads = ["text"]
[arms.ground_truth]""",
    )
)
"""Every setting of an arm has a value here, so that every value can be changed."""

Path = tuple[str | int, ...]


def leaves(part: Any, path: Path = ()) -> Iterator[Path]:
    """Paths of all values in a protocol."""
    if isinstance(part, BaseModel):
        part = {name: getattr(part, name) for name in type(part).model_fields}
    if isinstance(part, dict):
        for key, value in part.items():
            yield from leaves(value, (*path, key))
    elif isinstance(part, list) and part and isinstance(part[0], BaseModel):
        yield from leaves(part[0], (*path, 0))
    elif part is not None:
        yield path


def changed(part: Any, path: Path) -> Any:
    """The protocol with the value at the path replaced by another one, unvalidated."""
    if not path:
        return (part * 2 or ["forced"]) if isinstance(part, list | str) else part / 2 + 1
    first, rest = path[0], path[1:]
    if isinstance(part, BaseModel):
        name = str(first)
        return part.model_copy(update={name: changed(getattr(part, name), rest)})
    if isinstance(part, dict):
        return {**part, first: changed(part[first], rest)}
    return [changed(part[0], rest), *part[1:]]


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("path", [p for p in leaves(FULL) if p[-1] != "epsilon_high"], ids=str)
def test_the_digest_changes_with_every_value(path: Path):
    assert protocol.digest(changed(FULL, path), {}) != protocol.digest(FULL, {})


def test_the_digest_changes_with_an_arm_and_with_the_order_of_arms():
    first, second = "[arms.random]\ngamma = 0.5\n", "[arms.ground_truth]\n"
    digests = {
        protocol.digest(protocol.parse(text), {})
        for text in (
            VALID,
            VALID.replace(first, first + "[arms.format]\n"),
            VALID.replace(second + first, first + second),
        )
    }
    assert len(digests) == 3


@given(
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
)
def test_the_digest_changes_exactly_with_the_materials(some: dict, other: dict):
    trial = protocol.parse(VALID)
    assert (protocol.digest(trial, some) == protocol.digest(trial, other)) == (some == other)
    backwards = dict(reversed(some.items()))
    assert protocol.digest(trial, some) == protocol.digest(trial, backwards)


@given(st.data())
def test_the_digest_ignores_comments_spacing_and_the_order_of_keys(data: st.DataObject):
    tables = [block.splitlines() for block in VALID.strip().split("\n\n")]
    text = ""
    for header, *keys in tables:
        if any("[" in k[:1] for k in keys):
            text += "\n".join([header, *keys]) + "\n"
            continue
        keys = data.draw(st.permutations(keys))
        spaced = [k.replace(" = ", data.draw(st.sampled_from(["=", "  =  "])), 1) for k in keys]
        comment = data.draw(st.text("ab #", max_size=8))
        text += "\n".join([header, *spaced]) + f"\n# {comment}\n\n"
    assert protocol.digest(protocol.parse(text), {}) == protocol.digest(protocol.parse(VALID), {})


def test_values_written_differently_but_equal_have_one_digest():
    same = VALID.replace("learning_rate = 3e-4", "learning_rate = 0.0003").replace(
        "epsilon_high = inf", "epsilon_high = +inf\nepsilon_low = 0.2"
    )
    assert protocol.digest(protocol.parse(same), {}) == protocol.digest(protocol.parse(VALID), {})


def test_one_problem_may_fill_the_batch():
    few = VALID.replace("num_problems = 64", "num_problems = 1")
    assert protocol.parse(few).design.num_problems == 1
