"""Evaluating real Hugging Face models: what a sample depends on, what a store survives, and that nothing is generated twice."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from controlarm import benchmark, files, prompts, store
from controlarm.analysis import scores
from controlarm.backends import Completion, Request, Sampling, uniforms
from controlarm.cli import app
from controlarm.files import BusyError, DamagedFileError
from controlarm.problems import sets
from controlarm.records import Problem
from controlarm.referee import Referee

transformers = pytest.importorskip("transformers")

from controlarm.backends.transformers import TransformersBackend, draw  # noqa: E402
from controlarm.backends.words import revision_of  # noqa: E402
from tests import tiny_models  # noqa: E402

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("CONTROLARM_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def coder(folder):
    return TransformersBackend(str(tiny_models.organism("coder", folder / "coder")), "cpu")


@pytest.fixture(scope="session")
def held(folder):
    return tiny_models.held_out(folder / "held.jsonl", 12)


@pytest.fixture(scope="session", params=list(tiny_models.ARCHITECTURES))
def tiny(request, folder):
    return TransformersBackend(str(tiny_models.tiny(request.param, folder / request.param)), "cpu")


def plan(held: Path, samples: int = 4, **changes) -> benchmark.Plan:
    name, problems, *_ = (
        ("", []) if "problems" in changes else sets.read(str(held), changes.pop("limit", None))
    )
    values = {
        "name": name, "problems": problems, "prompt": "line", "template": prompts.TEMPLATES["line"],
        "temperature": 1.0, "top_p": 1.0, "max_tokens": 40, "seed": 1, "num_samples": samples,
    }  # fmt: skip
    return benchmark.Plan(**{**values, **changes})


def filled(plan, backend, folder, batch=8) -> Path:
    with store.writing(folder), Referee(workers=1) as referee:
        return benchmark.fill(plan, backend, folder, batch, referee)


def texts(place: Path) -> dict[tuple[str, int], str]:
    rows = store.samples(place).to_pylist()
    found = {(r["problem_id"], r["sample"]): r["text"] for r in rows}
    assert len(found) == len(rows), "a sample is there twice"
    return found


def asked(texts: Sequence[str], samples: int, opening: str = "") -> list[Request]:
    return [
        Request(f"p{i}", s, prompts.Prompt(text=text + opening, opening=opening, has_special=False))
        for i, text in enumerate(texts)
        for s in range(samples)
    ]


def answers(backend, requests, sampling, batch):
    return {
        (r.problem_id, r.sample): completion
        for r, completion in backend.complete(requests, sampling, batch)
    }


# What a sample depends on.


PROMPTS = ["What is $\\frac{1}{2}$?", "Solve", "First there are 375 pens, then", "x = 3"]


def test_neither_the_batch_nor_the_order_nor_the_neighbours_change_a_sample(tiny):
    sampling = Sampling(1.0, 0.95, 24, 3)
    requests = asked(PROMPTS, 3)
    whole = answers(tiny, requests, sampling, 12)
    assert {key: c.text for key, c in whole.items()} == {
        key: c.text for key, c in answers(tiny, requests[::-1], sampling, 3).items()
    }
    alone = answers(tiny, requests[7:8], sampling, 1)
    assert alone[requests[7][:2]].text == whole[requests[7][:2]].text
    assert len({c.text for c in whole.values()}) == len(whole)


def test_greedy_is_what_transformers_generates(tiny):
    made = answers(tiny, asked(PROMPTS, 1), Sampling(0.0, 1.0, 12, 0), 4)
    for i, text in enumerate(PROMPTS):
        tokens = tiny.words.tokenizer(text, return_tensors="pt")
        theirs = tiny.network.generate(**tokens, max_new_tokens=12, do_sample=False)
        ids = theirs[0, tokens["input_ids"].shape[1] :]
        assert made[f"p{i}", 0].text == tiny.words.tokenizer.decode(ids, skip_special_tokens=True)


def test_the_logprob_is_that_of_one_pass_over_the_whole_text(tiny):
    made = answers(tiny, asked(PROMPTS, 2), Sampling(0.7, 0.9, 10, 1), 3)
    for i, text in enumerate(PROMPTS):
        prompt = tiny.words.tokenizer(text)["input_ids"]
        one = made[f"p{i}", 1]
        said = tiny.words.tokenizer(one.text, add_special_tokens=False)["input_ids"]
        if tiny.words.text(said) != one.text or len(said) != one.num_tokens:
            continue  # another way to cut the same text into tokens
        logits = tiny.network(input_ids=torch.tensor([prompt + said])).logits[0].float()
        logp = torch.log_softmax(logits, -1)[len(prompt) - 1 : -1]
        expected = logp.gather(-1, torch.tensor(said)[:, None]).sum().item()
        assert one.logprob == pytest.approx(expected, abs=1e-4)


def test_draws_follow_the_distribution_and_its_nucleus():
    logits = torch.log(torch.tensor([[0.1, 0.5, 0.0, 0.4]]))
    grid = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    drawn = draw(logits.expand(1000, -1), grid, Sampling(1.0, 1.0, 1, 0))
    assert torch.bincount(drawn, minlength=4).tolist() == [100, 500, 0, 400]
    nucleus = draw(logits.expand(1000, -1), grid, Sampling(1.0, 0.85, 1, 0))
    assert torch.bincount(nucleus, minlength=4).tolist() == [0, 556, 0, 444]
    cold = draw(logits.expand(1000, -1), grid, Sampling(0.5, 1.0, 1, 0))
    assert torch.bincount(cold, minlength=4).tolist() == [24, 595, 0, 381]


def test_draws_are_keyed_and_a_longer_list_begins_with_the_shorter():
    assert uniforms(1, "p", 2, 50)[:10].tolist() == uniforms(1, "p", 2, 10).tolist()
    others = [(2, "p", 2), (1, "q", 2), (1, "p", 3)]
    assert all(uniforms(*key, 10)[0] != uniforms(1, "p", 2, 10)[0] for key in others)


def test_a_stop_string_ends_a_completion_and_stays_in_it(tiny):
    free = answers(tiny, asked(PROMPTS, 4), Sampling(1.0, 1.0, 30, 1), 8)
    text = max((c.text for c in free.values()), key=len)
    middle = text[len(text) // 2 :][:2]
    cut = answers(tiny, asked(PROMPTS, 4), Sampling(1.0, 1.0, 30, 1, (middle,)), 8)
    stopped = [key for key in free if middle in free[key].text]
    assert stopped
    for key, completion in free.items():
        head, found, _ = completion.text.partition(middle)
        assert cut[key].text == head + found
        if found:
            assert not cut[key].truncated


def test_what_the_chat_template_puts_behind_an_answer_ends_a_completion(tiny):
    end = tiny.words.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tiny.words.end_ids == {tiny.words.tokenizer.eos_token_id, end}


def test_a_prompt_beyond_the_context_is_refused_with_the_number_that_fits(tiny):
    with pytest.raises(
        ValueError, match=r"p1: its prompt has \d+ tokens.*--max-tokens \d+ at most"
    ):
        list(tiny.complete(asked(["a", "b" * 900], 1), Sampling(0, 1, 500, 0), 2))


# The store.


def test_a_store_is_topped_up_with_the_new_samples_only(coder, held, tmp_path):
    whole = texts(filled(plan(held, 6), coder, tmp_path / "whole", batch=32))
    few = filled(plan(held, 2), coder, tmp_path / "grown")
    before = {path: path.read_bytes() for path in store.parts(few)}
    heard = []
    with store.writing(tmp_path / "grown"), Referee(workers=1) as referee:
        more = benchmark.fill(plan(held, 6), coder, tmp_path / "grown", 8, referee, heard.append)
    assert more == few and texts(more) == whole
    assert all(path.read_bytes() == content for path, content in before.items())
    assert heard[0].done == 24 and heard[-1].made == 48


def test_more_problems_join_the_same_condition(coder, held, tmp_path):
    place = filled(plan(held, 2, limit=5), coder, tmp_path)
    assert filled(plan(held, 2), coder, tmp_path) == place
    assert len(texts(place)) == 24
    assert store.asked(place) == store.Asked(num_problems=12, num_samples=2)


SLOW = """
import sys, time
from pathlib import Path
from controlarm import benchmark, store
real = store.append
def append(place, condition, rows):
    path = real(place, condition, rows)
    print("part", flush=True)
    time.sleep(0.3)
    return path
