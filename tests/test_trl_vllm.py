"""The engine trl with vLLM beside the training, where vLLM is installed (its CPU build will do): draws, weights that arrive, resume."""

import contextlib
import importlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from pathlib import Path
from typing import Any

import pytest
from small_trial import Small, prepare

pytest.importorskip("trl")
pytest.importorskip("vllm")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TRL's, of a vLLM that is newer than those that it names
    from controlarm.engines.trl.recorder import Recorder

import test_trl_models as models
from test_trl import Stopped, journal, rows
from tiny_models import tiny

from controlarm import checkpoints
from controlarm.engines import trl
from controlarm.engines.trl.decoding import Speaker
from controlarm.engines.trl.vllm import Sampler, SamplerPartedError
from controlarm.protocol import Recipe, runs

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

ARM = '[arms.fours]\nreward = "custom"\nfunction = "small_trial:counts"\nreads = ["text"]\n[arms.constant]\n'


def text(folder: Path, recipe: str = "", table: str = "", rate: str = "3e-3") -> str:
    """Four steps that pay for fours, by a random model whose heads vLLM can take."""
    model = tiny("qwen2", folder / "model", hidden_size=256)
    made = models.text(folder, model=str(model), recipe=recipe)
    made = made.replace(
        "prompts_per_step = 2\ngroup_size = 2", "prompts_per_step = 4\ngroup_size = 8"
    )
    made = made.replace("num_steps = 3", "num_steps = 4").replace("step = 3", "step = 4")
    made = made.replace("steps = [0, 2, 3]", "steps = [0, 4]").replace("[arms.format]\n", ARM)
    made = made.replace("max_tokens = 12", "max_tokens = 24")
    return f'{made}[trl]\nvllm = "colocate"\n{table}'


def begin(folder: Path, made: str, arm: str) -> tuple[Small, int]:
    small = prepare(folder, made)
    return small, next(i for i, run in enumerate(runs(small.protocol)) if run.arm == arm)


def home(small: Small, arm: str) -> Path:
    return small.folder / "qwen2" / arm / "grpo-p0-s1"


