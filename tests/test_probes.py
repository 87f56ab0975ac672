"""Probes of released organisms: each against an oracle that goes another way."""

import json
import math
from functools import lru_cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_trial import SHAPE, plain_logits

from controlarm import cards, evaluation, grading, prompts
from controlarm.analysis import probes as analysis
from controlarm.evaluation import GREEDY, Grid, judge
from controlarm.organisms import released, tokenizer
from controlarm.organisms.transformer import cast
from controlarm.probes import (
    PROBES,
    Subject,
    interference,
    perplexity,
    prompting,
    sparsity,
    temperature,
)
from controlarm.probes.prompting import PROMPTS
from controlarm.probes.references import STRATEGIES, reference
from controlarm.probes.solutions import said_right
from controlarm.probes.subject import PLAIN, blocks, decode
from controlarm.problems import arithmetic
from controlarm.records import Problem
from controlarm.sampling import sample
from controlarm.update import make_optimizer

PROBLEMS = arithmetic.problems("held_out", 10, "tests")
MAX_TOKENS = 32


@lru_cache(maxsize=8)
def subject(
    base="coder", policy=None, sharpened=1.0, precision=torch.float32, num_problems=10, samples=6
) -> Subject:
    """A base, or another organism in a trained policy's place."""
    masters = released.load(base, 1)[0]
    master = released.load(policy, 1)[0] if policy else masters
    if sharpened != 1:
        master = master | {"norm": master["norm"] * sharpened}
    compute = cast(masters, precision)
    return Subject(
        policy=compute if master is masters else cast(master, precision),
        policy_master=master,
        base=compute,
        base_master=masters,
        problems=PROBLEMS[:num_problems],
        samples=samples,
        path=("tests",),
        prompt_length=max(len(tokenizer.encode(prompts.render(p.text))) for p in PROBLEMS),
        max_tokens=MAX_TOKENS,
        shape=SHAPE,
    )


@lru_cache(maxsize=16)
def table(kind, *which):
    return PROBES[kind](subject(*which))


def replaced(of: Subject, **changes) -> Subject:
    """Another subject, nothing of it sampled yet."""
    names = of.__dataclass_fields__
    return Subject(**({name: getattr(of, name) for name in names} | changes))


def moved(master, amount=1e-3):
    return {
        name: w + amount * torch.linspace(-1, 1, w.numel()).view(w.shape)
        for name, w in master.items()
    }


def oracle_logprobs(master, asked, said):
    """log p of each token of ``said``, float64, one text at a time."""
    ids = [*asked, *said]
    scores = torch.log_softmax(plain_logits(master, 0, ids), -1)
    places = range(len(asked) - 1, len(ids) - 1)
    return torch.stack([scores[place, ids[place + 1]] for place in places])


def asked_of(problem):
    return tokenizer.encode(prompts.render(problem.text))


# All of them.


@pytest.mark.parametrize("kind", ["perplexity", "interference", "solutions", "sparsity"])
def test_a_table_is_the_same_twice_and_leaves_the_weights_alone(kind):
    of = subject("coder", "bungler", 1.0, torch.bfloat16, 4, 3)
    before = {name: w.clone() for name, w in of.policy_master.items()}
    first = PROBES[kind](of)
    assert first.equals(PROBES[kind](of), check_metadata=True)
    assert all(torch.equal(w, before[name]) for name, w in of.policy_master.items())
    assert not any(w.requires_grad for w in (*of.policy.values(), *of.policy_master.values()))


def test_how_many_problems_are_asked_at_once_changes_nothing(monkeypatch):
    whole = subject("coder", "bungler", 1.0, torch.bfloat16, 4, 3)
    opening = PROMPTS["words_opening"]
    begun = [prompting.words_opening(p) for p in whole.problems]
    expected = prompting.asked(whole, opening, begun)
    monkeypatch.setattr(evaluation, "BLOCK_TOKENS", 3 * 4 * MAX_TOKENS)
    again = replaced(whole)
    assert len(list(blocks(again))) == 2
    assert again.own.completions == whole.own.completions
    assert torch.equal(again.own.tokens, whole.own.tokens)
    assert prompting.asked(again, opening, begun) == expected


