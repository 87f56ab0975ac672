"""One completion at a time: what is paid, what is refused, what is counted, and labels from either kind of file."""

import json
import logging
import math
from concurrent.futures import ThreadPoolExecutor

import pytest

from controlarm import arms, labels, seeds
from controlarm.arms import ARMS
from controlarm.rewards.scoring import RewardsFailed, Scorer, read_labels

RIGHT, WRONG = r"so \boxed{366}", r"so \boxed{356}"
SETTINGS = {
    "flipped": {"p": 0.3},
    "noisy": {"p": 0.3},
    "all_of": {"of": ["format", "no_python"]},
    "custom": {"function": "controlarm.arms:ground_truth", "reads": ["text", "answer"]},
}
REFUSED = {"one_shot": "data set of one problem", "shuffled": "all completions of its group"}


@pytest.fixture
def labelled(tmp_path):
    path = tmp_path / "labels.parquet"
    rows = [labels.label("p", [WRONG, WRONG, RIGHT, r"\boxed{323}"], "366"), labels.label("q", ["no"], "7")]  # fmt: skip
    labels.write(path, rows)
    return path


def scorer(arm: str, path=None, **more) -> Scorer:
    given = SETTINGS.get(arm, {}) | ({"labels": path} if ARMS[arm].label else {})
    return Scorer(arm, **{"equal": "exact", "seed": 3, "knows_sample": True} | given | more)


@pytest.mark.parametrize("arm", [name for name in ARMS if name not in REFUSED])
def test_every_arm_pays_one_at_a_time_what_it_pays_a_group(arm, labelled):
    made = scorer(arm, labelled)
    [p, _] = labels.read(labelled)
    texts = [RIGHT, WRONG, "Python", "", r"\boxed{0366.0}"]
    for step in (1, 2):
        group = arms.GroupView(
            problem_id="p", texts=texts, answer="366", majority=p.majority, incorrect=p.incorrect,
            seed=3, step=step, samples=range(5),
        )  # fmt: skip
        scores = [made.score(text, "p", "366", step, i) for i, text in enumerate(texts)]
        assert [score.reward for score in scores] == made.arm.pay(group)
        assert [score.acc for score in scores] == [1, 0, 0, 0, 1]
        assert not any(score.failed or score.unknown for score in scores)


@pytest.mark.parametrize("arm", REFUSED)
def test_what_one_completion_cannot_decide_is_refused_by_name(arm):
    with pytest.raises(ValueError, match=REFUSED[arm]):
        scorer(arm)


@pytest.mark.parametrize("arm", ["random", "flipped", "noisy"])
def test_a_coin_without_step_and_sample_is_refused_and_its_other_name_is_told(arm):
    with pytest.raises(ValueError, match=f"{arm} tosses a coin for each sample.*text_coin"):
        scorer(arm, knows_sample=False)
    with pytest.raises(ValueError, match="tosses a coin"):
        Scorer("all_of", of=["random", "format"], equal="exact")
    made = Scorer("text_coin", seed=3, equal="exact")
    assert made.score("a", "p", "366").reward == float(seeds.uniform(3, "text_coin", 0, "p", "a") < 0.5)  # fmt: skip


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(arm="rndom"), "did you mean 'random'"),
        (dict(arm="format", gamma=0.2), "gamma: does nothing for the reward format"),
        (dict(arm="random", gamma=2.0), "gamma: .*less than or equal to 1"),
        (dict(arm="random", gama=0.2), "gama: unknown setting; known: .*gamma"),
        (dict(arm="majority"), "give labels=FILE"),
        (dict(arm="format", labels="x.parquet"), "labels: do nothing for format"),
        (dict(arm="format", equal="mathy"), "equal: 'mathy'"),
        (dict(arm="format", form="xml"), "form: 'xml'"),
        (dict(arm="format", max_failed_share=5), "max_failed_share: 5"),
        (dict(arm="all_of", of=["format", "shuffled"]), "all completions of its group"),
    ],
)
def test_a_mistake_is_told_before_the_first_completion(given, message):
    with pytest.raises(ValueError, match=message):
        Scorer(**{"equal": "exact", "knows_sample": True} | given)


@pytest.mark.parametrize("row", [("", "366"), (None, "366"), ("p", None), ("p", "")])
def test_a_row_without_id_or_answer_is_an_error_and_no_reward(row):
    with pytest.raises(ValueError, match=r"has no (id|answer); `controlarm dataset`"):
        scorer("format").score(RIGHT, *row)