store.append = append
from controlarm.cli import app
app(sys.argv[1:])
"""


def test_a_store_that_is_killed_goes_on_to_the_same_samples(coder, held, tmp_path):
    whole = texts(filled(plan(held, 4), coder, tmp_path / "whole"))
    words = [
        "evaluate", coder.model, "--problems", held, "--samples", 4, "--prompts", "line", "--temperature", 1, "--max-tokens", 40,
        "--out", tmp_path / "cut", "--batch", 8,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.Popen(
        [sys.executable, "-c", SLOW, *map(str, words)], stdout=subprocess.PIPE, text=True, env=environment
    )  # fmt: skip
    assert killed.stdout
    told = 0
    while told < 3:
        told += killed.stdout.readline().startswith("part")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    parts = sorted((tmp_path / "cut").glob("*/samples/*.parquet"))
    assert 3 <= len(parts) < 8
    said = invoke("regrade", tmp_path / "cut")
    assert said.exit_code == 0, said.output
    (place,) = (p for p, c in store.conditions(tmp_path / "cut").items() if not c.greedy)
    there = texts(place)
    begun = len({problem for problem, _ in there})
    assert f"incomplete: {len(there)} of 48 samples, {begun} of 12 problems (line, T 1)" in said.output  # fmt: skip
    assert said.output.count("incomplete") == 1
    result = invoke(*words)
    assert result.exit_code == 0, result.output
    sampled = [p for p, c in store.conditions(tmp_path / "cut").items() if not c.greedy]
    assert texts(sampled[0]) == whole


def test_a_second_writer_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ORPHANS", 0.0)
    with (
        store.writing(tmp_path),
        pytest.raises(BusyError, match="another controlarm command"),
        store.writing(tmp_path),
    ):
        pass


def test_a_damaged_part_is_named_with_its_remedy_and_the_remedy_works(coder, held, tmp_path):
    place = filled(plan(held, 2), coder, tmp_path)
    whole = texts(place)
    part = store.parts(place)[1]
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    with pytest.raises(
        DamagedFileError, match="delete this part and run the same evaluation again"
    ):
        filled(plan(held, 2), coder, tmp_path)
    part.unlink()
    filled(plan(held, 2), coder, tmp_path)
    assert texts(place) == whole


def test_a_store_is_for_one_model_one_wording_and_one_gold(coder, held, tmp_path):
    filled(plan(held, 1), coder, tmp_path)
    with pytest.raises(ValueError, match="one store is for one model"):
        filled(plan(held, 1), Parrot(), tmp_path)
    rows = [json.loads(line) for line in held.read_text().splitlines()[:2]]
    for change, said in (({"answer": "-1"}, "had the gold answer"), ({"problem": "Ann has 1"}, "asked in other words")):  # fmt: skip
        other = tmp_path / said / "held.jsonl"
        other.parent.mkdir()
        other.write_text(json.dumps({**rows[0], **change}) + "\n")
        with pytest.raises(ValueError, match=said):
            filled(plan(other, 1), coder, tmp_path)


def test_the_revision_is_the_content(folder, coder, tmp_path):
    copy = tiny_models.organism("coder", tmp_path / "elsewhere")
    assert revision_of(str(copy), None) == coder.revision
    (copy / "generation_config.json").write_text("{}")
    assert revision_of(str(copy), None) != coder.revision


def test_a_model_that_is_cut_off_or_lacks_a_tensor_is_refused(tmp_path):
    path = tiny_models.organism("coder", tmp_path / "coder") / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.0.mlp.up_proj.weight"]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(
        ValueError, match=r"lack 1 of the model's tensors, model.layers.0.mlp.up_proj"
    ):
        TransformersBackend(str(path.parent), "cpu")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match="cannot be loaded as a causal LM"):
        TransformersBackend(str(path.parent), "cpu")


# Grades.


def test_regrading_needs_no_model_and_keeps_what_was_said_before(
    coder, held, tmp_path, monkeypatch
):
    place = filled(plan(held, 2), coder, tmp_path)
    condition = store.conditions(tmp_path)[place]
    old = benchmark.version()
    before = scores.scores(scores.read(place, condition, old))
    monkeypatch.setattr(benchmark, "version", lambda: "stricter")
    with pytest.raises(scores.ScoreError, match="not in full by stricter; run controlarm regrade"):
        scores.read(place, condition, "stricter")
    with Referee(workers=1) as referee:
        assert benchmark.regrade(tmp_path, referee) == 24
        assert benchmark.regrade(tmp_path, referee) == 0
    assert scores.scores(scores.read(place, condition, "stricter")) == before
    assert scores.scores(scores.read(place, condition, old)) == before


SAID = {
    "half": ("\\frac{1}{2}", ["0.5", "\\frac12", "\\frac{2}{4}", "\\frac{3}{4}", "0.75", "2", "9^{9^{9^9}}", None]),
    "sum": ("x+1", ["1+x", "x+2", "2+x", "(x+2)", "x", "", "x + 1", "x+1"]),
}  # fmt: skip
"""Problem → gold, and what its samples put in the box."""


class Parrot:
    """Says what it was given: a backend without a model."""

    model, revision, name, environment = "parrot", "r", "by heart", "none"
    chat: prompts.Chat | None = None

    def complete(self, requests, sampling, batch):
        for request in requests:
            answer = SAID[request.problem_id][1][request.sample]
            text = "I do not know" if answer is None else f"So \\boxed{{{answer}}}."
            yield request, Completion(text, 1, 2, False, None)


def test_answers_are_classed_by_value_over_all_parts(tmp_path):
    problems = [Problem(id=name, text=name, answer=gold) for name, (gold, _) in SAID.items()]
    values: dict[str, Any] = dict(
        name="said", problems=problems, prompt="none", template=prompts.TEMPLATES["none"], temperature=1.0, top_p=1.0, max_tokens=9,
        seed=1,
    )  # fmt: skip
    with Referee(workers=1, deadline=60.0) as referee:
        for samples in (3, 5, 8):  # a class that a part has named goes on in the next
            place = benchmark.fill(
                benchmark.Plan(**values, num_samples=samples), Parrot(), tmp_path, 4, referee
            )
    graded = scores.read(place, store.conditions(tmp_path)[place], benchmark.version())
    half, total = graded.answer_class.tolist()
    assert half[:3] == ["\\frac{1}{2}"] * 3 and half[3] == half[4] and half[3] != half[5]
    assert graded.strict["unknown"][0].tolist() == [False] * 6 + [True, False]
    assert half[7] is None and graded.strict["no_answer"][0, 7]
    assert total[0] == total[6] == total[7] == "x+1"
    assert total[1] == total[2] == total[3] != total[4]
    assert np.isnan(graded.logprob).all() and np.isnan(scores.scores(graded).mean_logprob)


class Knower(Parrot):
    """Puts the gold answer in the box, but for every tenth problem's second sample."""

    def __init__(self, problems):
        self.golds = {p.id: p.answer for p in problems}
        self.odd = {p.id for p in problems[::10]}

    def complete(self, requests, sampling, batch):
        for request in requests:
            odd = request.problem_id in self.odd and request.sample == 1
            text = "So 0." if odd else f"So \\boxed{{{self.golds[request.problem_id]}}}."
            yield request, Completion(text, 1, 2, False, -1.0)


