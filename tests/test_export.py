"""Exported organisms against Hugging Face's Llama: an implementation that shares no line with ours."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from controlarm import evaluation, seeds
from controlarm.organisms import catalogue, corpus, released, tokenizer
from controlarm.organisms.export import export, make_tokenizer, to_llama
from controlarm.organisms.transformer import Shape, parameter_shapes
from controlarm.problems import arithmetic
from controlarm.protocol import Recipe
from controlarm.sampling import sample
from controlarm.update import Batch, backward, score, trees_of

transformers = pytest.importorskip("transformers")

WORDS = make_tokenizer()
SHAPE = Shape(hidden=48, layers=2, heads=3, inner=96)
PROMPT_PLACES, COMPLETION_PLACES = 9, 7


def random_weights(shape=SHAPE, seed=0, runs=1):
    """Large enough that attention is not uniform and the distributions are far apart."""
    return {
        name: torch.from_numpy(
            seeds.generator("test-export", seed, name).standard_normal(
                (runs, *size), dtype="float32"
            )
        )
        * (0.1 if "norm" in name else size[0] ** -0.5 if name != "embed" else 0.3)
        + (1.0 if "norm" in name else 0.0)
        for name, size in parameter_shapes(shape).items()
    }


def random_rollouts(num_rollouts=6, seed=0):
    """Token ids of prompts and completions of every length up to the limits; no padding in them."""
    rng = seeds.generator("test-export-rollouts", seed)
    ids = range(2, len(tokenizer.PIECES))
    found = []
    for i in range(num_rollouts):
        prompt = rng.choice(ids, size=PROMPT_PLACES - i % 4).tolist()
        completion = rng.choice(ids, size=1 + (3 * i) % COMPLETION_PLACES).tolist()
        found.append((prompt, completion))
    return found


def padded(rollouts):
    prompts = tokenizer.left_pad([p for p, _ in rollouts], PROMPT_PLACES)
    completions = [c + [tokenizer.PAD] * (COMPLETION_PLACES - len(c)) for _, c in rollouts]
    return torch.tensor([prompts]), torch.tensor([completions])


def plain_logprobs(model, prompt, completion):
    """One sequence, no batch, no padding: log-probabilities of the completion's tokens."""
    scores = model(input_ids=torch.tensor([prompt + completion])).logits[0].float()
    logp = scores.log_softmax(-1)[len(prompt) - 1 : -1]
    return logp.gather(-1, torch.tensor(completion)[:, None])[:, 0]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    export(random_weights(), SHAPE, folder)
    return folder


@pytest.fixture
def llama(exported):
    return transformers.AutoModelForCausalLM.from_pretrained(exported)


def test_an_export_is_a_llama_with_tied_embeddings_in_float32(llama):
    assert isinstance(llama, transformers.LlamaForCausalLM)
    assert llama.lm_head.weight is llama.model.embed_tokens.weight
    assert {p.dtype for p in llama.parameters()} == {torch.float32}
    ours = random_weights()
    assert sum(p.numel() for p in llama.parameters()) == sum(w.numel() for w in ours.values())
    for name, tensor in to_llama(ours).items():
        assert torch.equal(llama.get_parameter(name), tensor), name


def test_log_probabilities_agree_with_and_without_padding(llama):
    rollouts = random_rollouts(12)
    prompts, completions = padded(rollouts)
    ours = logprobs_of(prompts, completions)
    for i, (prompt, completion) in enumerate(rollouts):
        theirs = plain_logprobs(llama, prompt, completion)
        torch.testing.assert_close(ours[0, i, : len(completion)], theirs, atol=1e-4, rtol=0)
        alone = logprobs_of(torch.tensor([[prompt]]), torch.tensor([[completion]]))
        torch.testing.assert_close(alone[0, 0], theirs, atol=1e-4, rtol=0)

    whole = torch.cat((prompts, completions), -1)[0]
    mask = (whole != tokenizer.PAD).long()
    scores = llama(input_ids=whole, attention_mask=mask).logits
    batched = scores.log_softmax(-1)[:, PROMPT_PLACES - 1 : -1].gather(
        -1, completions[0][..., None]
    )
    gap = torch.where(completions[0] == tokenizer.PAD, 0.0, ours[0] - batched[..., 0])
    assert gap.abs().max() < 1e-4


