"""Arms: what each pays, that it sees no more than it declares, that placebos are placebos, and what bad tables get."""

import dataclasses
import itertools
import math
import re
import sys
import tomllib
from fractions import Fraction
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from controlarm import arms, grading, seeds
from controlarm.arms import ARMS, Arm, GroupView, build, check_arm, check_arms
from controlarm.protocol import ArmTable, parse

DOCS = Path(__file__).parent.parent / "docs"

EXAMPLES: dict[str, ArmTable] = {
    "ground_truth": ArmTable(),
    "majority": ArmTable(),
    "incorrect": ArmTable(),
    "format": ArmTable(),
    "random": ArmTable(gamma=0.3),
    "text_coin": ArmTable(gamma=0.3),
    "shuffled": ArmTable(),
    "graded": ArmTable(),
    "one_shot": ArmTable(problem="p"),
    "python": ArmTable(),
    "no_python": ArmTable(),
    "no_repetition": ArmTable(),
    "flipped": ArmTable(p=0.3),
    "noisy": ArmTable(p=0.3),
    "constant": ArmTable(),
    "all_of": ArmTable(of=["random", "format", "majority"]),
    "custom": ArmTable(function="controlarm.arms:ground_truth", reads=["text", "answer"]),
}
"""One table per reward; every test below that says "each arm" runs over these."""

RIGHT, WRONG = r"\boxed{366}", r"\boxed{356}"


def view(*texts: str, **changes) -> GroupView:
    fields: dict[str, Any] = dict(
        problem_id="p", texts=list(texts), answer="366", majority="356", incorrect="323",
        seed=1, step=5, samples=list(range(len(texts))),
    )  # fmt: skip
    return GroupView(**(fields | changes))


def arm(reward: str, name: str = "an_arm", **settings) -> Arm:
    return build(name, ArmTable(reward=reward, **settings), {})


def test_every_row_has_an_example_and_a_line_that_says_what_it_pays():
    assert EXAMPLES.keys() == ARMS.keys()
    for row in ARMS.values():
        assert row.pays and "\n" not in row.pays
        assert row.required <= row.settings <= set(ArmTable.model_fields) - {"reward"}


# What each pays.


@pytest.mark.parametrize(
    ("reward", "text", "paid"),
    [
        ("ground_truth", RIGHT, 1),
        ("ground_truth", r"\boxed{0366.0}", 1),
        ("ground_truth", WRONG, 0),
        ("ground_truth", "The answer is 366.", 0),
        ("graded", RIGHT, 1),
        ("graded", r"\boxed{\frac{732}{2}}", 1),
        ("graded", r"\boxed{366.5}", 1 - 0.25 - 0.25 / (366 + 1e-6)),
        ("graded", r"\boxed{9}", 0.5 - 0.5 * 357 / (366 + 1e-6)),
        ("graded", r"\boxed{x}", 0),
        ("graded", "366", 0),
        ("one_shot", RIGHT, 1),
        ("one_shot", WRONG, 0),
        ("majority", WRONG, 1),
        ("majority", RIGHT, 0),
        ("majority", "The answer is 356.", 0),
        ("incorrect", r"\boxed{$323$}", 1),
        ("incorrect", RIGHT, 0),
        ("format", WRONG, 1),
        ("format", r"\boxed{}", 0),
        ("format", "366", 0),
        ("python", "```Python", 1),
        ("python", "x = 1", 0),
        ("no_python", "```Python", 0),
        ("no_python", "x = 1", 1),
        ("no_repetition", "0123456789" * 9, 1),
        ("no_repetition", "0123456789" * 10, 0),
        ("no_repetition", "a" * 99, 1),
        ("no_repetition", "a" * 100, 0),  # "aaaaaaaaaa" ten times
        ("no_repetition", "012345678" * 10, 1),  # nine characters are too few
        ("no_repetition", "012345678" * 20, 0),  # eighteen are not
        ("no_repetition", "", 1),
        ("no_repetition", "\ud800" * 100, 0),
        ("constant", "", 1),
    ],
)
def test_a_reward_pays_what_its_row_says(reward, text, paid):
    assert arm(reward).pay(view(text)) == [pytest.approx(paid, abs=1e-12)]