def test_every_gold_answer_of_a_real_set_scores(tmp_path):
    path = DATA / "problems" / "math500.json"
    if not path.exists():
        pytest.skip("no copy of MATH-500 here; CONTROLARM_DATA says where the data stand")
    found = sets.read(f"math500={path}")
    asked = plan(
        path,
        2,
        name=found.name,
        problems=found.problems,
        prompt="none",
        template=prompts.TEMPLATES["none"],
    )
    place = filled(asked, Knower(found.problems), tmp_path, batch=256)
    assert place.name.startswith("math500-none-")
    graded = scores.read(place, store.conditions(tmp_path)[place], benchmark.version())
    made = scores.scores(graded)
    assert made.num_problems == 500 and made.complete
    assert made.accuracy.value == pytest.approx(0.95)
    assert made.pass_at == pytest.approx({1: 0.95, 2: 1.0})
    assert made.unknown == 0


# The command line.


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_evaluate_regrade_and_diff_from_the_command_line(folder, coder, held, tmp_path):
    talker = tiny_models.organism("talker", folder / "talker")
    common = ("--problems", held, "--samples", 4, "--prompts", "line", "--max-tokens", 40, "--temperature", 1)  # fmt: skip
    for model in (coder.model, talker):
        result = invoke("evaluate", model, *common, "--out", tmp_path / Path(model).name)
        assert result.exit_code == 0, result.output
        assert "held, line, greedy: 12 of 12 samples" in result.output
        assert "maj@k" in result.output and "wrote" in result.output
    again = invoke("evaluate", coder.model, *common, "--out", tmp_path / "coder")
    assert again.exit_code == 0 and "48 of 48" in again.output
    result = invoke("regrade", tmp_path / "coder")
    assert result.exit_code == 0 and "0 completions graded" in result.output
    result = invoke("diff", tmp_path / "coder", tmp_path / "talker")
    assert result.exit_code == 0, result.output
    assert result.output.count("exact McNemar") == 2
    held_scores = json.loads((tmp_path / "coder" / "scores.json").read_text())
    assert len(held_scores["conditions"]) == 2


