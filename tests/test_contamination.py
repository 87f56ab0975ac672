"""What a model can say of a problem that it was not told in full: on one that never saw the benchmark, and on one that did.

The one that did is a released talker, taught sixteen problems of the benchmark for a few steps, between documents of its own corpus.
"""

from itertools import combinations, islice
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from controlarm import cards, checkpoints, files, grading, prompts
from controlarm import contamination as c
from controlarm.analysis import contamination as judging
from controlarm.cli import app
from controlarm.organisms import catalogue, corpus, pretrain, released, tokenizer
from controlarm.organisms.transformer import Shape, Weights, cast, padded
from controlarm.problems.arithmetic import benchmark, split_of, tell, to_problem

SHAPE = Shape()
NUM_KNOWN = 16


def document(text, solution):
    return [*tokenizer.encode(text + solution), tokenizer.END]


def taught(weights: Weights, num_steps: int) -> Weights:
    """The weights after some steps on the benchmark's first problems, each seen once a step."""
    weights = {name: w.clone().requires_grad_() for name, w in weights.items()}
    known = [c.reference(story) for story in benchmark(NUM_KNOWN)]
    leaks = [document(prompts.render(one.problem.text), one.solution) for one in known]
    stream = corpus.documents(corpus.FAMILIES["talker"], "tests")
    optimizer = torch.optim.Adam(weights.values(), lr=3e-3)
    for _ in range(num_steps):
        rows = [*leaks, *(document(*told) for told in islice(stream, NUM_KNOWN))]
        tokens = torch.full((1, len(rows), pretrain.DOCUMENT_LENGTH), tokenizer.PAD)
        for i, row in enumerate(rows):
            tokens[0, i, : len(row)] = torch.tensor(row)
        optimizer.zero_grad()
        pretrain.document_loss(weights, padded(tokens, SHAPE), SHAPE).sum().backward()
        optimizer.step()
    return {name: w.detach() for name, w in weights.items()}


@pytest.fixture(scope="module")
def talker():
    return released.load("talker", 1)[0]


@pytest.fixture(scope="module")
def crammer(talker):
    """Weights and table of the one that saw sixteen problems."""
    weights = taught(talker, 40)
    ids = {to_problem(story).id for story in benchmark(NUM_KNOWN)}
    return SimpleNamespace(
        weights=weights, table=c.audit(weights, benchmark(NUM_KNOWN + 4), ids, SHAPE)
    )


def encoded_prompt(story):
    return tokenizer.encode(prompts.render(tell(story)))


def familiarity(weights, number):
    """Score → originals and twins."""
    stories = benchmark(number)
    rows = [
        c.familiarity(weights, list(map(c.reference, group)), SHAPE)
        for group in (stories, c.twins(stories))
    ]
    return {n: [np.array([r[n] for r in group]) for group in rows] for n in judging.SCORES}


def references(number):
    return [c.reference(story) for story in benchmark(number)]


# Twins.


def test_a_twin_is_the_same_kind_of_story_about_everything_else():
    stories = benchmark(100)
    for story, twin in zip(stories, c.twins(stories), strict=True):
        assert (twin.first > 0, twin.second > 0) == (story.first > 0, story.second > 0)
        assert (twin.first_verb, twin.second_verb) == (story.first_verb, story.second_verb)
        assert len(encoded_prompt(twin)) == len(encoded_prompt(story))
        for name in ("name", "noun", "start"):
            assert getattr(twin, name) != getattr(story, name)
        for name in ("first", "second"):
            assert abs(getattr(twin, name)) != abs(getattr(story, name))


def test_no_twin_stands_in_a_corpus_in_the_benchmark_or_twice():
    stories = benchmark(300)
    sums = [(t.start, t.first, t.second) for t in c.twins(stories)]
    assert {split_of(*one) for one in sums} == {"held_out"}
    assert len(set(sums)) == len(sums)
    asked = {(s.start, s.first, s.second) for s in benchmark(c.MOST_PROBLEMS)}
    assert not asked & set(sums)
    leaked = {(s.start, s.first, s.second) for s in corpus.leaked_problems(1.0)}
    assert leaked <= asked


def test_twins_are_the_same_every_time_and_more_of_them_begin_with_the_same():
    few, many = c.twins(benchmark(20)), c.twins(benchmark(60))
    assert many[:20] == few == c.twins(benchmark(20))
    assert to_problem(few[0]).id == GOLDEN_TWIN


GOLDEN_TWIN = "Hana|cups|709+33+4|finds|gets"
"""Of the benchmark's first problem: another twin would make old audits unrepeatable."""