@pytest.mark.parametrize("reward", ["majority", "incorrect"])
@pytest.mark.parametrize("label", [None, "", " $ "])
def test_a_missing_label_pays_nobody_not_even_a_missing_answer(reward, label):
    group = view(RIGHT, WRONG, "", r"\boxed{}", r"\boxed{ }", majority=label, incorrect=label)
    assert arm(reward).pay(group) == [0] * 5


@given(
    st.text("ab", max_size=20),
    st.text("ab", min_size=1, max_size=30) | st.text("ab", min_size=250, max_size=260),
    st.integers(1, 22),
    st.text("ab", max_size=20),
)
def test_no_repetition_agrees_with_a_regular_expression(before, unit, count, after):
    text = before + unit * count + after
    repeats = re.search(r"(?s)(.{10,256})\1{9}", text) is not None
    assert arms.no_repetition(text) == float(not repeats)


def test_all_of_pays_the_product_of_its_parts_which_pay_as_they_would_alone():
    tables = {
        "a": ArmTable(reward="noisy", p=0.5),
        "b": ArmTable(reward="all_of", of=["a", "format"]),
    }
    both, noise = build("b", tables["b"], tables), build("a", tables["a"], tables)
    for step in range(20):
        group = view(RIGHT, WRONG, "366", "", step=step)
        truth = [x * y for x, y in zip(noise.pay(group), arm("format").pay(group), strict=True)]
        assert both.pay(group) == truth


def test_all_of_takes_a_reward_that_reads_the_group():
    group = view(*[RIGHT, WRONG, "366"] * 4)
    both = build("x", ArmTable(reward="all_of", of=["shuffled", "format"]), {})
    alone = zip(arm("shuffled").pay(group), arm("format").pay(group), strict=True)
    assert both.pay(group) == [x * y for x, y in alone]


# How answers are compared.


def knows_halves(gold: str, answer: str) -> bool | None:
    """An equality beyond the exact one, which gives up on a question mark."""
    return None if "?" in answer else {gold, answer} <= {"0.5", "1/2"} or gold == answer


def judged(reward: str, form: grading.Form = "box", **settings) -> Arm:
    return build("x", ArmTable(reward=reward, **settings), {}, knows_halves, form)


HALF = r"\boxed{1/2}"


@pytest.mark.parametrize(
    ("reward", "settings", "paid"),
    [
        ("ground_truth", {}, 1),
        ("one_shot", {"problem": "p"}, 1),
        ("one_shot", {"problem": "p", "label": "0.5"}, 1),
        ("majority", {}, 1),
        ("incorrect", {}, 1),
        ("shuffled", {}, 1),
        ("flipped", {"p": 1.0}, 0),
        ("noisy", {"p": 0.0}, 1),
        ("all_of", {"of": ["ground_truth", "majority"]}, 1),
    ],
)
def test_every_reward_that_compares_answers_asks_the_equality_it_was_given_and_unknown_is_a_failure(
    reward, settings, paid
):
    group = view(HALF, HALF, answer="0.5", majority="0.5", incorrect="0.5")
    built = judged(reward, **settings)
    assert built.pay(group) == [paid] * 2
    assert arm(reward, **settings).pay(group) == [1 - paid] * 2
    rewards, failures = built.payment(dataclasses.replace(group, texts=[r"\boxed{?}"] * 2))
    assert all(map(math.isnan, rewards))
    reason = "problem p, sample 0: cannot say whether the answer '?' equals '0.5'"
    assert failures[0].endswith(reason)


def test_shuffled_moves_a_failure_like_any_other_reward():
    texts = [HALF, r"\boxed{?}", r"\boxed{3}", ""]
    places = set()
    for step in range(40):
        rewards, failures = judged("shuffled").payment(view(*texts, answer="0.5", step=step))
        assert len(failures) == 1 and "sample 1: cannot say" in failures[0]
        assert sorted(x for x in rewards if not math.isnan(x)) == [0, 0, 1]
        places.add([math.isnan(x) for x in rewards].index(True))
    assert places == {0, 1, 2, 3}


def test_noisy_asks_nobody_where_it_tosses_its_coin():
    assert judged("noisy", p=1.0).payment(view(*[r"\boxed{?}"] * 9)).failures == []


def test_an_unknown_answer_is_shown_short_and_escaped():
    hostile = "?" + "\x1b[31m" * 10_000
    [message] = judged("ground_truth").payment(view(rf"\boxed{{{hostile}}}")).failures
    assert len(message) < 600 and message.isascii() and message.isprintable()


