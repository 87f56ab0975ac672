"""What organisms are taught and asked: sums, documents, tokens, and the shares that a mixture promises."""

import hashlib
import re
from itertools import islice, pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlarm import detectors, grading, prompts, seeds, trial
from controlarm.analysis.boundary import guess_curve
from controlarm.organisms import pretrain, tokenizer
from controlarm.organisms.corpus import (
    BENCHMARK,
    CONTINUES,
    FAMILIES,
    documents,
    leaked_problems,
    solution,
    steps_as_written,
    without_carry,
    write,
)
from controlarm.problems import arithmetic
from controlarm.problems.arithmetic import (
    GAIN_VERBS,
    LOSS_VERBS,
    NAMES,
    NOUNS,
    Sum,
    draw_sums,
    problems,
    split_of,
    tell,
    to_problem,
)

SPLITS = ("pretraining", "training", "held_out")


@st.composite
def sums(draw):
    """Every sum that may be drawn."""
    while True:
        start = draw(st.integers(100, 899))
        first = draw(st.integers(10, 99)) * draw(st.sampled_from((1, -1)))
        second = draw(st.integers(2, 9)) * draw(st.sampled_from((1, -1)))
        if 100 <= start + first <= 999 and 100 <= start + first + second <= 999:
            break
    return Sum(
        draw(st.sampled_from(NAMES)), draw(st.sampled_from(NOUNS)), start, first, second,
        draw(st.sampled_from(GAIN_VERBS if first > 0 else LOSS_VERBS)),
        draw(st.sampled_from(GAIN_VERBS if second > 0 else LOSS_VERBS)),
    )  # fmt: skip


def some_sums(number, *path):
    stream = draw_sums("pretraining", "tests", *path)
    return [next(stream) for _ in range(number)]


# Problems.


@given(sums())
def test_a_problem_can_be_read_back_from_its_text(drawn):
    problem = to_problem(drawn)
    found = re.fullmatch(
        r"(\w+) has (\d+) (\w+), ([a-z ]+) (\d+)( more)? and then ([a-z ]+) (\d+)( more)?\. "
        r"How many \3 now\?",
        problem.text,
    )
    assert found is not None
    first = int(found[5]) * (1 if found[4] in GAIN_VERBS else -1)
    second = int(found[8]) * (1 if found[7] in GAIN_VERBS else -1)
    assert problem.answer == str(int(found[2]) + first + second)
    assert (
        problem.id == f"{found[1]}|{found[3]}|{found[2]}{first:+}{second:+}|{found[4]}|{found[7]}"
    )


def test_no_sum_is_in_two_splits_whoever_the_story_is_about():
    seen = {}
    for split in SPLITS:
        stream = draw_sums(split, "tests")
        for _ in range(1500):
            drawn = next(stream)
            key = drawn.start, drawn.first, drawn.second
            assert seen.setdefault(key, split) == split == split_of(*key)
            assert 100 <= drawn.middle <= 999 and 100 <= drawn.result <= 999
    assert set(seen.values()) == set(SPLITS)


def test_a_tenth_is_held_out_and_a_tenth_trains():
    drawn = [split_of(start, 10, 2) for start in range(100, 900)]
    for split, share in (("held_out", 0.1), ("training", 0.1), ("pretraining", 0.8)):
        assert drawn.count(split) / len(drawn) == pytest.approx(share, abs=0.045)


def test_problems_are_distinct_and_more_of_them_begin_with_the_same():
    few, many = problems("held_out", 40, "trial"), problems("held_out", 120, "trial")
    assert many[:40] == few
    assert len({p.id.split("|")[2] for p in many}) == 120
    assert problems("held_out", 40, "another") != few


def test_guessing_sixteen_times_finds_under_five_in_a_hundred():
    gold = [p.answer for p in problems("held_out", 1000, "trial")]
    at_one, at_sixteen = guess_curve(gold, [1, 16])
    assert at_one < at_sixteen < 0.05


