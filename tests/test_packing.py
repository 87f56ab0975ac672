"""Trees say what their rollouts said: every path, every sight, every sum; and nothing twice."""

from typing import NamedTuple

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_trial import SHAPE, organisms, plain_logits

from controlarm.organisms.tokenizer import PAD
from controlarm.packing import pack
from controlarm.update import score, token_logprobs

PLACES, TOKENS = 4, 5


class Told(NamedTuple):
    """[run][rollout] → prompt and completion, each of at least one token."""

    texts: list[list[tuple[list[int], list[int]]]]
    length: int

    @property
    def prompts(self):
        return torch.tensor([[[PAD] * (PLACES - len(p)) + p for p, _ in run] for run in self.texts])

    @property
    def completions(self):
        return torch.tensor([[c + [PAD] * (TOKENS - len(c)) for _, c in run] for run in self.texts])

    @property
    def trees(self):
        return pack(self.prompts, self.completions, self.length, SHAPE)


def text(longest):
    """Few words, so that rollouts often begin alike."""
    return st.lists(st.integers(2, 4), min_size=1, max_size=longest)


@st.composite
def told(draw, runs=2):
    rollouts = draw(st.integers(1, 9))
    rollout = st.tuples(text(PLACES), text(TOKENS))
    run = st.lists(rollout, min_size=rollouts, max_size=rollouts)
    texts = draw(st.lists(run, min_size=runs, max_size=runs))
    return Told(texts, draw(st.integers(PLACES + TOKENS, 40)))


def path(trees, run, row, node):
    """From the root down."""
    found = [node]
    while (parent := trees.parents[run, row, found[0]].item()) != found[0]:
        found.insert(0, parent)
    return found


@given(told())
def test_the_path_to_each_token_is_its_rollout_so_far_and_all_that_it_sees(one):
    trees = one.trees
    places = torch.arange(one.length)
    for run, rollouts in enumerate(one.texts):
        for rollout, (prompt, completion) in enumerate(rollouts):
            for t in range(len(completion)):
                row, node = divmod(trees.where[run, rollout, t].item(), one.length)
                above = path(trees, run, row, node)
                said = trees.nodes.tokens[run, row, above].tolist()
                assert said == prompt + completion[: t + 1]
                seen = (places <= node) & (node < trees.nodes.ends[run, row])
                assert seen.nonzero().flatten().tolist() == above


@given(told())
def test_nothing_stands_twice_in_a_row_and_what_fits_one_row_stands_once(one):
    trees = one.trees
    for run, rollouts in enumerate(one.texts):
        prefixes = {tuple((p + c)[: n + 1]) for p, c in rollouts for n in range(len(p) + len(c))}
        total = 0
        for row in range(trees.num_rows):
            nodes = (trees.nodes.tokens[run, row] != PAD).nonzero().flatten().tolist()
            said = [
                tuple(trees.nodes.tokens[run, row, path(trees, run, row, n)].tolist())
                for n in nodes
            ]
            assert len(set(said)) == len(said) and set(said) <= prefixes
            total += len(said)
        assert total >= len(prefixes)
        if len(prefixes) <= one.length:
            assert total == len(prefixes)


@given(told(runs=1))
def test_a_row_is_laid_out_alike_however_many_there_are(one):
    row = one.trees.row(one.trees.num_rows - 1)
    for x in (*row.nodes, row.parents):
        assert x.stride() == torch.empty(x.shape).stride(), (
            "or each number of rows is compiled anew"
        )


@given(told(), st.randoms(use_true_random=False))
def test_sums_at_the_nodes_are_those_of_a_plain_loop(one, random):
    trees, real = one.trees, one.completions != PAD
    values = np.where(real, [[[random.gauss() for _ in range(TOKENS)] for _ in run] for run in one.texts], 0.0)  # fmt: skip
    expected = torch.zeros(trees.parents.shape, dtype=torch.float64)
    for run, rollout, t in real.nonzero().tolist():
        row, node = divmod(trees.where[run, rollout, t].item(), one.length)
        expected[run, row, node] += values[run, rollout, t].item()
    torch.testing.assert_close(trees.total(values), expected.float())


@given(told())
def test_what_is_brought_to_the_nodes_comes_back_to_the_tokens(one):
    trees, real = one.trees, one.completions != PAD
    at_nodes = torch.arange(trees.parents.numel()).view(trees.parents.shape).float()
    at_tokens = torch.where(real, trees.spread(at_nodes), 0.0)
    back = trees.gather(at_tokens)
    assert torch.equal(torch.where(real, trees.spread(back), 0.0), at_tokens)
    untouched = torch.ones(trees.parents.shape, dtype=torch.bool).flatten(1)
    untouched.scatter_(1, torch.where(real, trees.where, 0).flatten(1), False)
    assert not back.flatten(1)[untouched].any()
    assert not back[:, 0, 0].any(), "the first node belongs to a prompt"


@given(told())
def test_log_probabilities_and_entropies_are_those_of_a_plain_model(one):
    trees, weights = one.trees, organisms()
    found = score(weights, trees, one.completions, SHAPE, compiled=False)
    entropy = trees.spread(token_logprobs(weights, trees, SHAPE)[1])
    for run, rollouts in enumerate(one.texts):
        prompt, completion = rollouts[-1]
        logp = torch.log_softmax(plain_logits(weights, run, prompt + completion), -1)
        logp = logp[len(prompt) - 1 : -1]
        expected = logp[range(len(completion)), completion]
        count = len(completion)
        torch.testing.assert_close(found[run, -1, :count], expected.float(), atol=1e-4, rtol=1e-4)
        assert not found[run, -1, count:].any()
        plain = -(logp.exp() * logp).sum(-1).float()
        torch.testing.assert_close(entropy[run, -1, :count], plain, atol=1e-4, rtol=1e-4)