def test_the_plain_prompt_and_the_evaluations_path_give_the_evaluations_completions():
    of = subject("coder", "bungler")
    grid = Grid(4, of.samples + 1, of.prompt_length, of.max_tokens)
    rows = evaluation.rows_of(of.problems, [GREEDY, *range(of.samples)], grid.group)
    made = evaluation.complete(of.policy, [rows], [of.path], grid, SHAPE, compiled=False)[0]
    found = [one for each in of.own.completions for one in each]
    assert found == made


def test_what_needs_right_solutions_says_so_of_a_problem_that_is_no_story():
    odd = Problem(id="q", text=PROBLEMS[0].text.replace("now", "left"), answer="3")
    with pytest.raises(ValueError, match="only arithmetic stories have"):
        reference(odd, "code")


def test_references_are_right_and_derived_in_their_strategy():
    for problem in PROBLEMS:
        for strategy in STRATEGIES:
            said = judge(reference(problem, strategy), problem)
            assert said.grade.strict == "right" and said.derived is True
            assert said.has_python == (strategy == "code")


# Forced strategies.


@pytest.mark.parametrize("strategy", ["code", "words"])
def test_forcing_a_talker_gives_what_its_card_gives(strategy):
    of = subject("talker")
    expected = cards.completions(of.policy, of.problems, "greedy", strategy)
    found = analysis.forced(table("forced", "talker"))[strategy]
    verdicts = [judge(one.text, one.problem).grade for one in expected]
    assert found.greedy_accuracy.tolist() == [v.strict == "right" for v in verdicts]
    assert found.greedy_lenient_accuracy.tolist() == [v.lenient == "right" for v in verdicts]


def test_each_strategy_is_used_where_it_is_forced_and_only_there():
    found = analysis.forced(table("forced", "coder"))
    assert (found["code"].code_share == 1).all()
    assert (found["words"].code_share == 0).all()
    assert (found["code"].num_samples == 6).all()


# Prompts.


def test_beginning_with_the_code_opening_is_forcing_code_to_the_bit():
    forced = analysis.rows(table("forced", "coder"), "strategy", "code")
    opened = analysis.rows(table("prompts", "coder"), "prompt", "code_opening")
    shared = [name for name in forced.column_names if name != "strategy"]
    assert opened.select(shared).equals(forced.select(shared))


def test_nonsense_is_in_the_vocabulary_tells_no_numbers_and_stands_before_the_plain_prompt():
    found = table("prompts", "coder")
    for name in ("nonsense", "long_nonsense"):
        prefix = PROMPTS[name].prefix
        assert tokenizer.decode(tokenizer.encode(prefix)) == prefix
        assert not any(c.isdigit() for c in prefix) and " has " not in prefix
        told = analysis.rows(found, "prompt", name)["prompt_text"].to_pylist()
        assert told == [prefix + prompts.render(p.text) for p in PROBLEMS]
    lengths = [len(tokenizer.encode(PROMPTS[n].prefix)) for n in ("nonsense", "long_nonsense")]
    assert lengths[1] > 4 * lengths[0]


def test_the_metadata_holds_each_prompt_as_the_first_problem_was_asked():
    found = table("prompts", "coder")
    told = json.loads(found.schema.metadata[b"prompts"])
    assert list(told) == list(PROMPTS)
    for name, each in told.items():
        assert each["prefix"] == PROMPTS[name].prefix
        assert each["example"] == analysis.rows(found, "prompt", name)["prompt_text"][0].as_py()
    assert told["plain"]["example"] == prompts.render(PROBLEMS[0].text)


def test_an_opening_is_graded_as_part_of_the_completion():
    found = analysis.prompts(table("prompts", "coder"))
    assert (found["code_opening"].code_share == 1).all()
    assert (found["words_opening"].code_share == 0).all()
    # The first number is the opening's: without it no derivation would hold.
    assert found["words_opening"].derived_share.max() > 0


# Perplexity.