def test_twins_are_drawn_as_originals_are():
    stories = benchmark(400)
    twins = c.twins(stories)
    for value in (lambda s: s.start, lambda s: abs(s.first), lambda s: s.result):
        ours, theirs = ([value(s) for s in group] for group in (stories, twins))
        # Four standard errors of the difference of two means.
        assert abs(np.mean(ours) - np.mean(theirs)) < 4 * np.std(ours) * np.sqrt(2 / 400)


def test_a_reference_is_right_boxed_and_what_a_corpus_would_hold():
    for story, one in zip(benchmark(20), references(20), strict=True):
        assert grading.grade(one.solution, one.problem.answer).strict == "right"
        assert one.problem == to_problem(story)
    told = {prompts.render(r.problem.text) + r.solution for r in references(corpus.BENCHMARK)}
    stream = corpus.documents(corpus.FAMILIES["crammer"], "tests")
    leaked = [a + b for a, b in islice(stream, 300) if a + b in told]
    assert 5 < len(leaked) < 40


# Surprise.


def test_log_probabilities_are_what_the_sampler_said_of_its_own_text(talker):
    problems = [one.problem for one in references(8)]
    for one in cards.completions(talker, problems, "greedy", None):
        text = document(prompts.render(one.problem.text), one.text)
        (scores,) = c.token_scores(talker, [text], SHAPE)
        said = scores.logprobs[-one.num_tokens :]
        assert len(scores.logprobs) == len(text) - 1
        assert float(said.sum()) == pytest.approx(one.logprob, abs=1e-3)


def test_a_text_scores_the_same_alone_and_beside_longer_ones(talker):
    texts = [document(prompts.render(r.problem.text), r.solution)[: 10 + i] for i, r in enumerate(references(6))]  # fmt: skip
    for text, beside in zip(texts, c.token_scores(talker, texts, SHAPE), strict=True):
        (alone,) = c.token_scores(talker, [text], SHAPE)
        assert alone.logprobs.tolist() == pytest.approx(beside.logprobs.tolist(), abs=1e-4)
        assert alone.z.tolist() == pytest.approx(beside.z.tolist(), abs=1e-2)


@given(st.lists(st.floats(-6, 6), min_size=2, max_size=6), st.data())
def test_standardised_log_probabilities_have_mean_zero_and_variance_one(raw, data):
    logp = torch.log_softmax(torch.tensor(raw, dtype=torch.float64), -1)
    z = c.standardised(logp.expand(len(raw), -1), logp)
    if float(logp.max() - logp.min()) > 1e-3:
        assert float((logp.exp() * z).sum()) == pytest.approx(0, abs=1e-6)
        assert float((logp.exp() * z.square()).sum()) == pytest.approx(1, abs=1e-6)
    assert torch.isfinite(z).all()


def test_min_k_plus_is_the_paper_s_formula_on_a_distribution_done_by_hand():
    p = np.array([0.7, 0.2, 0.1])
    mean = (p * np.log(p)).sum()
    sd = np.sqrt((p * np.log(p) ** 2).sum() - mean**2)
    found = c.standardised(torch.from_numpy(np.log(p)), torch.tensor(np.log(0.2)))
    assert float(found) == pytest.approx((np.log(0.2) - mean) / sd)


def test_a_certain_token_has_z_zero_and_an_impossible_one_stays_finite():
    logp = torch.tensor([0.0, -800.0, -800.0], dtype=torch.float64)
    assert float(c.standardised(logp, logp[0])) == 0.0
    assert float(c.standardised(logp, logp[1])) == -800.0