def test_the_answer_is_looked_for_where_the_prompt_wants_it():
    tagged = "<answer>366</answer>"
    for reward in ("ground_truth", "format"):
        assert arm(reward).pay(view(tagged, RIGHT)) == [0, 1]
        assert judged(reward, "answer_tag").pay(view(tagged, RIGHT)) == [1, 0]


@given(
    st.lists(st.sampled_from([RIGHT, WRONG, HALF, r"\boxed{?}", "<answer>0.5</answer>", "7"]), min_size=1),
    st.sampled_from(["0.5", "366"]),
    st.sampled_from(["box", "answer_tag"]),
)  # fmt: skip
def test_ground_truth_is_the_graders_strict_verdict(texts, gold, form):
    rewards = judged("ground_truth", form).pay(view(*texts, answer=gold))
    for text, reward in zip(texts, rewards, strict=True):
        strict = grading.grade(text, gold, knows_halves, form).strict
        assert strict == "unknown" if math.isnan(reward) else (strict == "right") == reward


# What each may see.

TEXTS = st.sampled_from(
    [RIGHT, WRONG, r"\boxed{323}", "```python\nx = 1\n```", "366", "", "0123456789" * 10]
)
ANSWERS = st.sampled_from(["366", "356", "323", ""])
LABELS = st.none() | ANSWERS
FIELDS = st.fixed_dictionaries(
    {
        "texts": st.lists(TEXTS, min_size=4, max_size=4),
        "answer": ANSWERS,
        "majority": LABELS,
        "incorrect": LABELS,
        "step": st.integers(0, 50),
    }
)


@pytest.mark.parametrize("reward", ARMS)
@given(fields=FIELDS, other=FIELDS, size=st.integers(1, 4))
def test_what_an_arm_does_not_declare_never_changes_its_reward(reward, fields, other, size):
    built = build(reward, EXAMPLES[reward], {})
    group = view(**fields | {"texts": fields["texts"][:size], "samples": list(range(size))})
    paid = built.pay(group)
    texts = other["texts"][:size]
    label = ARMS[reward].label or ("majority" if reward == "all_of" else None)
    swapped = {key: other[key] for key in ("majority", "incorrect") if key != label}
    if "text" not in built.reads:
        swapped["texts"] = texts
    if "answer" not in built.reads:
        swapped["answer"] = other["answer"]
    assert built.pay(dataclasses.replace(group, **swapped)) == paid
    if "group" not in built.reads:
        for i in range(size):
            siblings = [*texts[:i], group.texts[i], *texts[i + 1 :]]
            assert built.pay(dataclasses.replace(group, texts=siblings))[i] == paid[i]
            alone = dataclasses.replace(group, texts=[group.texts[i]], samples=[i])
            assert built.pay(alone) == [paid[i]]


@pytest.mark.parametrize("reward", ARMS)
def test_an_arm_declares_no_more_than_it_uses(reward):
    built = build(reward, EXAMPLES[reward], {})
    steps = range(30)
    texts = [RIGHT, WRONG, "python " + "ab" * 60 + r"\boxed{323}", "366", *map(str, range(30))]
    groups = [view(*texts, step=step) for step in steps]
    paid = [built.pay(group) for group in groups]

    def changes(**fields) -> bool:
        return paid != [built.pay(dataclasses.replace(group, **fields)) for group in groups]

    assert changes(texts=[WRONG] * len(texts)) is ("text" in built.reads)
    assert changes(answer="356") is ("answer" in built.reads)
    assert changes(majority="366", incorrect="356") is ("label" in built.reads)
    assert (
        changes(seed=2)
        is changes(problem_id="q")
        is ("replicate" in ARMS[reward].settings or reward == "all_of")
    )


@pytest.mark.parametrize("reads", [["text"], ["answer"], ["text", "answer"], []])
def test_a_custom_reward_is_called_with_what_it_declares_and_nothing_else(reads, own_module):
    module = own_module("seen = []\ndef reward(**shown):\n    seen.append(shown)\n    return 1\n")
    built = build("mine", ArmTable(reward="custom", function=f"{module}:reward", reads=reads), {})
    assert built.reads == frozenset(reads)
    assert built.pay(view("a", "b")) == [1, 1]
    everything = [{"text": "a", "answer": "366"}, {"text": "b", "answer": "366"}]
    assert sys.modules[module].seen == [{key: shown[key] for key in reads} for shown in everything]