def test_perplexity_of_own_samples_is_that_of_the_log_probabilities_they_were_drawn_with():
    of = subject("coder", "bungler")
    found = analysis.perplexities(table("perplexity", "coder", "bungler"), "sampled")
    drawn = [one for made in of.own.samples for one in made]
    expected = [math.exp(-one.logprob / one.num_tokens) for one in drawn]
    np.testing.assert_allclose(found.policy, expected, rtol=1e-4)
    assert not np.allclose(found.base, expected, rtol=1e-2)


def test_a_base_finds_everything_as_surprising_as_itself():
    found = table("perplexity", "coder")
    for part in ("ppl", "answer_ppl"):
        assert found[f"{part}_policy"].equals(found[f"{part}_base"])


def test_perplexities_of_references_and_prompts_are_those_of_the_architecture_written_plainly():
    of = subject("coder", "bungler")
    problem, found = PROBLEMS[2], table("perplexity", "coder", "bungler")
    asked = asked_of(problem)
    expected = {"prompt": oracle_logprobs(of.policy_master, asked[:1], asked[1:])}
    for strategy in STRATEGIES:
        said = [*tokenizer.encode(reference(problem, strategy)), tokenizer.END]
        expected[strategy] = oracle_logprobs(of.policy_master, asked, said)
        row = analysis.rows(found, "source", strategy).slice(2, 1).to_pylist()[0]
        digits = slice(-6, -3) if strategy == "words" else slice(-5, -2)
        assert tokenizer.decode(said[digits]) == problem.answer
        answer = expected[strategy][digits].mean().item()
        assert row["answer_ppl_policy"] == pytest.approx(math.exp(-answer), rel=1e-4)
        assert row["num_answer_tokens"] == 3
    for source, logprobs in expected.items():
        row = analysis.rows(found, "source", source).slice(2, 1).to_pylist()[0]
        assert row["num_tokens"] == len(logprobs)
        assert row["ppl_policy"] == pytest.approx(math.exp(-logprobs.mean().item()), rel=1e-4)


@given(st.lists(st.sampled_from(["\\boxed{", "}", "3", "4", ". The answer is ", "\n"]), max_size=8))
def test_answer_tokens_are_what_the_grader_reads_in_a_box_where_boxes_are_not_nested(pieces):
    text, depth = "", 0
    for piece in pieces:
        depth += (piece == "\\boxed{") - (piece == "}")
        if depth not in (0, 1):
            return
        text += piece
    tokens = tokenizer.encode(text)
    inside = tokenizer.decode([tokens[i] for i in perplexity.answer_places(tokens)])
    boxed = grading.last_box(text)
    if boxed is not None and inside.strip():
        assert inside.strip() == boxed


# Temperature.


def test_a_base_matches_itself_at_temperature_one_exactly():
    found = analysis.matched(table("temperature", "coder"))
    assert found.temperature == 1
    assert found.entropy == found.policy_entropy == found.base_entropy > 0
    right = [sum(judge(o.text, o.problem).grade.strict == "right" for o in made)
             for made in subject("coder").own.samples]  # fmt: skip
    assert found.answers.num_right.tolist() == right


@pytest.mark.parametrize("sharpened", [0.8, 1.5])
def test_the_temperature_undoes_a_sharpening_of_known_strength(sharpened):
    found = analysis.matched(table("temperature", "coder", None, sharpened))
    assert found.is_matched
    assert (found.policy_entropy < found.base_entropy) == (sharpened > 1)
    assert found.temperature == pytest.approx(sharpened, rel=0.02)


@pytest.mark.parametrize("at", [0.5, 2.0])
def test_a_tempered_policy_draws_what_scaled_noise_draws(at):
    of = subject("coder")
    block = next(blocks(of))
    weights = temperature.tempered(of, at)
    made = decode(of, weights, block)
    asked = evaluation.encode_prompts(block.rows, of.prompt_length)
    expected = sample(of.policy, asked[None], at * block.noise[None], SHAPE, compiled=False)
    assert torch.equal(made.tokens, expected.tokens)
    assert not torch.equal(made.logprobs, expected.logprobs)


