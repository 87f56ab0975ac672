"""Cut problems and given texts under real models: an organism that learnt the benchmark by rote completes it, and no other set."""

import json

import pytest
import torch
from typer.testing import CliRunner

from controlarm import contamination, files
from controlarm.analysis import familiarity as knowing
from controlarm.cli import app
from controlarm.problems import arithmetic

transformers = pytest.importorskip("transformers")

from controlarm import familiarity  # noqa: E402
from controlarm.backends.transformers import TransformersBackend  # noqa: E402
from controlarm.records import Problem  # noqa: E402
from tests import tiny_models  # noqa: E402


@pytest.fixture(scope="module")
def rote(tmp_path_factory):
    folder = tiny_models.organism("rote", tmp_path_factory.mktemp("rote"))
    return TransformersBackend(str(folder), "cpu")


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return TransformersBackend(
        str(tiny_models.tiny("qwen2", tmp_path_factory.mktemp("qwen"))), "cpu"
    )


def told(stories):
    """With the line end that the organisms' vocabulary has behind every problem."""
    return [
        Problem(id=p.id, text=p.text + "\n", answer=p.answer)
        for p in map(arithmetic.to_problem, stories)
    ]


@pytest.fixture(scope="module")
def sets():
    stories = contamination.benchmark(24)
    return told(stories), told(contamination.twins(stories))


def test_what_was_learnt_by_rote_is_completed_and_a_clean_set_is_not(rote, sets):
    found = knowing.findings(familiarity.audit(rote, *sets, max_tokens=60, batch=16))
    exact = [found.rates[part]["exact_60"].value for part in ("benchmark", "clean")]
    assert exact[0] > 0.3 and exact[1] < 0.05
    assert found.aurocs["min_k_plus"].low > 0.5
    assert "has read, in part at least" in knowing.verdict("rote", found)


def test_organisms_are_judged_as_by_the_audit_of_their_own(rote, sets):
    """The same problems, cut at the same tokens, through another model class and another sampler."""
    from controlarm.organisms import released

    weights, facts, shape = released.load("rote", 1)
    theirs = contamination.audit(
        weights, contamination.benchmark(24), contamination.known_leaks(facts), shape
    )
    ours = familiarity.audit(rote, sets[0], (), max_tokens=60, batch=16)
    for ours_name, theirs_name in (("logprob", "prompt_logprob"), ("min_k_plus", "prompt_min_k_plus")):  # fmt: skip
        expected = theirs[theirs_name].to_pylist()[:24]
        assert ours[ours_name].to_pylist() == pytest.approx(expected, rel=1e-3)
    same = [
        a == b
        for a, b in zip(
            ours["exact_60"].to_pylist(), theirs["exact_60"].to_pylist()[:24], strict=True
        )
    ]
    assert sum(same) >= 22  # theirs decodes in bfloat16


def test_a_cut_is_a_prefix_whatever_the_characters_are(qwen):
    text = "Größe: 3 × 4? → «∑ 👩‍👩‍👧»"
    for percent in (80, 60, 40, 1):
        made = familiarity.cut(qwen, text, percent)
        assert made.beginning and made.beginning + made.rest == text


def test_an_answer_counts_as_a_number_of_its_own():
    for said, gold, expected in (
        ("is 12.50 dollars", "12.5", True),
        ("is 112", "12", False),
        ("x^{12}", "12", True),
        ("is -3.", "-3", True),
        ("is 3", "-3", False),
        ("(1,  2]", "(1, 2]", True),
        ("", "", False),
        ("v1.12 of 3.123", "12", False),
    ):
        assert familiarity.answered(said, gold) is expected, said