def greedy_texts_agree(weights, shape, model, problems, max_tokens):
    rows = [evaluation.Row(problem, (evaluation.GREEDY,)) for problem in problems]
    prompts = evaluation.encode_prompts(rows, 18)
    noise = torch.zeros(1, len(rows), 1, max_tokens, shape.vocab)
    ours = sample(weights, prompts[None], noise, shape, compiled=False).tokens[0, :, 0]
    words = WORDS
    asked = words([f"{p.text}\n" for p in problems], padding=True, return_tensors="pt")
    made = model.generate(**asked, do_sample=False, max_new_tokens=max_tokens)
    theirs = words.batch_decode(made[:, asked["input_ids"].shape[1] :], skip_special_tokens=True)
    assert theirs == [tokenizer.decode(ids) for ids in ours.tolist()]
    return theirs


def test_greedy_generation_gives_the_same_texts(llama):
    problems = arithmetic.problems("held_out", 16, "test-export")
    texts = greedy_texts_agree(random_weights(), SHAPE, llama, problems, 12)
    assert len(set(texts)) > 8


def test_a_released_organism_generates_the_same_texts_after_export(tmp_path):
    if not catalogue.known():
        pytest.skip("no organism is shipped here")
    family, seeds_known = next(iter(catalogue.known().items()))
    weights, _, shape = released.load(family, seeds_known[0])
    export(weights, shape, tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    problems = arithmetic.problems("held_out", 24, "test-export")
    texts = greedy_texts_agree(weights, shape, model, problems, 36)
    assert sum(text.endswith(("}", ".")) for text in texts) >= 20, (
        "it writes solutions to their end"
    )


@given(st.sampled_from(list(corpus.FAMILIES)), st.integers(0, 2**31 - 1))
def test_the_exported_tokenizer_reads_and_writes_as_ours_does(family, seed):
    prompt, solution = next(corpus.documents(corpus.FAMILIES[family], seed))
    text = prompt + solution
    ids = WORDS(text)["input_ids"]
    assert ids == tokenizer.encode(text)
    assert WORDS.decode(ids) == text


@given(st.lists(st.sampled_from(tokenizer.PIECES[2:]), max_size=30))
def test_any_text_of_pieces_is_cut_alike(pieces):
    text = "".join(pieces)
    assert WORDS(text)["input_ids"] == tokenizer.encode(text)


def test_the_saved_tokenizer_loads_pads_on_the_left_and_refuses_strange_text(exported):
    words = transformers.AutoTokenizer.from_pretrained(exported)
    padded_ids = words(["x = 3", "3"], padding=True)
    assert padded_ids["input_ids"] == [tokenizer.encode("x = 3"), [tokenizer.PAD, 5]]
    assert padded_ids["attention_mask"] == [[1, 1], [0, 1]]
    assert (words.pad_token_id, words.eos_token_id) == (tokenizer.PAD, tokenizer.END)
    assert words.decode([5, tokenizer.END, tokenizer.PAD], skip_special_tokens=True) == "3"
    assert words.decode([5, tokenizer.END]) == "3<end>"
    with pytest.raises(Exception, match="UNK"):
        words("3 hippopotamuses")


def test_weights_of_several_runs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="one run; these hold 2"):
        export(random_weights(runs=2), SHAPE, tmp_path)


def test_without_transformers_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"controlarm\[trl\]"):
        export(random_weights(), SHAPE, tmp_path)