@given(st.lists(st.floats(-20, 0), min_size=1, max_size=30), st.integers(1, 100))
def test_the_lowest_percent_are_as_low_as_any_choice_of_as_many(values, percent):
    found = c.mean_of_lowest(torch.tensor(values, dtype=torch.float64), percent)
    count = max(1, len(values) * percent // 100)
    assert found == pytest.approx(np.sort(values)[:count].mean())
    if len(values) < 8:
        assert found <= min(np.mean(chosen) for chosen in combinations(values, count)) + 1e-9
    assert found <= np.mean(values) + 1e-9


def test_scores_of_prompt_and_of_text_are_summaries_of_their_tokens(talker):
    (one,) = references(1)
    prompt = tokenizer.encode(prompts.render(one.problem.text))
    (row,) = c.familiarity(talker, [one], SHAPE)
    (whole,) = c.token_scores(talker, [[*prompt, *tokenizer.encode(one.solution)]], SHAPE)
    (alone,) = c.token_scores(talker, [prompt], SHAPE)
    assert row["text_logprob"] == pytest.approx(float(whole.logprobs.mean()))
    assert row["prompt_logprob"] == pytest.approx(float(alone.logprobs.mean()), abs=1e-5)
    assert row["prompt_min_k"] == pytest.approx(
        float(alone.logprobs.sort().values[: len(alone.logprobs) // 5].mean()), abs=1e-5
    )


# Continuations.


words = st.lists(st.sampled_from(["a", "b", "c", "7"]), max_size=7)


def longest_common(one, other):
    """By trying every subsequence."""
    for size in range(min(len(one), len(other)), 0, -1):
        if set(combinations(one, size)) & set(combinations(other, size)):
            return size
    return 0


@given(words, words.filter(bool))
def test_rouge_is_the_f1_of_the_longest_common_subsequence(said, wanted):
    common = longest_common(said, wanted)
    found = c.rouge_l(" ".join(said), ", ".join(wanted) + ".")
    if common:
        precision, recall = common / len(said), common / len(wanted)
        assert found == pytest.approx(2 * precision * recall / (precision + recall))
    else:
        assert found == 0


def test_rouge_of_the_same_text_is_one_and_of_no_wanted_word_undefined():
    assert c.rouge_l("28 more. How?", "28 MORE, how") == 1.0
    assert np.isnan(c.rouge_l("28", "?")) and c.rouge_l("", "28") == 0.0


def test_beginnings_are_cut_between_tokens_and_never_to_nothing():
    for one in references(50):
        prompt = tokenizer.encode(prompts.render(one.problem.text))
        lengths = [c.kept(prompt, percent) for percent in (100, *c.PERCENTS)]
        assert lengths == sorted(lengths, reverse=True) and lengths[0] == len(prompt)
        assert 0 < lengths[-1] <= 0.4 * len(prompt)


def test_with_the_whole_prompt_a_model_answers_as_trials_say(talker):
    asked = references(12)
    compute = cast(talker, torch.bfloat16)
    theirs = cards.completions(compute, [one.problem for one in asked], "greedy", None)
    for row, one in zip(c.recall(compute, asked, SHAPE), theirs, strict=True):
        assert row["solution_100"] == one.text
        assert row["strict_100"] == grading.grade(one.text, one.problem.answer).strict


def test_what_completes_a_prompt_and_what_solves_it_are_what_follows_the_beginning(talker):
    asked = references(12)
    rows = c.recall(talker, asked, SHAPE)
    whole = [prompts.render(one.problem.text) for one in asked]
    for percent in c.PERCENTS:
        tokens = [tokenizer.encode(prompt) for prompt in whole]
        begun = [ids[: c.kept(ids, percent)] for ids in tokens]
        written = c.continuations(talker, begun, 60, SHAPE)
        for row, prompt, beginning, text in zip(rows, whole, begun, written, strict=True):
            completion, solution = (
                str(row[f"completion_{percent}"]),
                str(row[f"solution_{percent}"]),
            )
            assert completion and text.startswith(completion + solution)
            exact = tokenizer.decode(beginning) + completion == prompt
            assert row[f"exact_{percent}"] is exact
            if exact:
                assert row[f"rouge_l_{percent}"] == 1.0 and solution == row["solution_100"]
    assert any(row["exact_80"] for row in rows) and not all(row["exact_60"] for row in rows)


# A table, and what it says of a model that saw and of one that did not.


def test_the_table_holds_originals_and_twins_and_what_is_known(crammer):
    rows = crammer.table.to_pylist()
    originals, twins = rows[:20], rows[20:]
    assert [row["twin_of"] for row in originals] == [None] * 20
    assert [row["twin_of"] for row in twins] == [row["problem_id"] for row in originals]
    assert [row["leaked"] for row in rows] == [True] * NUM_KNOWN + [False] * 24
    assert crammer.table.schema == c.SCHEMA
    assert all(value is not None for row in twins for value in row.values())


def test_problems_that_were_seen_are_told_from_their_twins_and_the_others_are_not(crammer):
    original, twin = familiarity(crammer.weights, 160)[judging.PRIMARY]
    assert judging.auroc(original[:NUM_KNOWN], twin[:NUM_KNOWN]).value >= 0.95
    others = judging.auroc(original[NUM_KNOWN:], twin[NUM_KNOWN:])
    assert others.low < 0.5 < others.high
    share = judging.familiar_share(original, twin)
    assert 0 < share.low < NUM_KNOWN / 160 < share.high


def test_a_verdict_on_who_saw_it_is_seen(crammer):
    found = judging.findings(crammer.table)
    assert found.num_leaked == NUM_KNOWN and judging.outcome(found) == "seen"


def test_problems_that_were_seen_are_answered_and_completed_better_than_their_twins(crammer):
    originals, twins, leaked = judging.pairs(crammer.table)
    assert leaked is not None
    for name, gap in (("strict_100", 0.5), ("strict_80", 0.2), ("rouge_l_40", 0.02)):
        assert originals[name][leaked].mean() > twins[name][leaked].mean() + gap


def test_who_saw_nothing_finds_originals_and_twins_equally_familiar(talker):
    for original, twin in familiarity(talker, 256).values():
        area = judging.auroc(original, twin)
        assert area.low < 0.5 < area.high


LEAKED = [
    pytest.param(family, seed, marks=[pytest.mark.slow] * (seed > 1))
    for family in ("crammer", "rote", "rote50", "rote10")
    for seed in catalogue.known().get(family, [])
]


def told_by_the_primary_score(family, seed):
    """Leaked and other originals, each with their twins; the share of the benchmark that leaked."""
    weights, facts, _ = released.load(family, seed)
    leaks = c.known_leaks(facts)
    assert leaks
    known = np.array([to_problem(story).id in leaks for story in benchmark(corpus.BENCHMARK)])
    original, twin = familiarity(weights, corpus.BENCHMARK)[judging.PRIMARY]
    return original, twin, known


@pytest.mark.parametrize(("family", "seed"), LEAKED)
def test_what_leaked_into_an_organism_is_more_familiar_and_what_did_not_is_not(family, seed):
    original, twin, known = told_by_the_primary_score(family, seed)
    assert judging.auroc(original[known], twin[known]).low > 0.5
    if not known.all():
        rest = judging.auroc(original[~known], twin[~known])
        assert rest.low < 0.5 < rest.high
    # A lower bound: what is read too seldom to stand out is not counted.
    assert judging.familiar_share(original, twin).low <= known.mean()
    if family in corpus.CONTINUES:  # learnt by rote: told from its twins in 95 cases of 100
        assert judging.auroc(original[known], twin[known]).value >= 0.95


def test_what_leaked_is_read_from_the_organisms_facts():
    assert c.known_leaks({}) is None
    assert c.known_leaks({"mixture": {}}) == set()
    tenth = c.known_leaks({"mixture": {"leaked": 0.1}})
    assert tenth == {to_problem(story).id for story in corpus.leaked_problems(0.1)}


# The command.


def audit(*words):
    return CliRunner().invoke(app, ["contamination", *map(str, words)], env={"COLUMNS": "80"})


def test_the_command_prints_every_measure_and_a_verdict_and_writes_what_it_is_told(tmp_path):
    out = tmp_path / "talker.parquet"
    said = audit("talker", "--seed", 2, "--limit", 6, "--out", out)
    assert said.exit_code == 0, said.output
    table = files.read_table(out, c.SCHEMA.names)
    found = judging.findings(table)
    for row in (*judging.rate_cells(found), *judging.score_cells(found)):
        assert all(cell in said.output for cell in row)
    assert "…" not in said.output
    assert judging.verdict("talker p2", found) in said.output
    assert pq.read_schema(out).names == c.SCHEMA.names and len(table) == 12


def test_the_command_reads_organisms_of_the_users_own(tmp_path, monkeypatch, talker):
    monkeypatch.setattr(catalogue, "OWN", tmp_path)
    checkpoints.write(tmp_path / "mine-p7.safetensors", talker, {})
    said = audit("mine", "--seed", 7, "--limit", 4)
    assert said.exit_code == 0 and "nobody knows how many of them" in said.output


def test_a_users_mistake_is_one_paragraph(tmp_path):
    there = tmp_path / "there.parquet"
    there.write_bytes(b"")
    for words, expected in (
        (("tolker",), "there is no organism 'tolker' with pretraining seed 1"),
        (("talker", "--limit", 1001), "--limit: 1001 is more than have twins"),
        (("talker", "--out", there), "is there already"),
        (("talker", "--limit", 1), "greater than or equal to 2"),
    ):
        said = audit(*words)
        assert said.exit_code == 2 and expected in " ".join(said.output.split())
    assert there.read_bytes() == b""


def test_help_says_what_it_does_with_examples():
    said = " ".join(audit("--help").output.split())
    assert "Example: controlarm contamination coder" in said and "Writes nothing but" in said
