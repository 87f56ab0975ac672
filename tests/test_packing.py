"""Trees say what their rollouts said: every path, every sight, every sum; and nothing twice."""

import itertools
from collections import Counter
from typing import NamedTuple

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_trial import SHAPE, organisms, plain_logits

from controlarm.organisms.tokenizer import PAD
from controlarm.packing import Layout, pack
from controlarm.protocol import Recipe
from controlarm.update import score, told_by

RUNS, PLACES, TOKENS = 2, 4, 5
RECIPE = Recipe(
    prompts_per_step=1, group_size=2, updates_per_rollout=1, learning_rate=1.0, precision="float32"
)


class Told(NamedTuple):
    """[run][rollout] → prompt and completion, each of at least one token."""

    texts: list[list[tuple[list[int], list[int]]]]
    credit: np.ndarray
    layout: Layout

    @property
    def prompts(self):
        return torch.tensor([[[PAD] * (PLACES - len(p)) + p for p, _ in run] for run in self.texts])

    @property
    def completions(self):
        return torch.tensor([[c + [PAD] * (TOKENS - len(c)) for _, c in run] for run in self.texts])

    @property
    def trees(self):
        return pack(self.prompts, self.completions, self.credit, self.layout, SHAPE)

    def place(self, trees, run, rollout, t):
        """Slot, row and node of a completion token; the slot is its run's."""
        slot, rest = divmod(
            trees.where[run, rollout, t].item(), self.layout.rows * self.layout.length
        )
        assert trees.run[slot] == run
        return slot, *divmod(rest, self.layout.length)


def text(longest):
    """Few words, so that rollouts often begin alike."""
    return st.lists(st.integers(2, 4), min_size=1, max_size=longest)


@st.composite
def told(draw):
    rollouts = draw(st.integers(1, 9))
    rollout = st.tuples(text(PLACES), text(TOKENS))
    run = st.lists(rollout, min_size=rollouts, max_size=rollouts)
    texts = draw(st.lists(run, min_size=RUNS, max_size=RUNS))
    credit = st.lists(st.booleans(), min_size=rollouts, max_size=rollouts)
    credits = np.array(draw(st.lists(credit, min_size=RUNS, max_size=RUNS)))
    length = draw(st.integers(PLACES + TOKENS, 40))
    layout = Layout(draw(st.integers(1, 4)), draw(st.integers(1, 3)), length)
    return Told(texts, credits, layout)


def path(trees, slot, row, node):
    """From the root down."""
    found = [node]
    while (parent := trees.parents[slot, row, found[0]].item()) != found[0]:
        found.insert(0, parent)
    return found


@given(told())
def test_the_path_to_each_token_is_its_rollout_so_far_and_all_that_it_sees(one):
    trees = one.trees
    places = torch.arange(one.layout.length)
    for run, rollouts in enumerate(one.texts):
        for rollout, (prompt, completion) in enumerate(rollouts):
            for t in range(len(completion)):
                slot, row, node = one.place(trees, run, rollout, t)
                above = path(trees, slot, row, node)
                said = trees.nodes.tokens[slot, row, above].tolist()
                assert said == prompt + completion[: t + 1]
                seen = (places <= node) & (node < trees.nodes.ends[slot, row])
                assert seen.nonzero().flatten().tolist() == above


@given(told())
def test_nothing_stands_twice_in_a_row_and_what_fits_one_row_stands_once(one):
    """Rollouts with credit and those without are laid out apart, so where both are in a row a prefix of both stands twice."""
    trees = one.trees
    for run, rollouts in enumerate(one.texts):
        prefixes = {tuple((p + c)[: n + 1]) for p, c in rollouts for n in range(len(p) + len(c))}
        total = 0
        own = (trees.run == run).nonzero().flatten().tolist()
        for slot, row in itertools.product(own, range(one.layout.rows)):
            tokens = trees.nodes.tokens[slot, row]
            nodes = (tokens != PAD).nonzero().flatten().tolist()
            said = [tuple(tokens[path(trees, slot, row, n)].tolist()) for n in nodes]
            assert set(said) <= prefixes
            assert max(Counter(said).values(), default=0) <= len(set(one.credit[run].tolist()))
            total += len(said)
        assert total >= len(prefixes)
        if len(prefixes) <= one.layout.length and one.credit[run].all():
            assert total == len(prefixes)


@given(told())
def test_what_has_credit_comes_first_and_no_slot_with_credit_is_without(one):
    trees = one.trees
    of_token = torch.zeros(len(trees.run), dtype=torch.bool)
    for run, rollout in zip(*one.credit.nonzero(), strict=True):
        of_token[one.place(trees, run, rollout, 0)[0]] = True
    assert of_token.tolist() == [i < trees.num_with_credit for i in range(len(trees.run))]


@given(told())
def test_passes_are_all_slots_in_order_and_alike(one):
    trees = one.trees
    found = list(trees.passes())
    assert torch.equal(torch.cat([p.run for p in found]), trees.run)
    assert torch.equal(torch.cat([p.part.parents for p in found]), trees.parents)
    shape = tuple(one.layout)
    for each in found:
        for x in (each.part.parents, *each.part.nodes):
            assert x.shape[:3] == shape
            assert x.stride() == torch.empty(x.shape).stride(), (
                "or each number of slots is compiled anew"
            )


@given(told(), st.randoms(use_true_random=False))
def test_sums_at_the_nodes_are_those_of_a_plain_loop(one, random):
    trees, real = one.trees, one.completions != PAD
    drawn = [[[random.gauss() for _ in range(TOKENS)] for _ in run] for run in one.texts]
    values = np.where(real, drawn, np.nan)
    expected = torch.zeros(trees.parents.shape, dtype=torch.float64)
    for run, rollout, t in real.nonzero().tolist():
        expected[one.place(trees, run, rollout, t)] += values[run, rollout, t].item()
    torch.testing.assert_close(trees.total(values), expected.float())


@given(told())
def test_what_is_brought_to_the_nodes_comes_back_to_the_tokens(one):
    trees, real = one.trees, one.completions != PAD
    at_nodes = torch.arange(trees.parents.numel()).view(trees.parents.shape).float()
    at_tokens = torch.where(real, trees.spread(at_nodes), 0.0)
    back = trees.gather(at_tokens)
    assert torch.equal(torch.where(real, trees.spread(back), 0.0), at_tokens)
    untouched = torch.ones(trees.parents.numel(), dtype=torch.bool)
    untouched[trees.where[real]] = False
    assert not back.flatten()[untouched].any()
    assert not back[:, 0, 0].any(), "the first node belongs to a prompt"


@given(told())
def test_log_probabilities_and_entropies_are_those_of_a_plain_model(one):
    trees, weights = one.trees, organisms()
    found = score(weights, trees, one.completions, RECIPE, SHAPE, compiled=False)
    entropies = [told_by(p.weights(weights), p.part, SHAPE)[1] for p in trees.passes()]
    entropy = trees.spread(torch.cat(entropies))
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
