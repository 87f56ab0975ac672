"""The engine trl on models by path and real problem sets: random Qwen2, Llama and OLMo2, a referee, templates."""

import json
import tomllib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from small_trial import prepare, protocol_text
from test_trl import journal, rows, train

pytest.importorskip("trl")

from tiny_models import tiny

from controlarm import costs, protocol, referee
from controlarm.protocol import ProtocolError

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL's and its libraries' own

TRAINING = [(f"What is ${n} + 1$?", str(n + 1)) for n in range(6)]
HELD_OUT = [("What is $\\frac{1}{2}$?", "0.5"), ("Solve $3x=6$.", "2"), ("Half of 8?", "4")]


def problem_file(path: Path, problems: list[tuple[str, str]]) -> Path:
    path.write_text("".join(json.dumps({"problem": p, "answer": a}) + "\n" for p, a in problems))
    return path


def text(
    folder: Path,
    family: str = "qwen2",
    template: str = "qwen_boxed",
    recipe: str = "",
    **paths: str,
) -> str:
    training = paths.get("training") or problem_file(folder / "training.jsonl", TRAINING)
    held_out = paths.get("held_out") or problem_file(folder / "held_out.jsonl", HELD_OUT)
    model = paths.get("model") or tiny(family, folder / "model")
    made = protocol_text(
        "[arms.format]\n",
        recipe=f'prompts_per_step = 2\ngroup_size = 2\nupdates_per_rollout = 1\nlearning_rate = 1e-3\nprecision = "float32"\n{recipe}',
        more=f'[models.{family}]\npath = "{model}"\n',
    )
    return (
        made.replace('question = "Does it run?"', 'question = "Does it run?"\nengine = "trl"')
        .replace('"coder"', f'"{family}"').replace("pretraining_seeds = [1]", "pretraining_seeds = [0]")
        .replace("num_steps = 3", f'num_steps = 3\nproblems = "{training}"\ntemplate = "{template}"')
        .replace("num_problems = 8", "num_problems = 6").replace("max_tokens = 32", "max_tokens = 12")
        .replace("num_problems = 4", f'num_problems = 3\nproblems = "{held_out}"')
    )  # fmt: skip


@pytest.mark.parametrize(
    ("family", "template"), [("qwen2", "chat"), ("llama", "qwen_boxed"), ("olmo2", "r1_zero")]
)
def test_a_model_by_path_is_trained_on_a_real_set(tmp_path, family, template):
    small = train(prepare(tmp_path, text(tmp_path, family, template)))
    plan = json.loads((small.folder / "plan.json").read_text())
    assert plan["materials"]["referee"] == referee.VERSION
    assert len(plan["materials"][f"model {family}"]) == 64
    home = small.folder / family / "placebo" / "grpo-p0-s1"
    lines = journal(home)
    assert [line["step"] for line in lines] == [1, 2, 3]
    said = rows(home, "evaluations", 3)
    assert {row["problem_id"] for row in said} == {
        p["id"]
        for p in pq.read_table(small.folder / "problems.parquet").to_pylist()
        if p["split"] == "held_out"
    }
    opening = "<think>" if template == "r1_zero" else ""
    assert all(row["text"].startswith(opening) for row in said)
    assert all(0 < row["num_tokens"] <= 12 for row in said)
    hashes = {pq.read_schema(p).metadata[b"weights_sha256"] for p in home.glob("evaluations/*")}
    moved = any(line["grad_norm"] for line in lines)
    assert (len(hashes) > 1) == moved


def test_the_referee_judges_and_pays():
    from controlarm import evaluation
    from controlarm.evaluation import Grader, Sampled, judge
    from controlarm.records import Problem
    from controlarm.referee import Referee

    problem = Problem(id="half", text="What is $1/2$?", answer="0.5")
    with Referee(workers=1) as judge_of_answers:
        grader = Grader(judge_of_answers.equal)
        assert judge("\\boxed{\\frac{1}{2}}", problem, grader).grade.strict == "right"
        assert judge("\\boxed{\\frac{1}{2}}", problem).grade.strict == "wrong", (
            "the exact grader has no algebra"
        )
        made = [Sampled(problem, 0, "\\boxed{1/2}", 3, False, 0.0, 0.0)]
        assert evaluation.table(made, grader).to_pylist()[0]["strict"] == "right"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"template": "poem"}, "design.template: unknown 'poem'"),
        ({"model": "somebody/model"}, "say which revision"),
        ({"training": "nowhere"}, "design.problems: problems: 'nowhere' is neither a set nor a file"),
        ({"recipe": 'algorithm = "remax"'}, "recipes.grpo.credit: 'greedy' needs a greedy completion"),
        ({"recipe": 'algorithm = "ppo"'}, "recipes.grpo.credit: 'gae' needs a value head"),
        ({"recipe": "dynamic_sampling = 3"}, "recipes.grpo.dynamic_sampling: TRL asks one batch a step"),
        ({"recipe": "policy_coef = 0.5"}, "recipes.grpo.policy_coef: TRL's surrogate has no weight"),
        ({"recipe": 'entropy_coef = 0.1\naggregation = "sequence_mean"'}, "recipes.grpo.entropy_coef: TRL takes the mean over tokens"),
    ],
)  # fmt: skip
def test_what_it_cannot_do_is_refused_by_name(tmp_path, change, said):
    with pytest.raises(ProtocolError) as refused:
        prepare(tmp_path, text(tmp_path, **change))
    assert said in str(refused.value)
    assert not list((tmp_path / "runs").glob("*/plan.json"))