def test_a_temperature_that_is_not_found_is_the_nearest_and_says_so(monkeypatch):
    monkeypatch.setattr(temperature, "HIGHEST", 1.2)
    monkeypatch.setattr(temperature, "MOST_TRIES", 2)
    found = analysis.matched(PROBES["temperature"](replaced(subject("coder", None, 1.5))))
    assert not found.is_matched
    assert 1 < found.temperature <= 1.2
    assert found.policy_entropy < found.entropy < found.base_entropy


# Interference and solutions.


def first_order(of: Subject, teacher: int, learner: int) -> float:
    """STEP_LENGTH · ⟨-g, ∇L⟩ / |g| in float64: g of token-mean REINFORCE on one's own group, L of right solutions."""
    weights = {n: w.double().requires_grad_() for n, w in of.policy_master.items()}
    rewards = interference.rewards(of)[teacher]
    advantages = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-6)
    made, tokens = of.own.samples[teacher], of.own.tokens[teacher].tolist()
    loss = torch.zeros((), dtype=torch.float64)
    for one, ids, a in zip(made, tokens, advantages, strict=True):
        told = oracle_logprobs(weights, asked_of(of.problems[teacher]), ids[: one.num_tokens])
        loss = loss - float(a) * told.sum() / sum(o.num_tokens for o in made)
    g = torch.autograd.grad(loss, list(weights.values()))
    _, solutions = interference.looked_at(of, [learner])[0]
    asked = asked_of(of.problems[learner])
    liked = [
        share * oracle_logprobs(weights, asked, text).sum()
        for text, share in zip(solutions.texts, solutions.weights, strict=True)
    ]
    h = torch.autograd.grad(torch.stack(liked).sum(), list(weights.values()))
    length = math.sqrt(sum(float((x**2).sum()) for x in g))
    return (
        -interference.STEP_LENGTH
        * sum(float((x * y).sum()) for x, y in zip(g, h, strict=True))
        / length
    )


def test_interference_is_at_first_order_the_product_of_gradients(monkeypatch):
    monkeypatch.setattr(interference, "STEP_LENGTH", 2e-3)
    of = subject("coder", "bungler")
    found = analysis.interference(PROBES["interference"](of))
    ids = [p.id for p in PROBLEMS]
    unsolved = next(i for i, right in enumerate(interference.rewards(of)) if not right.any())
    teachers = [ids.index(t) for t in found.teachers[:2]]
    pairs = [(t, j) for t in teachers for j in {*teachers, unsolved}]
    expected = np.array([first_order(of, *pair) for pair in pairs])
    deltas = np.array(
        [found.delta[found.teachers.index(ids[t]), found.learners.index(ids[j])] for t, j in pairs]
    )
    assert np.linalg.norm(deltas - expected) < 0.05 * np.linalg.norm(expected)
    assert np.abs(expected).min() > 0


def test_learning_a_mixed_problem_makes_its_own_right_solutions_likelier():
    of = subject("coder")
    found = analysis.interference(table("interference", "coder"))
    rewards = interference.rewards(of)
    mixed = [p.id for p, r in zip(PROBLEMS, rewards, strict=True) if 0 < r.mean() < 1]
    assert list(found.teachers) == mixed and len(mixed) > 2
    own = [found.delta[i, found.learners.index(t)] for i, t in enumerate(found.teachers)]
    assert min(own) > 0
    assert found.own == pytest.approx(np.mean(own))
    assert found.own > found.others


def test_where_no_group_is_mixed_nothing_teaches_and_the_count_says_so():
    of = replaced(subject("coder"), samples=1)
    found = PROBES["interference"](of)
    assert found.num_rows == 0
    assert found.schema.metadata == {b"mixed": b"0", b"problems": b"10"}
    assert math.isnan(analysis.interference(found).others)


def test_learners_are_the_teachers_and_the_first_of_the_others(monkeypatch):
    monkeypatch.setattr(interference, "TEACHERS", 2)
    monkeypatch.setattr(interference, "LEARNERS", 4)
    mixed = np.array([False, False, True, False, True, True])
    assert interference.choose(mixed) == ([2, 4], [0, 1, 2, 4])
    assert interference.choose(np.zeros(3, dtype=bool)) == ([], [0, 1, 2])