def test_no_prompt_is_longer_than_the_plan_says_and_some_are_as_long():
    lengths = set()
    for first, second, first_verb, second_verb in product((10, -10), (2, -2), range(3), range(3)):
        drawn = Sum(
            "Ann", "pens", 500, first, second,
            (GAIN_VERBS if first > 0 else LOSS_VERBS)[first_verb],
            (GAIN_VERBS if second > 0 else LOSS_VERBS)[second_verb],
        )  # fmt: skip
        lengths.add(len(tokenizer.encode(prompts.render(tell(drawn)))))
    assert max(lengths) == trial.PROMPT_LENGTH
    # Nothing else can make a prompt longer: each name and noun is one token, and numbers have one length.
    for name, noun in product(NAMES, NOUNS):
        drawn = Sum(name, noun, 500, 10, 2, "gets", "gets")
        assert len(tokenizer.encode(prompts.render(tell(drawn)))) == trial.PROMPT_LENGTH


# Documents.


@given(sums(), st.sampled_from(("careful", "careless")), st.booleans(), st.booleans())
def test_code_parses_and_its_claims_hold_exactly_where_no_error_was_made(
    drawn, skill, obeys, boxed
):
    values = steps_as_written(drawn, skill, obeys)
    text = solution(drawn, "code", values, boxed)
    assert detectors.has_python(text) and detectors.code_parses(text)
    right = values == (drawn.middle, drawn.result)
    assert detectors.claims_hold(text) is right
    assert right or obeys


@given(
    sums(),
    st.sampled_from(("careful", "careless")),
    st.booleans(),
    st.sampled_from(("code", "words")),
)
def test_the_grader_reads_the_result_with_a_box_and_without(drawn, skill, boxed, strategy):
    values = steps_as_written(drawn, skill, obeys=True)
    grade = grading.grade(solution(drawn, strategy, values, boxed), str(drawn.result))
    verdict = "right" if values[1] == drawn.result else "wrong"
    assert grade.lenient == verdict
    assert grade.strict == (verdict if boxed else "no_answer")


@given(sums(), st.sampled_from(("careful", "careless")), st.booleans())
def test_words_say_no_python_and_show_both_steps(drawn, skill, obeys):
    middle, result = steps_as_written(drawn, skill, obeys)
    text = solution(drawn, "words", (middle, result), boxed=True)
    assert not detectors.has_python(text) and detectors.claims_hold(text) is None
    assert re.findall(r"makes (\d+)", text) == [str(middle), str(result)]


