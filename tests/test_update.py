"""One optimiser step: independent of how it is cut and of who trains beside, and equal to plain PyTorch run by run."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from small_trial import SHAPE, encoded_prompts, own, plain_hidden, plain_logits, wild_weights

from controlarm import seeds, trial
from controlarm.organisms.tokenizer import END, PAD, VOCAB_SIZE
from controlarm.packing import Layout, pack
from controlarm.protocol import Recipe
from controlarm.update import (
    PRIORS,
    VALUE,
    Batch,
    backward,
    clip_per_run,
    compute_weights,
    make_optimizer,
    score,
    update,
    with_credit,
)

RUNS, ROLLOUTS, TOKENS = 3, 8, 7
LAYOUT = Layout(3, 1, 128)
RECIPE = Recipe(
    prompts_per_step=2, group_size=4, updates_per_rollout=1, learning_rate=1e-3,
    precision="float32", max_grad_norm=0.5,
)  # fmt: skip
BF16 = RECIPE.model_copy(update={"precision": "bfloat16"})


def trained(weights):
    return {name: w.clone().requires_grad_() for name, w in weights.items()}


class Rollouts(NamedTuple):
    """What a batch is made of; ``layout`` is the shape of a pass."""

    prompts: torch.Tensor
    completions: torch.Tensor
    on_policy: torch.Tensor
    old_logprobs: torch.Tensor
    advantages: np.ndarray
    base_logprobs: torch.Tensor | None = None

    def batch(self, layout=LAYOUT, recipe=RECIPE):
        gains = self.advantages[..., None]
        credit = with_credit(gains, torch.ones(len(self.prompts), dtype=torch.bool), recipe)
        trees = pack(self.prompts, self.completions, credit, layout, SHAPE)
        return Batch(
            trees, self.completions, self.on_policy, self.old_logprobs, gains,
            self.base_logprobs,
        )  # fmt: skip

    @property
    def real(self):
        return self.completions != PAD


def some_rollouts(runs=RUNS, on_policy=True, name="batch"):
    """Completions of all lengths, some alike, some for a while; old log-probabilities near those of the policy."""
    rng = seeds.generator("tests", name)
    completions = torch.from_numpy(rng.integers(2, VOCAB_SIZE - 4, (runs, ROLLOUTS, TOKENS)))
    lengths = torch.from_numpy(rng.integers(1, TOKENS + 1, (runs, ROLLOUTS, 1)))
    place = torch.arange(TOKENS)
    completions[place == lengths - 1] = END
    completions[place >= lengths] = PAD
    prompts = encoded_prompts(runs, ROLLOUTS)
    prompts[:, 3] = prompts[:, 5] = prompts[:, 0]
    completions[:, 5] = completions[:, 0]
    completions[:, 3, :2] = torch.tensor([7, 8])
    completions[:, 0, 0] = completions[:, 5, 0] = 7
    trees = pack(prompts, completions, np.ones((runs, ROLLOUTS), dtype=bool), LAYOUT, SHAPE)
    now = score(wild_weights(runs), trees, completions, RECIPE, SHAPE, compiled=False)
    apart = torch.from_numpy(rng.standard_normal(trees.parents.shape, dtype=np.float32))
    old = now + 0.3 * trees.spread(apart)
    gains = rng.standard_normal((runs, ROLLOUTS))
    return Rollouts(prompts, completions, torch.tensor(on_policy), old, gains)


def stepped(weights, rollouts, recipe=RECIPE, layout=LAYOUT, active=None, num_updates=1):
    batch = rollouts.batch(layout, recipe)
    weights = trained(weights)
    optimizer = make_optimizer(weights, recipe)
    active = torch.ones(len(batch.advantages), dtype=torch.bool) if active is None else active
    reports = [
        update(weights, optimizer, batch, active, recipe, SHAPE, False) for _ in range(num_updates)
    ]
    return weights, reports[-1]


def grad(weight) -> torch.Tensor:
    assert weight.grad is not None
    return weight.grad


def gradient(weights, run):
    return torch.cat([grad(w)[run].flatten() for w in weights.values()])


def of_run(batch, run):
    """One run's share of a batch."""
    return batch._replace(
        **{
            name: x[run : run + 1]
            for name, x in batch._asdict().items()
            if x is not None and x.ndim
        }
    )