# Placebos are placebos.

CONTENT_FREE = [reward for reward, row in ARMS.items() if row.content_free]


def truths(n: int) -> list[tuple[int, ...]]:
    return list(itertools.product([0, 1], repeat=n))


def texts_of(truth: tuple[int, ...]) -> list[str]:
    return [RIGHT if right else WRONG for right in truth]


def test_the_content_free_arms_are_random_shuffled_and_constant():
    assert CONTENT_FREE == ["random", "shuffled", "constant"]


@pytest.mark.parametrize("n", [2, 3, 4])
def test_shuffled_pays_right_and_wrong_alike_over_all_permutations(n):
    for truth in truths(n):
        sums = [Fraction(0)] * n
        for ranks in itertools.permutations(range(n)):
            coins = [rank / n for rank in ranks]
            paid = arms.shuffled(truth, coins)
            assert sorted(paid) == sorted(truth)
            sums = [total + Fraction(x) for total, x in zip(sums, paid, strict=True)]
        assert {total / math.factorial(n) for total in sums} == {Fraction(sum(truth), n)}


@pytest.mark.parametrize("n", [2, 3, 4])
def test_all_permutations_come_from_the_coins_and_a_derangement_would_be_an_anti_treatment(n):
    orders = [
        tuple(arms.permutation([r / n for r in ranks]))
        for ranks in itertools.permutations(range(n))
    ]
    assert len(set(orders)) == math.factorial(n)
    derangements = [order for order in orders if all(i != j for i, j in enumerate(order))]
    for truth in truths(n):
        off = [t - Fraction(sum(truth), n) for t in truth]
        variance = sum(x**2 for x in off)

        def correlation(chosen, off=off, variance=variance):
            each = [sum(off[i] * off[j] for i, j in enumerate(order)) for order in chosen]
            return sum(each) / len(each) / variance

        if variance:
            assert correlation(orders) == 0
            assert correlation(derangements) == Fraction(-1, n - 1)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_the_keyed_permutation_is_uniform(n):
    counts = dict.fromkeys(itertools.permutations(range(n)), 0)
    for step in range(200 * len(counts)):
        coins = [seeds.uniform(3, "shuffled", 0, "p", step, i) for i in range(n)]
        counts[tuple(arms.permutation(coins))] += 1
    assert stats.chisquare(list(counts.values())).pvalue > 0.001


def random_over_a_grid(gamma: Fraction, truth: tuple[int, ...]) -> tuple[Fraction, Fraction]:
    """Exact mean reward of the right and of the wrong samples over all combinations of four equally likely coins."""
    grid = [Fraction(k, 4) + Fraction(1, 8) for k in range(4)]
    paid = {0: Fraction(0), 1: Fraction(0)}
    for coins in itertools.product(grid, repeat=len(truth)):
        for right, coin in zip(truth, coins, strict=True):
            paid[right] += Fraction(arms.random(float(coin), float(gamma)))
    weight = len(grid) ** len(truth)
    return paid[1] / (weight * truth.count(1)), paid[0] / (weight * truth.count(0))


@pytest.mark.parametrize("gamma", [Fraction(0), Fraction(1, 4), Fraction(1, 2), Fraction(1)])
def test_random_pays_right_and_wrong_alike_over_all_coins(gamma):
    for n in (2, 3, 4):
        for truth in truths(n)[1:-1]:
            assert random_over_a_grid(gamma, truth) == (gamma, gamma)