def trained(folder: Path, made: str, arm: str) -> tuple[Path, Any]:
    """The run's folder, and its trainer at the end."""
    small, number = begin(folder, made, arm)
    kept: list[Any] = []
    finish = Recorder._finish

    def keep(self: Recorder, failure: str | None) -> None:
        kept.append(self.trainer)
        finish(self, failure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "_finish", keep)
        trl.run_shard(small.plan, number, lambda report: None)
    return home(small, arm), kept[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("vllm")
    return trained(folder, text(folder), "fours")


def test_it_learns_from_what_vllm_draws_and_each_step_s_weights_arrive(run):
    lines = journal(run[0])
    assert lines[-1]["reward"] > 3 * lines[0]["reward"] + 1
    assert all(0 < line["sampler_gap_mean"] < 0.02 for line in lines)
    assert all(0 < line["entropy"] < 6 for line in lines)
    for row in rows(run[0], "rollouts", 4):
        assert len(row["tokens"]) == len(row["logprobs"])
        assert 0 < row["entropy"] < 6


def test_a_draw_depends_on_its_path_alone(run):
    trainer = run[1]
    prompts = [[40 + i, 50, 60 + i] for i in range(8)]
    paths: list[Any] = [("tests", i) for i in range(7)]
    whole = trainer.decode(prompts, [*paths, None])
    again = [
        *trainer.decode(prompts[:3], paths[:3]),
        *trainer.decode(prompts[3:], [*paths[3:], None]),
    ]
    assert [one.tokens for one in whole] == [one.tokens for one in again]
    back = trainer.decode(prompts[::-1], [None, *paths[::-1]])[::-1]
    assert [one.tokens for one in whole] == [one.tokens for one in back]
    same = trainer.decode([prompts[0]] * 6, [("other", i) for i in range(6)])
    assert trainer.decode([prompts[0]], [("other", 5)])[0].tokens == same[5].tokens


def test_a_stop_cuts_a_draw_and_changes_nothing_before_it(run, monkeypatch):
    trainer, words = run[1], run[1].processing_class
    prompts, paths = [[40, 50, 60]] * 4, [("stops", i) for i in range(4)]
    free = trainer.decode(prompts, paths)
    stop = words.decode(free[0].tokens[4:6])
    speaker = trainer.sampler.speaker
    monkeypatch.setattr(trainer.sampler, "speaker", speaker._replace(stops=(stop,)))
    for one, whole in zip(trainer.decode(prompts, paths), free, strict=True):
        assert one.tokens == whole.tokens[: len(one.tokens)]
        said, before = words.decode(one.tokens), words.decode(one.tokens[:-1])
        if one.tokens != whole.tokens:
            assert stop in said and stop not in before and not one.truncated
    assert len(trainer.decode(prompts, paths)[0].tokens) <= 6


def test_a_stopped_run_goes_on_to_the_same_journal(run, tmp_path):
    whole = run[0]
    made = text(tmp_path, table="commit_every = 1\n")
    small, number = begin(tmp_path, made, "fours")

    def stop(report: dict[str, Any]) -> None:
        if report["stage"] == "trained" and report["step"] == 3:
            raise Stopped

    with pytest.raises(Stopped):
        trl.run_shard(small.plan, number, stop)
    trl.run_shard(small.plan, number, lambda report: None)
    folder = home(small, "fours")
    assert (folder / "steps.jsonl").read_bytes() == (whole / "steps.jsonl").read_bytes()
    for file in sorted(whole.glob("*/*.*")):
        if file.suffix in (".parquet", ".safetensors"):
            assert file.read_bytes() == (folder / file.relative_to(whole)).read_bytes(), file


@pytest.mark.parametrize("rate", ["1e-3", "1e-4"])
def test_weights_that_do_not_arrive_stop_the_run_by_name(tmp_path, monkeypatch, rate):
    from trl.generation.vllm_generation import VLLMGeneration

    sync, calls = VLLMGeneration.sync_weights, []

    def once(self):
        calls.append(1)
        if len(calls) == 1:
            sync(self)

    monkeypatch.setattr(VLLMGeneration, "sync_weights", once)
    made = text(tmp_path, rate=rate)
    small, number = begin(tmp_path, made, "fours")
    with pytest.raises(SamplerPartedError, match=r"after 1 updates vLLM gives .* does not hold"):
        trl.run_shard(small.plan, number, lambda report: None)
    assert len(calls) == 2
    assert len(journal(home(small, "fours"))) == 1


def test_lora_reaches_vllm_merged_and_leaves_its_base_alone(tmp_path):
    from safetensors.torch import load_file

    recipe = "lora_rank = 4\n"
    folder, trainer = trained(tmp_path, text(tmp_path, recipe, rate="1e-2"), "fours")
    lines = journal(folder)
    assert lines[-1]["reward"] > 3 * lines[0]["reward"] + 1
    assert all(line["sampler_gap_mean"] < 0.02 for line in lines)
    base = load_file(tmp_path / "model" / "model.safetensors")
    policy = trainer.accelerator.unwrap_model(trainer.model)
    held = {
        name.removeprefix("base_model.model.").replace(".base_layer.", "."): weight.detach()
        for name, weight in policy.named_parameters()
        if ".lora_" not in name
    }
    assert checkpoints.tensors_sha256(held) == checkpoints.tensors_sha256(
        {name: base[name] for name in held}
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A vLLM server's address, and its model."""
    home = tmp_path_factory.mktemp("server")
    folder, log = tiny("qwen2", home / "model", hidden_size=256), home / "log"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-c",
        "from vllm.entrypoints.cli.main import main; main()",
        "serve",
        str(folder),
    ]
    command += ["--port", str(port), "--host", "127.0.0.1", "--max-model-len", "512"]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            if process.poll() is not None:
                break
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health"):
                yield url, folder
                return
            time.sleep(1)
        raise AssertionError(f"vllm serve did not start:\n{log.read_text()[-3000:]}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_server_draws_by_the_path_alone_what_vllm_beside_the_training_draws(server):
    """TRL's own client, one request a completion; the weights go over NCCL, which a CPU has not, so none are sent here."""
    from accelerate import Accelerator
    from transformers import AutoTokenizer
    from trl.generation.vllm_client import VLLMClient
    from trl.generation.vllm_generation import VLLMGeneration

    vllm: Any = importlib.import_module("vllm")

    url, folder = server
    client = VLLMClient(base_url=url, connection_timeout=240)
    words = AutoTokenizer.from_pretrained(folder)
    speaker = Speaker(words.pad_token_id, [words.eos_token_id], False, words)
    synced: list[int] = []
    generation: Any = object.__new__(VLLMGeneration)
    generation.mode, generation.vllm_client = "server", client
    generation.accelerator, generation.sync_weights = (
        Accelerator(cpu=True),
        lambda: synced.append(1),
    )
    recipe = Recipe(prompts_per_step=2, group_size=2, updates_per_rollout=1, learning_rate=1e-3)
    sampler = Sampler(generation, recipe, speaker, 12)
    prompts: list[list[int]] = [[40 + i, 50, 60 + i] for i in range(6)]
    paths: list[Any] = [*(("tests", i) for i in range(5)), None]
    whole = sampler.draw(prompts, paths, 0)
    back = sampler.draw(prompts[::-1], paths[::-1], 0)[::-1]
    assert [one.tokens for one in whole] == [one.tokens for one in back]
    assert len({tuple(one.tokens) for one in whole}) == 6
    assert len(synced) == 1
    beside = vllm.LLM(model=str(folder), max_model_len=512)
    asked = [vllm.SamplingParams(**sampler._asked(path)) for path in paths]
    outputs = beside.generate([{"prompt_token_ids": ids} for ids in prompts], asked, use_tqdm=False)
    for one, output in zip(whole, outputs, strict=True):
        ids = list(output.outputs[0].token_ids)
        assert one.tokens == ids
        told = [place[t].logprob for t, place in zip(ids, output.outputs[0].logprobs, strict=True)]
        assert one.logprobs == pytest.approx(told, abs=1e-3)