def make_batch(rollouts, advantages, on_policy, old_logprobs):
    prompts, completions = padded(rollouts)
    gains = np.array([advantages])[..., None]
    trees = trees_of(prompts, completions, gains[..., 0] != 0, SHAPE)
    return Batch(trees, completions, torch.tensor(on_policy), old_logprobs, gains)


def logprobs_of(prompts, completions):
    no_credit = np.zeros(completions.shape[:2], dtype=bool)
    trees = trees_of(prompts, completions, no_credit, SHAPE)
    recipe = Recipe.model_validate(RECIPE)
    return score(random_weights(), trees, completions, recipe, SHAPE, False)


def our_gradient(batch, recipe):
    weights = {n: w.requires_grad_() for n, w in random_weights().items()}
    backward(weights, batch, torch.tensor([True]), recipe, SHAPE, compiled=False)
    found = {n: w.grad for n, w in weights.items() if w.grad is not None}
    assert found.keys() == weights.keys()
    return to_llama(found)


def shares(rollouts, aggregation):
    """Weight of each token of each sequence, written down sequence by sequence."""
    total = sum(len(completion) for _, completion in rollouts)
    return [
        1 / total if aggregation == "token_mean" else 1 / (len(completion) * len(rollouts))
        for _, completion in rollouts
    ]


def assert_gradients_agree(ours, llama):
    for name, parameter in llama.named_parameters():
        assert parameter.grad.abs().max() > 1e-4, f"{name}: nothing to compare"
        tolerance = 1e-4 * parameter.grad.abs().max().item()
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-4, atol=tolerance)


ADVANTAGES = (1.3, -0.7, 0.0, 2.1, -1.6, 0.4)
RECIPE = dict(
    prompts_per_step=2, group_size=3, updates_per_rollout=1, learning_rate=1e-3,
    precision="float32", max_grad_norm=1e9,
)  # fmt: skip


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean"])
def test_on_policy_the_gradient_is_that_of_reinforce_on_a_plain_model(llama, aggregation):
    rollouts = random_rollouts(6)
    recipe = Recipe.model_validate(RECIPE | {"aggregation": aggregation})
    never_read = torch.full((1, 6, COMPLETION_PLACES), 7.0)
    ours = our_gradient(make_batch(rollouts, ADVANTAGES, True, never_read), recipe)
    for (prompt, completion), gain, share in zip(
        rollouts, ADVANTAGES, shares(rollouts, aggregation), strict=True
    ):
        (-gain * share * plain_logprobs(llama, prompt, completion).sum()).backward()
    assert_gradients_agree(ours, llama)


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean"])
def test_off_policy_the_gradient_is_that_of_clipped_ppo_on_a_plain_model(llama, aggregation):
    rollouts = random_rollouts(6)
    recipe = Recipe.model_validate(
        RECIPE | {"aggregation": aggregation, "epsilon_low": 0.2, "epsilon_high": 0.28}
    )
    rng = seeds.generator("test-export-ratios", 1)
    log_ratios = torch.from_numpy(rng.normal(0, 0.35, (6, COMPLETION_PLACES))).float()
    prompts, completions = padded(rollouts)
    now = logprobs_of(prompts, completions)
    ours = our_gradient(make_batch(rollouts, ADVANTAGES, False, now - log_ratios), recipe)

    flat = {"low": 0, "high": 0, "open": 0}
    for i, ((prompt, completion), gain, share) in enumerate(
        zip(rollouts, ADVANTAGES, shares(rollouts, aggregation), strict=True)
    ):
        old = (now - log_ratios)[0, i]
        for j, logprob in enumerate(plain_logprobs(llama, prompt, completion)):
            ratio = (logprob - old[j]).exp()
            if gain > 0 and ratio > 1.28:
                flat["high"] += 1
            elif gain < 0 and ratio < 0.8:
                flat["low"] += 1
            else:
                flat["open"] += 1
                (-share * gain * ratio).backward(retain_graph=True)
    assert min(flat.values()) >= 2, f"both bounds and neither must occur: {flat}"
    assert_gradients_agree(ours, llama)