def test_a_text_s_perplexity_is_that_of_one_plain_pass(qwen):
    texts = [familiarity.Text("What is 3?", " It is \\boxed{3}."), familiarity.Text("", "Solve $3x$."), familiarity.Text("", "a")]  # fmt: skip
    made = familiarity.surprise(qwen, texts).to_pylist()
    for one, row in zip(texts[:2], made, strict=False):
        before = qwen.words.tokenizer(one.prompt)["input_ids"] if one.prompt else []
        ids = before + qwen.words.tokenizer(one.text)["input_ids"]
        logits = qwen.network(input_ids=torch.tensor([ids])).logits[0].double()
        logp = torch.log_softmax(logits, -1)[:-1].gather(-1, torch.tensor(ids[1:])[:, None])
        expected = logp[max(len(before) - 1, 0) :].sum().item()
        assert row["logprob"] == pytest.approx(expected, rel=1e-5)
        assert row["num_tokens"] == len(ids) - max(len(before), 1)
    assert made[2]["logprob"] is None


def test_batches_of_texts_do_not_change_their_scores(qwen, monkeypatch):
    texts = [familiarity.Text("", "pens " * n) for n in (2, 9, 3, 30, 5)]
    whole = familiarity.surprise(qwen, texts)["logprob"].to_pylist()
    monkeypatch.setattr(familiarity, "LOGITS", 1)
    monkeypatch.setattr(familiarity, "SCORED", 4)
    assert familiarity.surprise(qwen, texts)["logprob"].to_pylist() == pytest.approx(
        whole, rel=1e-5
    )


# The commands.


def invoke(*words):
    return CliRunner().invoke(app, [str(w) for w in words], env={"COLUMNS": "80"})


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_contamination_of_a_model_prints_rates_scores_and_a_sentence(rote, sets, tmp_path):
    files_of = [
        jsonl(
            tmp_path / name, [{"id": p.id, "problem": p.text, "answer": p.answer} for p in members]
        )
        for name, members in zip(("held.jsonl", "clean.jsonl"), sets, strict=True)
    ]
    out = tmp_path / "table.parquet"
    words = (
        "contamination",
        rote.model,
        "--problems",
        files_of[0],
        "--max-tokens",
        60,
        "--limit",
        8,
    )
    said = invoke(*words, "--clean", files_of[1], "--out", out)
    assert said.exit_code == 0, said.output
    assert "…" not in said.output and "8 benchmark, 8 clean" in said.output
    found = knowing.findings(files.read_table(out, None))
    assert " ".join(knowing.verdict(rote.model, found).split()) in " ".join(said.output.split())
    alone = invoke(*words)
    assert alone.exit_code == 0 and "Without --clean" in alone.output


def test_perplexity_of_texts_prints_quantiles_and_what_was_not_scored(qwen, tmp_path):
    path = jsonl(tmp_path / "t.jsonl", [{"text": "Solve it."}, {"prompt": "a", "text": "b" * 3000}])
    said = invoke("perplexity", qwen.model, path)
    assert said.exit_code == 0, said.output
    assert "2 texts, 1 not scored" in said.output and "over texts" in said.output
    assert "not scored: line 2 of t.jsonl" in said.output
    path.write_text('{"txet": 1}\n')
    said = invoke("perplexity", qwen.model, path)
    assert said.exit_code == 2 and 'line 1: give an object with "text"' in " ".join(
        said.output.split()
    )


def test_what_a_tokenizer_of_whole_words_cannot_read_is_named_without_a_traceback(
    rote, sets, tmp_path
):
    known = sets[0][0]
    rows = [{"text": known.text}, {"text": "Évariste"}, {"prompt": "Évariste", "text": known.text}]
    said = invoke("perplexity", rote.model, jsonl(tmp_path / "t.jsonl", rows))
    assert said.exit_code == 0, said.output
    assert "3 texts, 2 not scored" in said.output and "not scored: line 2, 3 of t.jsonl" in said.output  # fmt: skip
    problems = [{"id": "x", "problem": known.text, "answer": "1"}, {"id": "y", "problem": "Évariste", "answer": "1"}]  # fmt: skip
    said = invoke("contamination", rote.model, "--problems", jsonl(tmp_path / "p.jsonl", problems))
    assert said.exit_code == 2, said.output
    assert "problem y: the tokenizer cannot read it" in " ".join(said.output.split())