def relative_gap(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def same_bits(one, other, run):
    return all(torch.equal(one[name][run], other[name][run]) for name in one)


@pytest.mark.parametrize(
    ("precision", "aggregation", "on_policy", "band"),
    [
        ("float32", "token_mean", True, 1e-6),
        ("float32", "sequence_mean", False, 1e-6),
        ("bfloat16", "token_mean", False, 1e-2),
    ],
)
def test_a_step_does_not_depend_on_how_its_batch_is_cut(precision, aggregation, on_policy, band):
    recipe = RECIPE.model_copy(update={"precision": precision, "aggregation": aggregation})
    batch, weights = some_rollouts(on_policy=on_policy), wild_weights(RUNS)
    whole, of_whole = stepped(weights, batch, recipe)
    shortest = batch.prompts.shape[-1] + TOKENS
    a_rollout_at_a_time, a_few, all_at_once = (
        Layout(1, 1, shortest),
        Layout(4, 1, 64),
        Layout(8, 4, 64),
    )
    for layout in (a_rollout_at_a_time, a_few, all_at_once):
        cut, of_cut = stepped(weights, batch, recipe, layout)
        for run in range(RUNS):
            assert relative_gap(gradient(cut, run), gradient(whole, run)) < band
        torch.testing.assert_close(of_cut.grad_norm, of_whole.grad_norm, rtol=band, atol=0)
        torch.testing.assert_close(of_cut.loss, of_whole.loss, rtol=band, atol=band)
        torch.testing.assert_close(of_cut.clip_low, of_whole.clip_low, rtol=0, atol=1e-6)


@pytest.mark.parametrize("term", [{}, {"kl_coef": 0.1}, {"aggregation": "sequence_mean"}])
def test_a_step_does_not_depend_on_which_passes_go_backward(term):
    """Neither its gradients nor its report: where advantages are zero, to go backward anyway changes nothing."""
    recipe = RECIPE.model_copy(update=term)
    batch, weights = some_rollouts(on_policy=False), wild_weights(RUNS)
    base = batch.old_logprobs + 0.1 if recipe.kl_coef else None
    mixed = batch.advantages * (np.arange(ROLLOUTS) % 3 == np.arange(RUNS)[:, None])
    batch = batch._replace(advantages=mixed, base_logprobs=base)
    everyone = torch.ones(RUNS, dtype=torch.bool)
    found = []
    for credit in (
        with_credit(mixed[..., None], everyone, recipe),
        np.ones(mixed.shape, dtype=bool),
    ):
        for layout in (LAYOUT, Layout(1, 1, 25), Layout(2, 1, 25)):
            trees = pack(batch.prompts, batch.completions, credit, layout, SHAPE)
            masters = trained(weights)
            optimizer = make_optimizer(masters, recipe)
            one = batch.batch()._replace(trees=trees)
            found.append((masters, update(masters, optimizer, one, everyone, recipe, SHAPE, False)))
            if credit.all() or recipe.kl_coef:
                assert trees.num_with_credit == len(trees.run) or layout.slots > 1
            elif layout.slots == 1:
                assert 0 < trees.num_with_credit < len(trees.run)
    (first, report), *others = found
    for masters, other in others:
        for run in range(RUNS):
            assert relative_gap(gradient(masters, run), gradient(first, run)) < 1e-5
        for name, one in report._asdict().items():
            if name == "logprobs":
                torch.testing.assert_close(other.logprobs[batch.real], one[batch.real])
            elif one is not None:
                torch.testing.assert_close(getattr(other, name), one, rtol=1e-4, atol=2e-6)


def report_of_weights_that_did_not_move():
    """Of compiled passes, some with credit and some without."""
    batch, weights = some_rollouts(on_policy=False), trained(wild_weights(RUNS))
    gains = batch.advantages * (np.arange(ROLLOUTS) % 3 == np.arange(RUNS)[:, None])
    one = batch._replace(advantages=gains).batch(Layout(2, 1, 25), BF16)
    assert 0 < one.trees.num_with_credit < len(one.trees.run)
    policy = compute_weights(weights, BF16)
    old = score(policy, one.trees, batch.completions, BF16, SHAPE, compiled=True)
    optimizer, everyone = make_optimizer(weights, BF16), torch.ones(RUNS, dtype=torch.bool)
    one = one._replace(old_logprobs=old)
    return update(weights, optimizer, one, everyone, BF16, SHAPE, compiled=True)


@pytest.mark.skipif(not trial.has_compiler(), reason="there is no C++ compiler")
def test_weights_that_did_not_move_have_a_ratio_of_one_in_compiled_bfloat16_too():
    """Old and new log-probabilities come from one program; in a process of its own (``conftest``)."""
    code = (
        "from test_update import report_of_weights_that_did_not_move as told; found = told(); "
        "assert found.grad_norm.all(), found; assert not found.ratio_max.any() and not found.approx_kl.any(), found"
    )
    here = Path(__file__).parent
    env = os.environ | {"PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("recipe", "band"), [(RECIPE, 1e-6), (BF16, 1e-2)])
def test_a_step_does_not_depend_on_the_neighbouring_runs(recipe, band):
    batch, weights = some_rollouts(on_policy=False), wild_weights(RUNS)
    together, report = stepped(weights, batch, recipe)
    for run in range(RUNS):
        part = of_run(batch, run)
        alone, of_alone = stepped(own(weights, run), part, recipe)
        assert relative_gap(gradient(together, run), gradient(alone, 0)) < band
        assert report.grad_norm[run] == pytest.approx(of_alone.grad_norm.item(), rel=band)


def test_a_neighbours_other_batch_changes_not_a_bit():
    batch, weights = some_rollouts(), wild_weights(RUNS)
    other = some_rollouts(name="other")
    mixed = batch._replace(
        **{
            name: torch.cat((getattr(batch, name)[:1], getattr(other, name)[1:]))
            for name in ("prompts", "completions", "old_logprobs")
        },
        advantages=np.concatenate((batch.advantages[:1], other.advantages[1:])),
    )
    one, two = stepped(weights, batch)[0], stepped(weights, mixed)[0]
    assert same_bits(one, two, 0)
    assert not same_bits(one, two, 1)


def test_the_on_policy_gradient_is_reinforce_on_a_plain_model_of_one_sequence():
    batch, weights = some_rollouts(), wild_weights(RUNS)
    masters = trained(weights)
    everyone = torch.ones(RUNS, dtype=torch.bool)
    backward(masters, batch.batch(), everyone, RECIPE, SHAPE, compiled=False)
    run = 1
    plain = trained(own(weights, run))
    total = torch.zeros((), dtype=torch.float64)
    for rollout in range(ROLLOUTS):
        prompt = [t for t in batch.prompts[run, rollout].tolist() if t != PAD]
        completion = [t for t in batch.completions[run, rollout].tolist() if t != PAD]
        scores = plain_logits(plain, 0, prompt + completion)[len(prompt) - 1 : -1]
        logprobs = torch.log_softmax(scores, -1)[range(len(completion)), completion]
        total = total - batch.advantages[run, rollout] * logprobs.double().sum()
    (total / batch.real[run].sum()).backward()
    for name, weight in plain.items():
        assert relative_gap(grad(masters[name])[run], grad(weight)[0]) < 3e-5, name


def plain_sequences(plain, batch, run):
    """(rollout, log-probabilities, hidden states before each token) of a plain model, one completion after the other."""
    for rollout in range(ROLLOUTS):
        prompt = [t for t in batch.prompts[run, rollout].tolist() if t != PAD]
        completion = [t for t in batch.completions[run, rollout].tolist() if t != PAD]
        hidden = plain_hidden(plain, 0, prompt + completion)[len(prompt) - 1 : -1]
        scores = hidden @ plain["embed"][0].double().T
        yield rollout, torch.log_softmax(scores, -1)[range(len(completion)), completion], hidden


@pytest.mark.parametrize("on_policy", [True, False])
def test_the_gradient_of_whole_completions_ratios_is_autograds_on_a_plain_model(on_policy):
    recipe = Recipe(
        algorithm="gspo", prompts_per_step=2, group_size=4, updates_per_rollout=1, learning_rate=1e-3,
        precision="float32", epsilon_low=0.05, epsilon_high=0.08, max_grad_norm=1e9,
    )  # fmt: skip
    assert recipe.aggregation == "sequence_mean" and recipe.ratio == "sequence"
    batch, weights, run = some_rollouts(on_policy=on_policy), wild_weights(RUNS), 1
    moved, report = stepped(weights, batch, recipe)
    plain = trained(own(weights, run))
    total, bound = torch.zeros((), dtype=torch.float64), 0
    for rollout, logprobs, _ in plain_sequences(plain, batch, run):
        old = batch.old_logprobs[run, rollout, : len(logprobs)].double()
        ratio = (logprobs - (logprobs.detach() if on_policy else old)).mean().exp()
        gain = batch.advantages[run, rollout]
        total = total - torch.minimum(ratio * gain, ratio.clamp(0.95, 1.08) * gain) / ROLLOUTS
        bound += ratio.item() != ratio.clamp(0.95, 1.08).item()
    total.backward()
    assert on_policy or 0 < bound < ROLLOUTS, "some completions must be clipped and some not"
    for name, weight in plain.items():
        assert relative_gap(grad(moved[name])[run], grad(weight)[0]) < 3e-5, name
    assert bool((report.clip_low + report.clip_high)[run]) != on_policy


def test_the_gradient_with_a_value_head_is_autograds_on_a_plain_model():
    recipe = Recipe(
        algorithm="ppo", prompts_per_step=2, group_size=4, updates_per_rollout=1, learning_rate=1e-3,
        precision="float32", value_coef=0.3, max_grad_norm=1e9,
    )  # fmt: skip
    rng = seeds.generator("tests", "values")
    batch, run = some_rollouts(on_policy=False), 2
    weights = wild_weights(RUNS) | {
        VALUE: torch.from_numpy(rng.standard_normal((RUNS, SHAPE.hidden, 1), dtype=np.float32))
    }
    gains, returns = (rng.standard_normal(batch.completions.shape) for _ in range(2))
    one = batch.batch(recipe=recipe)._replace(advantages=gains, returns=returns)
    masters = trained(weights)
    everyone = torch.ones(RUNS, dtype=torch.bool)
    report = update(
        masters, make_optimizer(masters, recipe), one, everyone, recipe, SHAPE, compiled=False
    )
    plain = trained(own(weights, run))
    count = int(batch.real[run].sum())
    total, error = torch.zeros((), dtype=torch.float64), 0.0
    for rollout, logprobs, hidden in plain_sequences(plain, batch, run):
        place = range(len(logprobs))
        ratio = (logprobs - batch.old_logprobs[run, rollout, place].double()).exp()
        gain = torch.from_numpy(gains[run, rollout, place])
        squared = ((hidden @ plain[VALUE][0].double())[:, 0] - torch.from_numpy(returns[run, rollout, place])) ** 2  # fmt: skip
        total = total - torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain).sum()
        total, error = total + 0.3 * squared.sum(), error + squared.sum().item()
    (total / count).backward()
    for name, weight in plain.items():
        assert relative_gap(grad(masters[name])[run], grad(weight)[0]) < 3e-5, name
    assert report.value_loss is not None
    assert report.value_loss[run].item() == pytest.approx(error / count, rel=1e-4)


def test_without_the_surrogate_only_the_other_terms_act():
    alone = RECIPE.model_copy(update={"policy_coef": 0.0, "entropy_coef": 0.1})
    batch, weights = some_rollouts(on_policy=False), wild_weights(RUNS)
    found, _ = stepped(weights, batch, alone)
    other = batch._replace(advantages=np.zeros_like(batch.advantages))
    expected, _ = stepped(weights, other, RECIPE.model_copy(update={"entropy_coef": 0.1}))
    for run in range(RUNS):
        assert relative_gap(gradient(found, run), gradient(expected, run)) < 1e-5


def test_a_rollout_that_does_not_count_might_as_well_not_be_there():
    batch, weights = some_rollouts(on_policy=False), wild_weights(RUNS)
    counted = np.ones((RUNS, ROLLOUTS), dtype=bool)
    counted[:, ROLLOUTS // 2 :] = False
    gains = batch.advantages * counted
    recipe = RECIPE.model_copy(update={"entropy_coef": 0.1})
    masters, everyone = trained(weights), torch.ones(RUNS, dtype=torch.bool)
    one = batch._replace(advantages=gains).batch(recipe=recipe)._replace(counted=counted)
    update(masters, make_optimizer(masters, recipe), one, everyone, recipe, SHAPE, compiled=False)
    half = batch._replace(
        **{
            name: x[:, : ROLLOUTS // 2]
            for name, x in batch._asdict().items()
            if x is not None and x.ndim
        }
    )
    expected, _ = stepped(weights, half, recipe)
    for run in range(RUNS):
        assert relative_gap(gradient(masters, run), gradient(expected, run)) < 1e-5


def test_bands_of_prior_probability_share_out_the_tokens_and_the_clipping():
    batch, weights = some_rollouts(on_policy=False), wild_weights(RUNS)
    batch = batch._replace(old_logprobs=batch.old_logprobs.clamp(max=0))
    _, report = stepped(weights, batch)
    for whole, name in ((torch.ones(RUNS), "prior"), (report.clip_low, "clip_low"), (report.clip_high, "clip_high")):  # fmt: skip
        parts = torch.stack([report.by_prior[f"{name}_{band}"] for band in PRIORS])
        torch.testing.assert_close(parts.sum(0), whole)
    rare = (batch.old_logprobs.exp() <= 0.1) & batch.real
    expected = rare.sum((1, 2)) / batch.real.sum((1, 2))
    torch.testing.assert_close(report.by_prior["prior_rare"], expected)
    assert report.by_prior["prior_rare"].min() > 0


def test_no_token_that_was_sure_can_be_clipped_above():
    batch, weights = some_rollouts(on_policy=False), wild_weights(RUNS)
    sure = batch._replace(old_logprobs=torch.full_like(batch.old_logprobs, -0.1))
    _, report = stepped(weights, sure)
    assert report.by_prior["prior_sure"].tolist() == [1.0] * RUNS
    assert report.clip_low.min() > 0 and not report.clip_high.any()


def test_a_masked_run_keeps_every_bit_though_it_has_momentum_and_decay():
    recipe = RECIPE.model_copy(update={"weight_decay": 0.1})
    batch = some_rollouts().batch()
    weights = trained(wild_weights(RUNS))
    optimizer = make_optimizer(weights, recipe)
    everyone = torch.ones(RUNS, dtype=torch.bool)
    update(weights, optimizer, batch, everyone, recipe, SHAPE, False)
    before = {name: w.detach().clone() for name, w in weights.items()}
    active = torch.tensor([True, False, True])
    update(weights, optimizer, batch, active, recipe, SHAPE, False)
    assert same_bits(weights, before, 1)
    assert not same_bits(weights, before, 0) and not same_bits(weights, before, 2)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_disturbs_nobody_else(poison):
    batch, weights = some_rollouts(), wild_weights(RUNS)
    gains = batch.advantages.copy()
    gains[1, 2] = poison
    healthy, _ = stepped(weights, batch, num_updates=2)
    beside, report = stepped(weights, batch._replace(advantages=gains), num_updates=2)
    assert report.grad_norm.isfinite().tolist() == [True, False, True]
    assert same_bits(beside, healthy, 0) and same_bits(beside, healthy, 2)
    assert same_bits(beside, weights, 1)


@pytest.mark.parametrize(("recipe", "on_policy"), [(RECIPE, True), (BF16, False)])
def test_zero_advantages_leave_every_bit_after_several_updates(recipe, on_policy):
    assert recipe.only_reward_acts
    batch, weights = some_rollouts(on_policy=on_policy), wild_weights(RUNS)
    batch = batch._replace(advantages=np.zeros((RUNS, ROLLOUTS)))
    after, report = stepped(weights, batch, recipe, num_updates=3)
    assert all(same_bits(after, weights, run) for run in range(RUNS))
    assert not report.grad_norm.any()


@pytest.mark.parametrize("term", [{"kl_coef": 0.1}, {"entropy_coef": 0.01}, {"weight_decay": 0.01}])
def test_any_other_term_moves_the_weights_without_a_reward_and_the_recipe_says_so(term):
    recipe = RECIPE.model_copy(update=term)
    assert not recipe.only_reward_acts
    batch, weights = some_rollouts(), wild_weights(RUNS)
    base = batch.old_logprobs if recipe.kl_coef else None
    batch = batch._replace(advantages=np.zeros((RUNS, ROLLOUTS)), base_logprobs=base)
    after, report = stepped(weights, batch, recipe)
    assert not any(same_bits(after, weights, run) for run in range(RUNS))
    assert (report.kl_base is not None) == (recipe.kl_coef > 0)


def test_clipping_a_run_is_what_pytorch_does_to_a_model_of_its_own():
    rng = seeds.generator("tests", "clip")
    stacked = [
        torch.zeros(RUNS, 4, 5, requires_grad=True),
        torch.zeros(RUNS, 6, requires_grad=True),
    ]
    for weight in stacked:
        weight.grad = torch.from_numpy(rng.standard_normal(weight.shape, dtype=np.float32))
        grad(weight).mul_(torch.tensor([0.01, 1.0, 100.0]).view(-1, *[1] * (weight.ndim - 1)))
    single = [[torch.zeros_like(w[run]) for w in stacked] for run in range(RUNS)]
    for run, weights in enumerate(single):
        for weight, source in zip(weights, stacked, strict=True):
            weight.grad = grad(source)[run].clone()
    norms = clip_per_run(stacked, 1.0)
    for run, weights in enumerate(single):
        expected = torch.nn.utils.clip_grad_norm_(weights, 1.0)
        assert norms[run].item() == pytest.approx(expected.item(), rel=1e-6)
        for weight, source in zip(weights, stacked, strict=True):
            torch.testing.assert_close(grad(source)[run], weight.grad)
    assert norms[0] < 1 < norms[2], (
        "one run must not need clipping, or clipping all alike would pass"
    )


def test_the_optimizer_is_pytorchs_adamw_run_by_run():
    recipe = RECIPE.model_copy(update={"weight_decay": 0.05, "adam_beta1": 0.8})
    batch, weights = some_rollouts(), wild_weights(RUNS)
    together, _ = stepped(weights, batch, recipe, num_updates=3)
    for run in range(RUNS):
        alone = trained(own(weights, run))
        optimizer = torch.optim.AdamW(
            alone.values(), lr=1e-3, betas=(0.8, 0.95), eps=1e-8, weight_decay=0.05, fused=False
        )
        part = of_run(batch, run).batch()
        for _ in range(3):
            optimizer.zero_grad()
            backward(alone, part, torch.tensor([True]), recipe, SHAPE, compiled=False)
            torch.nn.utils.clip_grad_norm_(alone.values(), recipe.max_grad_norm)
            optimizer.step()
        moved = torch.cat([(together[n][run] - weights[n][run]).flatten() for n in weights])
        expected = torch.cat([(alone[n][0] - weights[n][run]).flatten() for n in weights])
        # Adam divides by the gradient's own size, so rounding shows where there is hardly a gradient.
        assert relative_gap(moved.detach(), expected.detach()) < 1e-2


def test_the_report_counts_what_the_surrogate_clips():
    batch, weights = some_rollouts(on_policy=False), wild_weights(RUNS)
    _, report = stepped(weights, batch)
    now = score(weights, batch.batch().trees, batch.completions, RECIPE, SHAPE, compiled=False)
    for run in range(RUNS):
        low = high = count = 0
        largest = kl = 0.0
        for r in range(ROLLOUTS):
            for t in range(TOKENS):
                if batch.completions[run, r, t] == PAD:
                    continue
                log_ratio = (now[run, r, t] - batch.old_logprobs[run, r, t]).double()
                ratio, gain = log_ratio.exp().item(), batch.advantages[run, r].item()
                low += gain < 0 and ratio < 1 - RECIPE.epsilon_low
                high += gain > 0 and ratio > 1 + RECIPE.epsilon_high
                largest = max(largest, abs(log_ratio.item()))
                kl += ratio - log_ratio.item() - 1
                count += 1
        assert low and high, "nothing clipped shows nothing"
        assert report.clip_low[run].item() == pytest.approx(low / count, abs=1e-6)
        assert report.clip_high[run].item() == pytest.approx(high / count, abs=1e-6)
        assert report.ratio_max[run].item() == pytest.approx(largest, rel=1e-3)
        assert report.approx_kl[run].item() == pytest.approx(kl / count, rel=1e-3)


def test_on_policy_nothing_is_clipped_whatever_the_sampler_recorded():
    batch = some_rollouts()
    _, report = stepped(
        wild_weights(RUNS), batch._replace(old_logprobs=batch.old_logprobs - 5), BF16
    )
    for exact in (report.clip_low, report.clip_high, report.ratio_max, report.approx_kl):
        assert not exact.any()