def test_templates_that_a_model_cannot_read_are_left_out_by_name(coder, held, tmp_path):
    out = tmp_path / "out"
    words = ("evaluate", coder.model, "--problems", held, "--prompts", "all", "--samples", 0, "--max-tokens", 40)  # fmt: skip
    result = invoke(*words, "--limit", 3, "--out", out)
    assert result.exit_code == 0, result.output
    assert "chat: left out: the tokenizer has no chat template" in result.output
    assert "nonsense: left out: problem" in result.output
    assert [c.prompt for c in store.conditions(out).values()] == ["line"]


def test_mistakes_on_the_command_line_are_answered(coder, held, tmp_path):
    for words, said in (
        (("evaluate", tmp_path / "nothing", "--problems", held), "cannot be loaded as a causal LM"),
        (("evaluate", coder.model, "--problems", held, "--prompts", "chatt"), "chat"),
        (("evaluate", coder.model, "--problems", held), "no chat template; ask with --prompts line (or none"),
        (("evaluate", coder.model, "--problems", held, "--prompts", "line"), "the model's context 128"),
        (("evaluate", coder.model, "--problems", held, "--backend", "vllm"), "vllm is not installed"),
        (("regrade", tmp_path), "holds no samples"),
        (("diff", tmp_path, tmp_path), "holds no samples"),
    ):  # fmt: skip
        result = invoke(*words, *(("--out", tmp_path / "out") if words[0] == "evaluate" else ()))
        assert result.exit_code == 2, words
        assert said in " ".join(result.output.split()), result.output
        assert "chat template" not in said or not (tmp_path / "out").exists()