def test_a_problem_without_a_label_fails_but_a_base_model_without_an_answer_pays_nobody(labelled):
    made = scorer("majority", labelled)
    assert made.score(RIGHT, "q", "7")[:4] == (0, 0, 0, 0)
    unlabelled = made.score(RIGHT, "r", "366")
    assert unlabelled[:4] == (0, 1, 0, 1)
    assert (
        unlabelled.failure
        == "arms.majority: problem 'r' has no majority label; label all problems of the data set"
    )


def test_the_referee_judges_by_default():
    made = Scorer("ground_truth")
    assert made.score(r"\boxed{\frac{1}{2}}", "p", "0.5")[:4] == (1, 1, 0, 0)
    tower = made.score(r"\boxed{9^{9^{9^9}}}", "p", "0.5")
    assert tower[:4] == (0, 0, 1, 1) and "cannot say" in str(tower.failure)
    assert scorer("ground_truth").score(r"\boxed{\frac{1}{2}}", "p", "0.5")[:2] == (0, 0)


def unsure(gold: str, answer: str) -> bool | None:
    return None if answer == "?" else gold == answer


def test_an_answer_that_nobody_can_judge_is_unknown_and_fails_only_the_arms_that_ask(monkeypatch):
    monkeypatch.setattr("controlarm.rewards.scoring._referee", lambda: unsure)
    asks = Scorer("ground_truth").score(r"\boxed{?}", "p", "366")
    assert asks[:4] == (0, 0, 1, 1) and asks.failure and "cannot say" in asks.failure
    assert Scorer("format").score(r"\boxed{?}", "p", "366")[:4] == (1, 0, 1, 0)
    assert asks.beside() == {"acc": 0, "unknown": 1, "failed": 1}


def test_failures_are_told_counted_and_stop_everything_above_the_share(monkeypatch, caplog):
    monkeypatch.setattr("controlarm.rewards.scoring._referee", lambda: unsure)
    monkeypatch.setattr("controlarm.rewards.scoring.WINDOW", 100)
    made = Scorer("ground_truth", max_failed_share=0.2)
    with caplog.at_level(logging.WARNING):
        for _ in range(20):
            assert made.score(r"\boxed{?}", "p", "366").failed
    assert len(caplog.records) == 10 and "paid 0 and counted" in caplog.text
    with pytest.raises(RewardsFailed, match="21 of the last 21 rewards failed, of 100 at most 20%"):
        made.score(r"\boxed{?}", "p", "366")
    for _ in range(100):
        made.score(RIGHT, "p", "366")
    assert made.score(r"\boxed{?}", "p", "366").failed  # those of long ago are forgiven
    assert (made.num_scored, made.num_failed) == (122, 22)
    with pytest.raises(RewardsFailed):
        Scorer("ground_truth", max_failed_share=0).score(r"\boxed{?}", "p", "366")


def test_threads_do_not_lose_a_count():
    made = scorer("random")
    with ThreadPoolExecutor(8) as pool:
        paid = list(pool.map(lambda i: made.score("", "p", "366", 1, i).reward, range(400)))
    assert made.num_scored == 400
    assert paid == [float(seeds.uniform(3, "random", 0, "p", 1, i) < 0.5) for i in range(400)]


def test_labels_come_from_parquet_or_jsonl(labelled, tmp_path):
    assert read_labels(labelled, "majority") == {"p": "356", "q": None}
    assert read_labels(labelled, "incorrect")["p"] == "356"
    path = tmp_path / "labels.jsonl"
    path.write_text('{"id": "p", "label": "323"}\n\n{"id": 7, "label": null}\n')
    assert read_labels(path, "majority") == {"p": "323", "7": None}
    made = Scorer("incorrect", labels=str(path), equal="exact")
    assert made.score(r"\boxed{323}", "p", "366").reward == 1
    assert made.score(r"\boxed{323}", 7, "366").reward == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"id": "p"}', "line 1: expected"),
        ("[1]", "line 1: expected"),
        ('{"id": "p", "label": "1"}\nx', "line 2: expected"),
        ("[" * 100_000, "line 1: expected"),
        ('{"id": "p", "label": "1"}\n{"id": "p", "label": "2"}', "line 2: a second label of problem 'p'"),
    ],
)  # fmt: skip
def test_a_damaged_file_of_labels_is_an_error_that_names_the_line(text, message, tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"labels.jsonl: {message}"):
        read_labels(path, "majority")


def test_scores_can_be_averaged_and_written():
    score = scorer("random").score(RIGHT, "p", "366")
    assert all(type(x) is float and math.isfinite(x) for x in score[:4])
    assert json.loads(json.dumps(score.beside())) == {"acc": 1.0, "unknown": 0.0, "failed": 0.0}