def test_a_completion_ends_at_a_stop(tmp_path):
    """What a random model says without stops holds many texts; with one of them as a stop it ends behind it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from controlarm.engines.trl.decoding import Speaker, decode

    folder = tiny("llama", tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    prompts = [
        tokenizer("What is 3?")["input_ids"],
        tokenizer("Solve $x=2$, then say it.")["input_ids"],
    ]
    speaker = Speaker(tokenizer.pad_token_id, [tokenizer.eos_token_id], False, tokenizer)
    paths = [("tests", 0), ("tests", 1)]
    free = decode(model, prompts, paths, 24, speaker, 2)
    stop = tokenizer.decode(free[0].tokens[5:7])
    halted = decode(model, prompts, paths, 24, speaker._replace(stops=(stop,)), 2)
    assert halted[0].tokens == free[0].tokens[: len(halted[0].tokens)]
    said = tokenizer.decode(halted[0].tokens)
    assert stop in said and stop not in tokenizer.decode(halted[0].tokens[:-1])
    assert not halted[0].truncated
    alone = decode(model, prompts[1:], paths[1:], 24, speaker, 1)
    assert alone[0].tokens == free[1].tokens, "what is drawn does not depend on the neighbours"


def test_a_problem_that_is_trained_on_and_evaluated_is_refused(tmp_path):
    both = str(problem_file(tmp_path / "both.jsonl", TRAINING))
    with pytest.raises(ProtocolError, match="3 problems stand in both"):
        prepare(tmp_path, text(tmp_path, training=both, held_out=both))


def test_another_version_of_trl_is_refused(monkeypatch):
    from controlarm.engines import trl

    monkeypatch.setattr(trl, "version", lambda name: "0.29.0")
    assert trl.misfits() == [
        "trial.engine: trl 0.29.0 is installed, and the engine is written for trl>=1.16,<1.17; pip install 'trl>=1.16,<1.17'"
    ]


def test_what_only_this_engine_reads_is_refused_under_lockstep(tmp_path):
    made = text(tmp_path).replace('engine = "trl"', "")
    with pytest.raises(ProtocolError, match="models: does nothing for the engine lockstep"):
        prepare(tmp_path, made)


def test_a_cost_is_stated_for_models_with_a_parameter_count():
    """2 · 7.62e9 FLOPs a sampled token and 8 a trained one: the numbers of ``controlarm check`` by hand."""
    root = Path(__file__).parent.parent
    whole = protocol.load(root / "trials" / "qwen2.5-math-7b.toml")
    found = costs.gpu_costs(whole)
    assert found is not None
    rollouts = 5 * 3 * 300 * 64 * 16
    labels, evaluated = 40_315 * 64, 500 * 5 * (3 + 5 * 3 * 6)
    tokens = 0.3 * 3072
    assert found.training_hours == pytest.approx(
        8 * 7.62e9 * rollouts * tokens / (0.35 * 989e12 * 3600)
    )
    assert found.sampling_hours == pytest.approx(
        2 * 7.62e9 * (rollouts + labels + evaluated) * tokens / (0.05 * 989e12 * 3600)
    )
    assert costs.gpu_costs(protocol.load(root / "trials" / "quick.toml")) is None


@pytest.mark.parametrize(
    ("recipe", "gigabytes"),
    [
        ("", 16 * 7.62),
        ("kl_coef = 0.1", 20 * 7.62),  # the base beside it
        ("lora_rank = 32", (4 + 32 / 3000 * 16) * 7.62),
        ("lora_rank = 32\nkl_coef = 0.1", (4 + 32 / 3000 * 16) * 7.62),  # the base is beneath
    ],
)
def test_a_state_is_weights_and_what_training_them_takes(recipe, gigabytes):
    whole = (Path(__file__).parent.parent / "trials" / "qwen2.5-math-7b.toml").read_text("utf-8")
    made = whole.replace("kl_coef = 0.0 ", "#").replace(
        "[recipes.grpo]", f"[recipes.grpo]\n{recipe}"
    )
    found = costs.gpu_costs(protocol.parse(made))
    assert found is not None
    assert found.state_bytes == pytest.approx(gigabytes * 1e9)
    told = costs.room(found)
    assert ("more than the 80 GB of one" in told and "lora_rank" in told) == (gigabytes > 80)


def test_the_small_trial_and_what_its_page_puts_into_it_pass_the_check(tmp_path):
    """The page's lines, with a set and a model that are here and sizes of theirs."""
    from controlarm import trial

    root = Path(__file__).parent.parent
    small = (root / "trials" / "trl_small.toml").read_text("utf-8")
    assert trial.check(protocol.parse(small)) == []
    page = tomllib.loads(
        (root / "docs" / "trl.md").read_text("utf-8").split("```toml\n")[1].split("```")[0]
    )
    sets = [
        problem_file(tmp_path / n, p) for n, p in (("a.jsonl", TRAINING), ("b.jsonl", HELD_OUT))
    ]
    own = tomllib.loads(small)
    own |= {"design": page["design"], "models": page["models"], "evaluation": page["evaluation"]}
    own["design"] |= {"problems": str(sets[0]), "num_problems": 6, "max_tokens": 12}
    own["evaluation"] |= {"problems": str(sets[1]), "num_problems": 3}
    own["models"]["mine"]["path"] = str(tiny("qwen2", tmp_path / "model"))
    own["endpoint"] |= {"step": 100, "primary": [{"family": "mine", "arm": "ground_truth"}]}
    own["recipes"]["lora"]["prompts_per_step"] = 6
    assert trial.check(protocol.Protocol.model_validate(own)) == []
