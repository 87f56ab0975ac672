"""Losses per token: against plain loops, by enumeration, and by hand-made gradients."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from controlarm.losses import clipped_surrogate, kl_k3, sequence_log_ratio, token_weights

LOGPROB = st.floats(-8, -0.01)
BOUND = st.one_of(st.floats(0.01, 2.0), st.just(math.inf))
GAIN = st.one_of(st.just(0.0), st.floats(-3, 3))


def double(values):
    return torch.as_tensor(values, dtype=torch.float64)


def surrogate(logprob, old, above, below, low, high):
    """Of tokens in a row."""
    logprob, old, above, below = (double(x).reshape(1, 1, -1) for x in (logprob, old, above, below))
    return clipped_surrogate(logprob, old, above, below, low, high)


def plain_surrogate(logprob, old, gain, low, high):
    """One token of PPO's equation 7 in Python numbers."""
    ratio = math.exp(logprob - old)
    bounded = min(max(ratio, 1 - low), 1 + high)
    return -min(ratio * gain, bounded * gain)


@given(st.lists(st.tuples(LOGPROB, LOGPROB, GAIN), min_size=1, max_size=6), BOUND, BOUND)
def test_the_surrogate_is_that_of_a_plain_loop(tokens, low, high):
    logprobs, old, gains = (double(column) for column in zip(*tokens, strict=True))
    found = surrogate(logprobs, old, gains.clamp(min=0), gains.clamp(max=0), low, high)
    expected = [plain_surrogate(new, was, gain, low, high) for new, was, gain in tokens]
    assert found.flatten().tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(LOGPROB, LOGPROB, st.lists(GAIN, min_size=1, max_size=5), BOUND, BOUND)
def test_rollouts_that_share_a_token_need_only_two_sums_of_their_advantages(
    logprob, old, gains, low, high
):
    above, below = sum(max(g, 0) for g in gains), sum(min(g, 0) for g in gains)
    found = surrogate(logprob, old, above, below, low, high)
    expected = sum(plain_surrogate(logprob, old, gain, low, high) for gain in gains)
    assert found.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(LOGPROB, LOGPROB, GAIN)
def test_infinite_bounds_do_not_clip(logprob, old, gain):
    found = surrogate(logprob, old, max(gain, 0), min(gain, 0), math.inf, math.inf)  # fmt: skip
    assert found.item() == pytest.approx(-math.exp(logprob - old) * gain, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("ratio", "gain", "flows"),
    [(1.3, 1.0, False), (1.3, -1.0, True), (0.7, 1.0, True), (0.7, -1.0, False), (1.1, 1.0, True)],
)
def test_the_gradient_stops_only_where_the_policy_has_already_gone_far_enough(ratio, gain, flows):
    logprobs = torch.full((1, 1, 1), math.log(ratio), requires_grad=True)
    gains = torch.full((1, 1, 1), gain)
    clipped_surrogate(
        logprobs, torch.zeros(1, 1, 1), gains.clamp(min=0), gains.clamp(max=0), 0.2, 0.2
    ).sum().backward()
    assert logprobs.grad is not None
    assert bool(logprobs.grad.any()) == flows


@pytest.mark.parametrize("bounds", [(0.2, 0.2), (0.2, 0.28), (math.inf, math.inf)])
def test_the_on_policy_gradient_is_advantage_times_the_gradient_of_log_probability(bounds):
    rng = torch.Generator().manual_seed(1)
    scores = torch.randn(2, 3, 4, 5, generator=rng, dtype=torch.float64, requires_grad=True)
    token = torch.randint(5, (2, 3, 4, 1), generator=rng)
    gains = torch.randn(2, 3, 4, generator=rng, dtype=torch.float64)
    logprobs = torch.log_softmax(scores, -1).gather(-1, token)[..., 0]
    (found,) = torch.autograd.grad(
        clipped_surrogate(
            logprobs, logprobs.detach(), gains.clamp(min=0), gains.clamp(max=0), *bounds
        ).sum(),
        scores,
    )
    one_hot = torch.zeros(2, 3, 4, 5, dtype=torch.float64).scatter(-1, token, 1.0)
    by_hand = -gains[..., None] * (one_hot - torch.softmax(scores.detach(), -1))
    torch.testing.assert_close(found, by_hand, rtol=1e-9, atol=1e-12)


