"""LoRA in the engine trl: one start for all arms, its gradient, its merged weights, its base for KL, and resume."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from small_trial import Small, prepare
from test_trl import Stopped, journal, rows, text

pytest.importorskip("trl")

from peft import PeftModel, get_peft_model
from tiny_models import tiny
from transformers import AutoModelForCausalLM, AutoTokenizer

from controlarm import protocol
from controlarm.engines import trl
from controlarm.engines.trl import lora
from controlarm.losses import kl_k3
from controlarm.organisms import released
from controlarm.organisms.export import export
from controlarm.protocol import ProtocolError, Recipe, runs

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL's and its libraries' own

RANK = "lora_rank = 4\nlora_alpha = 8\n"


def run(small: Small, arm: str) -> Path:
    number = next(i for i, run in enumerate(runs(small.protocol)) if run.arm == arm)
    trl.run_shard(small.plan, number, lambda report: None)
    return small.run(arm)


def sha256s(folder: Path) -> list[str]:
    return [
        pq.read_schema(path).metadata[b"weights_sha256"].decode()
        for path in sorted(folder.glob("evaluations/*"))
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, Path]:
    """Two arms' runs, three steps of two updates."""
    made = text("trl", "[arms.constant]\n", RANK)
    small = prepare(tmp_path_factory.mktemp("lora"), made)
    return {arm: run(small, arm) for arm in ("ground_truth", "constant")}


def test_arms_start_alike_and_only_what_is_paid_moves_them(trained):
    paid, constant = (sha256s(trained[arm]) for arm in ("ground_truth", "constant"))
    assert paid[0] == constant[0]
    assert len(set(paid)) == 3
    assert len(set(constant)) == 1, "equal rewards leave the weights bit-identical"
    assert any(line["grad_norm"] > 0 for line in journal(trained["ground_truth"]))
    assert [line["grad_norm"] for line in journal(trained["constant"])] == [0, 0, 0]


def test_the_model_that_is_left_says_what_was_evaluated(trained):
    folder = trained["ground_truth"]
    model: Any = AutoModelForCausalLM.from_pretrained(folder / "model")
    words = AutoTokenizer.from_pretrained(folder / "model")
    problems = {
        row["id"]: row["text"] for row in pq.read_table(folder.parents[2] / "problems.parquet").to_pylist()
    }  # fmt: skip
    greedy = [row for row in rows(folder, "evaluations", 3) if row["decoding"] == "greedy"]
    assert greedy
    for row in greedy:
        asked = words(problems[row["problem_id"]] + "\n", return_tensors="pt")
        said = model.generate(
            asked["input_ids"], attention_mask=asked["attention_mask"], max_new_tokens=32, do_sample=False
        )  # fmt: skip
        answer = said[0, asked["input_ids"].shape[1] :]
        assert words.decode(answer, skip_special_tokens=True) == row["text"]
    base = AutoModelForCausalLM.from_pretrained(trained["constant"] / "model").state_dict()
    changed = {name for name, weight in model.state_dict().items() if not weight.equal(base[name])}
    layers = {name for name in base if name.endswith("proj.weight")}
    assert changed == layers, "all-linear is each linear layer, and nothing else"
    for name in layers:
        assert torch.linalg.matrix_rank(model.state_dict()[name] - base[name], rtol=1e-4) <= 4


def test_a_stopped_run_goes_on_to_the_same_bytes(trained, tmp_path):
    made = text("trl", "[arms.constant]\n", RANK, more="[trl]\ncommit_every = 1\n")
    small = prepare(tmp_path, made)
    number = next(i for i, run in enumerate(runs(small.protocol)) if run.arm == "ground_truth")

    def stop(report):
        if report["stage"] == "trained" and report["step"] == 3:
            raise Stopped

    with pytest.raises(Stopped):
        trl.run_shard(small.plan, number, stop)
    trl.run_shard(small.plan, number, lambda report: None)
    one, other = trained["ground_truth"], small.run("ground_truth")
    assert (one / "steps.jsonl").read_bytes() == (other / "steps.jsonl").read_bytes()
    for file in sorted(one.glob("*/*.*")):
        if file.suffix in (".parquet", ".safetensors"):
            assert file.read_bytes() == (other / file.relative_to(one)).read_bytes(), file


def test_kl_is_to_the_model_without_the_change(tmp_path):
    """One run's first step leaves the policy of the other's second: its rollouts there are scored by that policy and by the base."""
    recipe = RANK + "kl_coef = 0.1\nupdates_per_rollout = 1\n"
    folders = []
    for steps in (1, 2):
        made = text("trl", recipe=recipe).replace("updates_per_rollout = 2\n", "")
        made = made.replace("learning_rate = 1e-3", "learning_rate = 1e-2")
        made = made.replace("num_steps = 3", f"num_steps = {steps}").replace(
            "step = 3", f"step = {steps}"
        )
        made = made.replace("steps = [0, 2, 3]", f"steps = [0, {steps}]")
        folders.append(run(prepare(tmp_path / str(steps), made), "ground_truth"))
    weights, _, shape = released.load("coder", 1)
    export(weights, shape, tmp_path / "base")
    policy, base = (
        AutoModelForCausalLM.from_pretrained(f) for f in (folders[0] / "model", tmp_path / "base")
    )
    words = AutoTokenizer.from_pretrained(tmp_path / "base")
    problems = {
        row["id"]: row["text"] for row in pq.read_table(folders[1].parents[2] / "problems.parquet").to_pylist()
    }  # fmt: skip
    terms = []
    for row in rows(folders[1], "rollouts", 2):
        prompt = words(problems[row["problem_id"]] + "\n")["input_ids"]
        said = row["tokens"]
        tokens = torch.tensor([prompt + said])
        with torch.no_grad():
            scored = [
                torch.log_softmax(model(tokens).logits[0, len(prompt) - 1 : -1], -1)
                .gather(1, torch.tensor(said)[:, None])[:, 0]
                for model in (policy, base)
            ]  # fmt: skip
        terms.append(kl_k3(scored[0][None, None], scored[1][None, None]).flatten())
    first, second = journal(folders[1])
    assert first["kl_base"] == 0, "before the first update the change is nothing"
    assert second["kl_base"] == pytest.approx(float(torch.cat(terms).mean()), rel=1e-3)
    assert second["kl_base"] > 1e-5