@pytest.mark.parametrize("reward", CONTENT_FREE)
@pytest.mark.parametrize("n", [2, 3, 4])
def test_a_content_free_arm_pays_right_and_wrong_alike_over_many_keys(reward, n):
    built = build(reward, EXAMPLES[reward], {})
    mixed = truths(n)[1:-1]
    differences = []
    for step in range(600 // len(mixed)):
        for truth in mixed:
            paid = built.pay(view(*texts_of(truth), problem_id=str(truth), step=step))
            means = [
                sum(x for x, right in zip(paid, truth, strict=True) if right == side)
                / truth.count(side)
                for side in (1, 0)
            ]
            differences.append(means[0] - means[1])
    # Five standard errors; of an anti-treatment's -1/(n-1) six hundred groups would show ten.
    assert abs(mean(differences)) <= 5 * pstdev(differences) / math.sqrt(len(differences))


def test_random_pays_at_its_rate_over_twenty_thousand_keys():
    keys = itertools.product("abcde", range(100), range(40))
    coins = [seeds.uniform(1, "random", 0, problem, step, sample) for problem, step, sample in keys]
    for gamma in (0.5, 0.3, 0.001):
        paid = sum(arms.random(coin, gamma) for coin in coins)
        assert stats.binomtest(int(paid), 20_000, gamma).pvalue > 0.001


@pytest.mark.parametrize("p", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("reward", ["flipped", "noisy"])
def test_the_faults_of_flipped_and_noisy_come_at_their_rate_on_both_sides(reward, p):
    built = arm(reward, p=p)
    share = p if reward == "flipped" else p / 2
    for text, truth in ((RIGHT, 1), (WRONG, 0)):
        wrong = sum(
            x != truth for step in range(20) for x in built.pay(view(*[text] * 100, step=step))
        )
        assert stats.binomtest(wrong, 2000, share).pvalue > 0.001


# Coins.


def coins_of(built: Arm, **where) -> list[float]:
    return [
        x
        for step in range(4)
        for x in built.pay(view(*[RIGHT, WRONG] * 8, **{"step": step} | where))
    ]


@pytest.mark.parametrize(
    "reward",
    [r for r, row in ARMS.items() if "replicate" in row.settings and row.coin == "sample"],
)
def test_coins_are_keyed_by_seed_replicate_problem_step_and_sample_and_by_nothing_else(reward):
    table = EXAMPLES[reward]
    settings = {key: getattr(table, key) for key in table.model_fields_set}
    first = arm(reward, "one", **settings)
    paid = coins_of(first)
    assert paid == coins_of(arm(reward, "another", **settings))
    assert paid == coins_of(arm(reward, replicate=0, **settings))
    others = [
        coins_of(arm(reward, replicate=1, **settings)),
        coins_of(first, seed=2),
        coins_of(first, problem_id="q"),
        coins_of(first, samples=list(range(16, 32))),
        [x for step in range(4, 8) for x in first.pay(view(*[RIGHT, WRONG] * 8, step=step))],
    ]
    assert paid not in others
    assert len({tuple(other) for other in others}) == len(others)


def test_each_reward_tosses_its_own_coins_by_the_documented_key():
    group = view(*[""] * 50)
    for i, paid in enumerate(arm("random", replicate=2).pay(group)):
        assert paid == float(seeds.uniform(1, "random", 2, "p", 5, i) < 0.5)
    texts = view(*[WRONG] * 50)
    assert (
        arm("random").pay(texts)
        != arm("flipped", p=0.5).pay(texts)
        != arm("noisy", p=1.0).pay(texts)
    )


def test_a_text_coin_is_the_texts_own_whatever_step_and_sample_and_pays_at_its_rate():
    texts = [f"text {i}" for i in range(2000)]
    paid = arm("text_coin", gamma=0.3).pay(view(*texts))
    assert paid == [float(seeds.uniform(1, "text_coin", 0, "p", text) < 0.3) for text in texts]
    assert paid == arm("text_coin", gamma=0.3).pay(view(*texts, step=9, samples=[7] * 2000))
    for other in (dict(seed=2), dict(problem_id="q")):
        assert paid != arm("text_coin", gamma=0.3).pay(view(*texts, **other))
    assert paid != arm("text_coin", gamma=0.3, replicate=1).pay(view(*texts))
    assert stats.binomtest(int(sum(paid)), 2000, 0.3).pvalue > 0.001
    assert not ARMS["text_coin"].content_free


# Custom rewards.


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """Writes the user's module into the current folder and gives its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    before = set(sys.modules)
    numbers = itertools.count()

    def write(source: str) -> str:
        name = f"own_reward_{next(numbers)}"
        (tmp_path / f"{name}.py").write_text(source)
        return name

    yield write
    for name in set(sys.modules) - before:
        if name.startswith("own_reward_"):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise KeyError('no such\\nthing')", "raised KeyError: 'no such\\nthing'"),
        ("return float('nan')", "returned nan, not a finite number"),
        ("return float('inf')", "returned inf, not a finite number"),
        ("return 10 ** 400", "returned inf, not a finite number"),
        ("return None", "returned a NoneType, not a number"),
        ("return [1.0]", "returned a list, not a number"),
        ("return '1'", "returned a str, not a number"),
        ("return 1j", "returned a complex, not a number"),
        (
            "class Odd(Exception):\n        def __str__(self): raise ValueError\n    raise Odd()",
            "raised Odd",
        ),
        ("assert False", "raised AssertionError"),
    ],
)
def test_a_custom_reward_that_fails_is_counted_with_its_reason_and_never_a_silent_zero(
    body, reason, own_module
):
    source = f"def reward(text):\n    if text == 'fine': return 0.25\n    {body}\n"
    table = ArmTable(reward="custom", function=f"{own_module(source)}:reward")
    rewards, failures = build("mine", table, {}).payment(view("fine", "bad", "fine"))
    assert rewards[0] == rewards[2] == 0.25 and math.isnan(rewards[1])
    assert failures == [f"arms.mine: problem p, sample 1: {reason}"]
    both = ArmTable(reward="all_of", of=["mine", "constant"])
    paid = build("both", both, {"mine": table, "both": both}).payment(view("fine", "bad"))
    assert paid.rewards[0] == 0 and math.isnan(paid.rewards[1]) and paid.failures == failures


@pytest.mark.parametrize(
    ("value", "paid"),
    [
        ("True", 1.0),
        ("3", 3.0),
        ("-0.5", -0.5),
        ("numpy.float32(0.5)", 0.5),
        ("numpy.bool_(True)", 1.0),
    ],
)
def test_a_custom_reward_may_return_any_finite_number(value, paid, own_module):
    module = own_module(f"import numpy\ndef reward(text): return {value}\n")
    table = ArmTable(reward="custom", function=f"{module}:reward")
    rewards = build("mine", table, {}).pay(view("x"))
    assert rewards == [paid] and type(rewards[0]) is float


@pytest.mark.parametrize(
    ("source", "function", "message"),
    [
        ("", "nothing", 'not of the form "module:function"'),
        ("", ":f", 'not of the form "module:function"'),
        ("", "../own:f", 'not of the form "module:function"'),
        ("", "no_such_module_at_all:f", "importing 'no_such_module_at_all' from"),
        ("raise OSError('no disk')", "{}:f", "failed with OSError: no disk"),
        ("import sys; sys.exit(3)", "{}:f", "failed with SystemExit: 3"),
        ("def f(:", "{}:f", "failed with SyntaxError"),
        ("def reward(text): return 1", "{}:rewrd", "did you mean 'reward'?"),
        ("f = 3", "{}:f", "no function 'f'"),
        ("def f(): return 1", "{}:f", "cannot be called as f(text=…)"),
        (
            "def f(text, answer): return 1",
            "{}:f",
            "missing a required argument: 'answer'; arms.mine.reads",
        ),
        ("def f(completion): return 1", "{}:f", "cannot be called as f(text=…)"),
    ],
)
def test_a_function_that_cannot_be_used_is_an_error_before_the_run(
    source, function, message, own_module
):
    table = ArmTable(reward="custom", function=function.format(own_module(source)))
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        build("mine", table, {})
    assert str(error.value).startswith("arms.mine.function: ")


def test_a_users_file_never_hides_a_library(own_module, tmp_path, monkeypatch):
    own_module("")
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    (tmp_path / "colorsys.py").write_text("def f(text): return 1\n")
    with pytest.raises(ValueError, match="no function 'f' in colorsys"):
        build("mine", ArmTable(reward="custom", function="colorsys:f"), {})


def blocks(language: str) -> list[str]:
    text = (DOCS / "add-an-arm.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def test_the_documentations_own_reward_runs_as_written(own_module, tmp_path):
    own_module("")
    (source,), tables = blocks("python"), blocks("toml")
    (tmp_path / "brevity.py").write_text(source)
    of_trial = {
        name: ArmTable.model_validate(table)
        for text in tables
        for name, table in tomllib.loads(text)["arms"].items()
    }
    built = {name: build(name, table, of_trial) for name, table in of_trial.items()}
    del sys.modules["brevity"]
    long = "First there are 375 of them, then there are 366 of them. " + RIGHT
    assert built["brief"].payment(view(RIGHT, WRONG, long)) == ([1.0, 0.0, 0.5], [])
    paid = [
        built["boxed_words"].pay(view(RIGHT, "366", "python " + RIGHT, step=s)) for s in range(40)
    ]
    assert {tuple(each) for each in paid} == {(0, 0, 0), (1, 0, 0)}


# Bad tables.


@pytest.mark.parametrize(
    ("name", "table", "problem"),
    [
        ("rndom", {}, "arms.rndom.reward: unknown reward 'rndom' (an arm's reward defaults to its own name); did you mean 'random'?"),
        ("a", {"reward": "majorty"}, "arms.a.reward: unknown reward 'majorty'; did you mean 'majority'?"),
        ("format", {"gamma": 0.5}, "arms.format.gamma: does nothing for the reward format; remove it (it takes none)"),
        ("ground_truth", {"replicate": 1}, "arms.ground_truth.replicate: does nothing"),
        ("ground_truth", {"replicate": 0}, "arms.ground_truth.replicate: does nothing"),
        ("random", {"p": 0.5}, "arms.random.p: does nothing for the reward random; remove it (it takes gamma, replicate)"),
        ("random", {"reads": ["text"]}, "arms.random.reads: does nothing"),
        ("majority", {"problem": "p"}, "arms.majority.problem: does nothing"),
        ("flipped", {}, "arms.flipped.p: is missing; flipped needs it (the probability of the fault)"),
        ("all_of", {}, "arms.all_of.of: is missing"),
        ("custom", {}, "arms.custom.function: is missing"),
        ("all_of", {"of": ["format"]}, "arms.all_of.of: names 1 of the at least two"),
        ("all_of", {"of": []}, "arms.all_of.of: names 0 of the at least two"),
        ("all_of", {"of": ["format", "format"]}, "arms.all_of.of: repeats 'format'"),
        ("all_of", {"of": ["format", "pyton"]}, "arms.all_of.of: unknown 'pyton'; did you mean 'python'?"),
        ("all_of", {"of": ["format", "all_of"]}, "arms.all_of.of: 'all_of' is itself an all_of"),
        ("all_of", {"of": ["format", "one_shot"]}, "arms.all_of.of: 'one_shot' chooses the training problems"),
        ("all_of", {"of": ["format", "noisy"]}, "arms.all_of.of: 'noisy' needs p; make it an arm of the trial"),
        ("all_of", {"of": ["format", "other"]}, "arms.other.gamma: does nothing"),
        ("all_of", {"of": ["low", "high"]}, "arms.all_of.of: 'low' and 'high' toss the same coins"),
    ],
)  # fmt: skip
def test_a_table_that_makes_no_sense_is_an_error_with_its_key(name, table, problem):
    given = ArmTable(**table)
    of_trial = {
        name: given,
        "other": ArmTable(reward="format", gamma=0.1),
        "low": ArmTable(reward="random", gamma=0.1),
        "high": ArmTable(reward="random", gamma=0.9),
    }
    found = check_arm(name, given, of_trial)
    assert len(found) == 1 and found[0].startswith(problem), found
    with pytest.raises(ValueError, match=re.escape(problem)):
        build(name, given, of_trial)


TRIAL = """
[trial]
name = "t"
question = "q"
[design]
families = ["coder"]
pretraining_seeds = [1]
seeds = [1]
num_steps = 1
num_problems = 8
[recipes.grpo]
prompts_per_step = 8
group_size = 4
updates_per_rollout = 1
learning_rate = 1e-3
[evaluation]
num_problems = 8
samples = 1
steps = [0, 1]
pass_at_k = [1]
[endpoint]
metric = "accuracy"
step = 1
placebo = "random"
margin = 0.05
planning_sd = 0.05
primary = [{ family = "coder", arm = "ground_truth" }]
[arms.random]
[arms.ground_truth]
"""


def test_all_problems_of_a_trials_arms_are_found_at_once():
    assert check_arms(parse(TRIAL)) == []
    found = check_arms(parse(TRIAL + "gamma = 0.5\n[arms.pyton]\n[arms.noisy]\n"))
    assert [problem.split(":")[0] for problem in found] == [
        "arms.ground_truth.gamma",
        "arms.pyton.reward",
        "arms.noisy.p",
    ]


@given(st.text())
def test_one_shot_with_a_label_pays_that_and_with_the_right_one_what_it_pays_without(text):
    texts = text, RIGHT, WRONG, r"\boxed{929725}"
    plain, same, wrong = (
        arm("one_shot", **settings).pay(view(*texts))
        for settings in ({}, {"label": "366"}, {"label": "929725"})
    )
    assert plain == same
    assert wrong[1:] == [0, 0, 1]