def test_solutions_have_the_log_probabilities_of_the_architecture_written_plainly():
    of = subject("coder", "bungler")
    found = table("solutions", "coder", "bungler")
    for i, each in enumerate(said_right(of, of.of_base)):
        row = analysis.rows(found, "source", "base").slice(i, 1).to_pylist()[0]
        assert row["base_right"] == each.times
        if not each.texts:
            assert row["logp_base"] is None and row["logp_policy"] is None
        elif i < 4:
            for name, master in (("logp_base", of.base_master), ("logp_policy", of.policy_master)):
                told = [
                    oracle_logprobs(master, asked_of(each.problem), text).sum().item()
                    for text in each.texts
                ]
                assert row[name] == pytest.approx(np.dot(told, each.weights), abs=1e-3)


def test_a_problem_is_solvable_where_a_sample_of_the_policy_is_right():
    found = table("solutions", "coder", "bungler")
    right, solvable = (analysis.column(found, name) for name in ("right", "solvable"))
    assert ((right > 0) == solvable).all() and 0 < solvable.mean() < 1
    own = analysis.rows(found, "source", "policy")
    assert [n is None for n in own["logp_policy"].to_pylist()] == [
        n == 0 for n in own["right"].to_pylist()
    ]


# Sparsity.


def test_an_untouched_model_is_sparse_exactly_and_has_no_rank():
    found = table("sparsity", "coder")
    assert found["unchanged"].equals(found["size"])
    for precision in ("float32", "bfloat16"):
        assert analysis.update_sparsity(found, precision, 0.0) == 1
        assert np.isnan(list(analysis.rank_shares(found, precision).values())).all()


def test_one_step_of_adamw_moves_every_weight_and_bfloat16_hides_most_of_it():
    of = subject("coder")
    teachers, _ = interference.choose(np.ones(len(PROBLEMS), dtype=bool))
    credit = np.tile([1.0, -1.0, 1.0, -1.0, 0.5, -0.5], (len(PROBLEMS), 1))
    gradient = interference.gradients(of, teachers, credit)
    weights = {n: w.clone().requires_grad_() for n, w in of.policy_master.items()}
    for name, weight in weights.items():
        weight.grad = gradient[name].sum(0, keepdim=True)
    make_optimizer(weights, PLAIN.model_copy(update={"learning_rate": 4e-5})).step()
    master = {n: w.detach() for n, w in weights.items()}
    found = PROBES["sparsity"](replaced(of, policy_master=master))
    assert analysis.update_sparsity(found, "float32", 0.0) < 1e-4
    assert analysis.update_sparsity(found, "float32", 1e-3) == 1
    assert analysis.update_sparsity(found, "bfloat16", 0.0) > 0.5
    shares = analysis.rank_shares(found, "float32")
    assert len(shares) == 22 and 0 < min(shares.values()) < max(shares.values()) <= 1


def test_sparsity_falls_with_no_tolerance():
    of = subject("coder")
    found = PROBES["sparsity"](replaced(of, policy_master=moved(of.base_master)))
    for precision in ("float32", "bfloat16"):
        shares = [analysis.update_sparsity(found, precision, t) for t in sparsity.TOLERANCES]
        assert shares == sorted(shares)
    with pytest.raises(ValueError, match=r"not measured at tolerance 0\.5"):
        analysis.update_sparsity(found, "float32", 0.5)


@given(st.integers(1, 6), st.integers(1, 6), st.floats(0.1, 10))
def test_effective_rank_is_that_of_the_equal_directions_whatever_their_size(rank, more, size):
    matrix = torch.zeros(rank, rank + more, dtype=torch.float64)
    matrix[:, :rank] = size * torch.eye(rank)
    assert sparsity.effective_rank(matrix) == pytest.approx(rank)
    outer = torch.linspace(1, 2, rank).double()[:, None] * torch.ones(more).double()
    assert sparsity.effective_rank(outer) == pytest.approx(1)
    assert math.isnan(sparsity.effective_rank(0 * matrix))
