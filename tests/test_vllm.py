"""The vLLM backend against vLLM itself, where that is installed (its CPU build will do), on a tiny model whose heads it can take."""

import os

import pytest

pytest.importorskip("vllm")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")

from controlarm.backends import Sampling
from controlarm.backends.transformers import TransformersBackend
from controlarm.backends.vllm import VllmBackend
from tests import tiny_models
from tests.test_benchmark import PROMPTS, answers, asked

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def backends(tmp_path_factory):
    folder = tiny_models.tiny("qwen2", tmp_path_factory.mktemp("wide"), hidden_size=256)
    return VllmBackend(str(folder)), TransformersBackend(str(folder), "cpu")


def test_a_sample_depends_on_its_key_alone(backends):
    ours, _ = backends
    sampling = Sampling(0.7, 0.9, 24, 3)
    whole = answers(ours, asked(PROMPTS, 4), sampling, 16)
    again = answers(ours, asked(PROMPTS, 4)[::-1], sampling, 3)
    assert {k: c.text for k, c in whole.items()} == {k: c.text for k, c in again.items()}
    assert len({c.text for c in whole.values()}) == len(whole)


def test_greedy_is_about_as_likely_as_the_other_backend_s(backends):
    """In bfloat16 it need not be the same text; counts and log-probabilities mean the same."""
    sampling = Sampling(0.0, 1.0, 24, 0)
    ours, theirs = (answers(backend, asked(PROMPTS, 1), sampling, 4) for backend in backends)
    for key, one in ours.items():
        other = theirs[key]
        assert one.prompt_tokens == other.prompt_tokens
        if one.text == other.text:
            assert (one.num_tokens, one.truncated) == (other.num_tokens, other.truncated)
            assert one.logprob == pytest.approx(other.logprob, rel=0.01)
    assert any(ours[key].text == theirs[key].text for key in ours)


def test_a_stop_string_ends_a_completion_and_stays_in_it(backends):
    ours, _ = backends
    sampling = Sampling(1.0, 1.0, 60, 1)
    free = answers(ours, asked(PROMPTS, 4), sampling, 16)
    text = max((c.text for c in free.values()), key=len)
    middle = text[len(text) // 2 :][:2]
    cut = answers(ours, asked(PROMPTS, 4), sampling._replace(stop=(middle,)), 16)
    stopped = [key for key, c in free.items() if middle in c.text]
    assert stopped
    for key in stopped:
        head, found, _ = free[key].text.partition(middle)
        assert cut[key].text == head + found and not cut[key].truncated