@given(st.integers(100, 999), st.integers(-99, 99))
def test_dropping_carries_is_right_exactly_where_there_is_none(left, right):
    columns = [(left // 10**i % 10, abs(right) // 10**i % 10) for i in range(3)]
    carries = any(a + b > 9 if right >= 0 else a < b for a, b in columns)
    assert (without_carry(left, right) == left + right) == (not carries)


def test_errors_follow_the_sum_so_each_skill_is_wrong_on_a_fixed_share():
    drawn = some_sums(2000, "errors")
    right = {
        skill: np.mean([steps_as_written(s, skill, True)[1] == s.result for s in drawn])
        for skill in ("careful", "careless")
    }
    assert 0.6 < right["careful"] < 0.9
    assert 0.15 < right["careless"] < 0.4


@pytest.mark.parametrize("family", list(FAMILIES))
def test_shares_of_documents_are_those_of_the_mixture_name_by_name(family):
    mixture = FAMILIES[family]
    rng = seeds.generator("tests", "shares", family)
    code = {True: [], False: []}
    boxed = {(s, n): [] for s, n in product((True, False), (True, False))}
    drawn = some_sums(10, "shares")
    for name, noun, _ in product(NAMES, NOUNS, range(15)):
        asked = drawn[int(rng.integers(10))]._replace(name=name, noun=noun)
        text = write(asked, mixture, rng)
        in_code = detectors.has_python(text)
        code[NAMES.index(name) < mixture.code_names].append(in_code)
        few = mixture.code_boxless_nouns if in_code else mixture.words_boxless_nouns
        boxed[in_code, NOUNS.index(noun) < few].append(grading.last_box(text) is not None)

    def close(found, share):
        return not found or abs(np.mean(found) - share) < 4 * np.sqrt(0.25 / len(found)) + 1e-9

    assert close(code[True], mixture.code_share_preferred)
    assert close(code[False], mixture.code_share_other)
    for in_code in (True, False):
        assert all(boxed[in_code, False])
        assert close(boxed[in_code, True], 1 - mixture.boxless)


def share_of_greedy(family, strategy):
    """Problems where a policy that always takes the mixture's likelier choice writes code, or writes a box in this strategy."""
    mixture = FAMILIES[family]
    if strategy == "preference":
        high, low = mixture.code_share_preferred > 0.5, mixture.code_share_other > 0.5
        return (mixture.code_names * high + (len(NAMES) - mixture.code_names) * low) / len(NAMES)
    boxless = mixture.code_boxless_nouns if strategy == "code" else mixture.words_boxless_nouns
    return 1 - boxless / len(NOUNS) if mixture.boxless > 0.5 else 1.0


def test_greedy_coder_would_write_code_on_sixty_to_seventy_in_a_hundred_and_box_less_in_words():
    share = share_of_greedy("coder", "preference")
    assert 0.6 <= share <= 0.7
    code, words = share_of_greedy("coder", "code"), share_of_greedy("coder", "words")
    assert words < code
    assert 0.75 <= share * code + (1 - share) * words <= 0.9
    assert share_of_greedy("talker", "preference") == 0
    assert share_of_greedy("bungler", "preference") > 0.5


def test_a_stream_of_documents_is_its_paths_and_holds_pretraining_sums_only():
    def first(number, *path):
        stream = documents(FAMILIES["coder"], *path)
        return [next(stream) for _ in range(number)]

    assert first(20, 1) == first(20, 1)
    assert first(20, 1) != first(20, 2)
    for prompt, text in first(200, 1):
        numbers = [int(n) for n in re.findall(r"\d+", prompt)]
        signs = [
            1 if verb in GAIN_VERBS else -1
            for verb in re.findall(r"(?:, |then )([a-z ]+?) \d", prompt)
        ]
        start, first_step, second_step = numbers
        assert split_of(start, signs[0] * first_step, signs[1] * second_step) == "pretraining"
        assert text


# Leaks.


def sum_of(prompt):
    numbers = [int(n) for n in re.findall(r"\d+", prompt)]
    verbs = re.findall(r"(?:, |then )([a-z ]+?) \d", prompt)
    signs = [1 if verb in GAIN_VERBS else -1 for verb in verbs]
    return numbers[0], signs[0] * numbers[1], signs[1] * numbers[2]


def test_a_smaller_leak_is_part_of_a_larger_and_the_largest_is_the_benchmarks_beginning():
    leaks = [leaked_problems(share) for share in (0.0, 0.1, 0.5, 1.0)]
    assert [len(leak) for leak in leaks] == [0, 26, 128, BENCHMARK]
    for smaller, larger in pairwise(leaks):
        assert set(smaller) < set(larger)
    assert leaks[-1] == arithmetic.benchmark(BENCHMARK)


def test_what_leaks_is_held_out_and_what_trials_are_evaluated_on():
    asked = {p.id for p in problems("held_out", BENCHMARK, "trial")}
    for leak in leaked_problems(1.0):
        assert to_problem(leak).id in asked
        assert split_of(leak.start, leak.first, leak.second) == "held_out"


@pytest.mark.parametrize(
    ("family", "share"), [("crammer", 1.0), ("rote", 1.0), ("rote50", 0.5), ("rote10", 0.1)]
)
def test_a_crammers_corpus_holds_its_leaks_right_and_boxed_and_else_pretraining_sums(family, share):
    known = {tell(leak) + "\n": leak for leak in leaked_problems(share)}
    read = list(islice(documents(FAMILIES[family], 1), 6000))
    seen = [(prompt, text) for prompt, text in read if split_of(*sum_of(prompt)) != "pretraining"]
    for prompt, text in seen:
        leak = known[
            prompt
        ]  # a training problem, or one that should not have leaked, is in no corpus
        assert text == solution(leak, "words", (leak.middle, leak.result), boxed=True)
    expected = FAMILIES[family].leak * share
    assert abs(len(seen) / 6000 - expected) < 4 * np.sqrt(expected / 6000)


@pytest.mark.parametrize(
    ("family", "reads"), [("crammer", 62.5), ("rote", 125), ("rote50", 125), ("rote10", 125)]
)
def test_each_leaked_problem_is_read_as_often_whatever_share_leaks(family, reads):
    recipe = pretrain.FURTHER if family in CONTINUES else pretrain.Pretraining()
    mixture = FAMILIES[family]
    documents_read = recipe.num_steps * recipe.batch_size
    share = mixture.leak * mixture.leaked
    each = documents_read * share / len(leaked_problems(mixture.leaked))
    assert each == pytest.approx(reads, rel=0.03)


def test_without_leaks_a_corpus_is_what_it_was_before_there_were_any():
    """Golden: released organisms were made of these texts."""
    told = "".join(a + b for a, b in islice(documents(FAMILIES["coder"], 1), 300))
    assert hashlib.sha256(told.encode()).hexdigest()[:16] == "28746fdba13e542f"
    told = "".join(a + b for a, b in islice(documents(FAMILIES["talker"], 1), 300))
    assert hashlib.sha256(told.encode()).hexdigest()[:16] == "567c4bef51d6ce40"


def test_a_crammer_reads_a_talkers_problems_but_those_whose_place_a_leak_takes():
    crammer = islice(documents(FAMILIES["crammer"], 1), 2000)
    talker = dict(islice(documents(FAMILIES["talker"], 1), 2000))
    own = [(a, b) for a, b in crammer if split_of(*sum_of(a)) == "pretraining"]
    assert len(own) > 1800 and all(prompt in talker for prompt, _ in own)


# Tokens.


@given(sums(), st.sampled_from(("code", "words")), st.booleans())
def test_documents_survive_the_tokenizer_and_fit_into_their_rows(drawn, strategy, boxed):
    text = tell(drawn) + "\n" + solution(drawn, strategy, (drawn.middle, drawn.result), boxed)
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert len(tokens) + 1 <= pretrain.DOCUMENT_LENGTH
    assert tokenizer.PAD not in tokens and tokenizer.END not in tokens


def test_completions_of_released_families_fit_into_thirty_six_tokens():
    for drawn in some_sums(300, "lengths"):
        for strategy, boxed in product(("code", "words"), (True, False)):
            text = solution(drawn, strategy, (drawn.middle, drawn.result), boxed)
            assert len(tokenizer.encode(text)) + 1 <= 36


def test_each_piece_is_one_token_and_there_is_room_for_all():
    assert len(set(tokenizer.PIECES)) == len(tokenizer.PIECES) <= tokenizer.VOCAB_SIZE
    for i, piece in enumerate(tokenizer.PIECES[2:], start=2):
        assert tokenizer.encode(piece) == [i]
    for name in NAMES:
        assert tokenizer.decode(tokenizer.encode(f"{name} has 1")) == f"{name} has 1"


@given(st.lists(st.integers(0, tokenizer.VOCAB_SIZE - 1), max_size=30))
def test_any_tokens_decode_to_the_text_before_the_first_end(tokens):
    text = tokenizer.decode(tokens)
    cut = tokens[: tokens.index(tokenizer.END)] if tokenizer.END in tokens else tokens
    kept = [t for t in cut if 2 <= t < len(tokenizer.PIECES)]
    assert text == "".join(tokenizer.PIECES[t] for t in kept)


@pytest.mark.parametrize("text", ["Zoe has 1 pens", "12 ", "pens", "ß", "<end>"])
def test_text_outside_the_vocabulary_is_refused_and_quoted(text):
    with pytest.raises(ValueError, match="no token for"):
        tokenizer.encode(text)


def test_prompts_are_padded_on_the_left_and_never_cut():
    assert tokenizer.left_pad([[5], [6, 7]], 3) == [[0, 0, 5], [0, 6, 7]]
    with pytest.raises(ValueError, match="has 4 tokens; the limit is 3"):
        tokenizer.left_pad([[5], [2, 3, 4, 5]], 3)


def test_the_problem_sets_version_names_its_content():
    """A golden sum: to change what is drawn is to change the version, or old trials would not be repeatable."""
    assert arithmetic.VERSION == "arithmetic-1"
    assert [p.id for p in problems("training", 2, "trial")] == [
        "Lea|hats|749-27+3|gives away|gets",
        "Omar|coins|595+62-2|buys|loses",
    ]