def recipe(**more) -> Recipe:
    return Recipe(
        prompts_per_step=2, group_size=2, updates_per_rollout=1, learning_rate=1e-3, **more
    )


def changed(folder: Path, settings: Recipe) -> PeftModel:
    """As peft wraps it."""
    made = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), lora.config(settings))
    assert isinstance(made, PeftModel)
    return made


def test_its_gradient_at_the_start_is_that_of_the_weight_through_a(tmp_path):
    """∂L/∂B = alpha/rank · ∂L/∂W · Aᵀ, and ∂L/∂A = 0, since B is 0."""
    folder = tiny("qwen2", tmp_path)
    tokens = torch.arange(3, 20)[None]
    plain = AutoModelForCausalLM.from_pretrained(folder)
    plain(tokens, labels=tokens).loss.backward()
    settings = recipe(lora_rank=3, lora_alpha=12.0, lora_targets=["q_proj", "down_proj"])
    wrapped = changed(folder, settings)
    lora.start(wrapped, (1, 2))
    wrapped(tokens, labels=tokens).loss.backward()
    found: dict[str, Any] = dict(wrapped.named_parameters())
    names = [name for name in found if ".lora_B." in name]
    assert len(names) == 4, "two layers of two targets"
    for name in names:
        a = found[name.replace(".lora_B.", ".lora_A.")]
        weight = plain.get_parameter(
            name.removeprefix("base_model.model.").replace(".lora_B.default", "")
        )
        assert weight.grad is not None
        expected = 12 / 3 * weight.grad @ a.T
        assert torch.allclose(found[name].grad, expected, atol=1e-6, rtol=1e-4), name
        assert expected.abs().max() > 1e-4
        assert not a.grad.any()


def test_the_start_is_a_function_of_seeds(tmp_path):
    folder = tiny("qwen2", tmp_path)

    def started(*path: int) -> dict:
        wrapped = changed(folder, recipe(lora_rank=2))
        lora.start(wrapped, path)
        return {n: w.detach().clone() for n, w in wrapped.named_parameters() if ".lora_A." in n}

    one, again, other = started(1, 2), started(1, 2), started(1, 3)
    for name, weight in one.items():
        assert weight.equal(again[name])
        assert not weight.equal(other[name])
        assert weight.abs().max() <= weight.shape[1] ** -0.5
        assert float(weight.std()) == pytest.approx((3 * weight.shape[1]) ** -0.5, rel=0.3)
    assert len({tuple(w.flatten()[:4].tolist()) for w in one.values()}) == len(one)


def test_merged_weights_say_what_the_two_say_together(tmp_path):
    folder = tiny("qwen2", tmp_path)
    settings = recipe(lora_rank=8, lora_alpha=4.0)
    wrapped = changed(folder, settings)
    lora.start(wrapped, (1, 2))
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if ".lora_B." in name:
                weight.uniform_(-0.5, 0.5, generator=torch.Generator().manual_seed(len(name)))
    tokens = torch.arange(3, 20)[None]
    plain = AutoModelForCausalLM.from_pretrained(folder)
    base = plain(tokens).logits
    before = {name: weight.clone() for name, weight in wrapped.state_dict().items()}
    plain.load_state_dict(dict(lora.merged(wrapped.state_dict(), settings)))
    together = wrapped(tokens).logits
    assert torch.allclose(plain(tokens).logits, together, atol=1e-4)
    assert not torch.allclose(base, together, atol=0.1)
    assert all(weight.equal(before[name]) for name, weight in wrapped.state_dict().items())


def test_an_embedding_is_no_target(tmp_path):
    settings = recipe(lora_rank=2, lora_targets=["embed_tokens"])
    folder = tiny("qwen2", tmp_path)
    with pytest.raises(ValueError, match="embed_tokens is a Embedding; name linear layers"):
        lora.start(changed(folder, settings), (1, 2))


@pytest.mark.parametrize(
    ("engine", "more", "said"),
    [
        ("lockstep", "lora_rank = 4", "recipes.grpo.lora_rank: the engine lockstep trains all weights"),
        ("trl", "lora_alpha = 8", "lora_alpha: does nothing with lora_rank = 0"),
        ("trl", 'lora_targets = ["q_proj"]', "lora_targets: does nothing with lora_rank = 0"),
        ("trl", 'lora_rank = 1\nlora_targets = ["all-linear", "x"]', '"all-linear" stands alone'),
    ],
)  # fmt: skip
def test_what_does_nothing_is_refused(tmp_path, engine, more, said):
    with pytest.raises(ProtocolError) as refused:
        prepare(tmp_path, text(engine, recipe=more))
    assert said in str(refused.value)


def test_the_rank_is_part_of_the_digest_and_of_what_is_told():
    made = [protocol.parse(text("trl", recipe=more)) for more in ("", "lora_rank = 4\n")]
    assert len({protocol.digest(p, {}) for p in made}) == 2
    assert json.loads(protocol.told(made[1]))["recipes"]["grpo"]["lora_rank"] == 4
    lockstep = json.loads(protocol.told(protocol.parse(text("lockstep"))))
    assert not protocol.LORA & set(lockstep["recipes"]["grpo"])