@given(st.lists(st.floats(-3, 3), min_size=3, max_size=3), st.lists(st.floats(-3, 3), min_size=3, max_size=3))  # fmt: skip
def test_k3_is_never_negative_and_its_mean_is_the_divergence(scores, other_scores):
    policy = torch.log_softmax(double(scores), -1)
    other = torch.log_softmax(double(other_scores), -1)
    estimates = kl_k3(policy.view(1, 1, 3), other.view(1, 1, 3)).flatten()
    assert estimates.min() >= -1e-12
    divergence = (policy.exp() * (policy - other)).sum().item()
    assert (policy.exp() * estimates).sum().item() == pytest.approx(divergence, abs=1e-9)


@given(st.lists(st.floats(-3, 3), min_size=3, max_size=3), st.lists(st.floats(-3, 3), min_size=3, max_size=3))  # fmt: skip
def test_the_gradient_of_k3_on_the_policys_samples_is_that_of_the_forward_divergence(
    scores, other_scores
):
    """As a loss on samples k3 pulls like KL(base || policy), the forward one, though its value estimates KL(policy || base)."""
    free = double(scores).requires_grad_()
    policy, other = torch.log_softmax(free, -1), torch.log_softmax(double(other_scores), -1)
    estimates = kl_k3(policy.view(1, 1, 3), other.view(1, 1, 3)).flatten()
    (found,) = torch.autograd.grad((policy.detach().exp() * estimates).sum(), free)
    again = double(scores).requires_grad_()
    forward = (other.exp() * (other - torch.log_softmax(again, -1))).sum()
    (expected,) = torch.autograd.grad(forward, again)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


def test_k3_of_a_policy_with_itself_is_exactly_zero():
    logprobs = torch.tensor([[[-0.1, -2.3, -7.7]]])
    assert not kl_k3(logprobs, logprobs.clone()).any()


@st.composite
def padded(draw):
    """Which tokens are real: every rollout has at least one, padding comes last."""
    runs, rollouts, tokens = (draw(st.integers(1, n)) for n in (3, 5, 6))
    lengths = draw(
        st.lists(
            st.lists(st.integers(1, tokens), min_size=rollouts, max_size=rollouts),
            min_size=runs, max_size=runs,
        )
    )  # fmt: skip
    return torch.arange(tokens) < torch.tensor(lengths)[..., None]


@given(padded(), st.sampled_from(["token_mean", "sequence_mean"]))
def test_token_weights_sum_to_one_in_every_run_and_padding_weighs_nothing(real, aggregation):
    weights = token_weights(real, aggregation)
    torch.testing.assert_close(weights.sum((1, 2)), torch.ones(len(real)))
    assert not weights[~real].any()
    assert (weights[real] > 0).all()


@given(padded())
def test_token_mean_weighs_tokens_alike_and_sequence_mean_rollouts(real):
    for run, kept in zip(token_weights(real, "token_mean"), real, strict=True):
        assert run[kept].unique().numel() == 1
    of_rollouts = token_weights(real, "sequence_mean").sum(2)
    torch.testing.assert_close(of_rollouts, torch.full_like(of_rollouts, 1 / real.shape[1]))


@given(padded())
def test_constant_length_weighs_every_token_alike_whatever_the_lengths(real):
    weights = token_weights(real, "constant_length")
    torch.testing.assert_close(weights[real], torch.full((int(real.sum()),), 1 / real.shape[1] / real.shape[2]))  # fmt: skip


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "constant_length"])
@given(padded())
def test_a_rollout_that_does_not_count_leaves_the_weights_of_the_others_as_if_it_were_not_there(
    aggregation, real
):
    beside = torch.cat((real, torch.zeros_like(real[:, :1])), dim=1)
    alone, found = token_weights(real, aggregation), token_weights(beside, aggregation)
    torch.testing.assert_close(found[:, :-1], alone)
    assert not found[:, -1].any()


@given(padded(), st.integers(0, 10**6))
def test_a_sequences_ratio_is_the_geometric_mean_of_its_tokens(real, seed):
    rng = torch.Generator().manual_seed(seed)
    new, old = (-torch.rand(real.shape, generator=rng, dtype=torch.float64) for _ in range(2))
    found = sequence_log_ratio(new, old, real).exp()
    for run in range(real.shape[0]):
        for rollout in range(real.shape[1]):
            kept = real[run, rollout]
            ratios = (new - old)[run, rollout][kept].exp()
            expected = math.prod(ratios.tolist()) ** (1 / int(kept.sum()))
            assert found[run, rollout].item() == pytest.approx(expected, rel=1e-9)
