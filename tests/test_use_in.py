"""The examples of docs/use-in-*.md do what the pages say: TRL's trains; the others' are loaded as their trainers load them."""

import asyncio
import importlib
import importlib.util
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from controlarm.cli import app
from controlarm.rewards.verl import ArmRewardManager, compute_score
from tests.test_rewards_verl import Characters, asked

DOCS = Path(__file__).parent.parent / "docs"
RIGHT, WRONG = r"\boxed{366}", r"\boxed{356}"


def blocks(trainer: str, language: str) -> list[str]:
    page = (DOCS / f"use-in-{trainer}.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}[^\n]*\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


@pytest.mark.parametrize("trainer", ["trl", "verl", "openrlhf", "verifiers"])
def test_every_example_is_ten_lines_at_most(trainer):
    for language in ("python", "sh", "toml"):
        for block in blocks(trainer, language):
            assert len([line for line in block.splitlines() if line]) <= 10


@pytest.mark.parametrize("trainer", ["trl", "verl", "openrlhf", "verifiers"])
def test_the_pages_first_command_writes_the_data_set(trainer, tmp_path):
    page = (DOCS / f"use-in-{trainer}.md").read_text(encoding="utf-8")
    command = re.search(r"^    controlarm (dataset .*)$", page, re.MULTILINE)
    assert command
    words = command[1].replace("deepscaler", "random_calculation:1").split()
    words[2] = str(tmp_path / words[2])
    result = CliRunner().invoke(app, [*words, "--limit", "2"])
    assert result.exit_code == 0 and "2 problems" in result.output


# TRL.


@pytest.mark.skipif(
    not installed("trl"), reason="TRL is not installed: pip install 'controlarm[trl]'"
)
@pytest.mark.filterwarnings("ignore")  # TRL's and its libraries' own
def test_trls_example_trains_and_logs_the_truth(tmp_path, monkeypatch):
    from tests.tiny_models import tiny

    monkeypatch.chdir(tmp_path)
    CliRunner().invoke(app, ["dataset", "random_calculation:1", "train.jsonl", "--for", "trl", "--limit", "4"])  # fmt: skip
    model = tiny("qwen2", tmp_path / "model")
    quick = (
        "num_generations=8, per_device_train_batch_size=8, max_steps=2, max_completion_length=4, logging_steps=1, "
        "report_to=[], use_cpu=True, bf16=False, save_strategy='no', disable_tqdm=True"
    )
    code = blocks("trl", "python")[0]
    assert code.count("Qwen/Qwen2.5-Math-1.5B") == code.count("num_generations=8") == 1
    code = code.replace("Qwen/Qwen2.5-Math-1.5B", str(model)).replace("num_generations=8", quick)
    names: dict[str, Any] = {}
    exec(code, names)
    logged = [row for row in names["trainer"].state.log_history if "reward" in row]
    assert len(logged) == 2
    for row in logged:
        assert row["accuracy"] == 0 and 0 <= row["rewards/random/mean"] <= 1
    assert names["reward"].num_failed == 0


def test_a_referees_equality_pays():
    names: dict[str, Any] = {}
    exec(blocks("trl", "python")[1], names)
    assert names["equal"](r"\frac{1}{2}", "0.5") is True
    names["equal"].__self__.close()


# verl.


def overrides(block: str) -> dict[str, Any]:
    """A command's settings as a tree."""
    tree: dict[str, Any] = {}
    for key, value in re.findall(r"\+?(reward\.\S+?)=(\S+)", block):
        *path, last = key.split(".")
        place = tree
        for part in path:
            place = place.setdefault(part, {})
        place[last] = int(value) if value.isdigit() else value
    return tree["reward"]


def of_package(path: str, name: str) -> Any:
    return getattr(importlib.import_module(path.removeprefix("pkg://")), name)


def test_verls_commands_name_what_is_there():
    function, manager = map(overrides, blocks("verl", "sh"))
    given = function["custom_reward_function"]
    assert of_package(given["path"], given["name"]) is compute_score
    found = compute_score("set", WRONG, "366", {"problem_id": "p"}, **given["reward_kwargs"])
    assert found == {"score": 1, "acc": 0, "unknown": 0, "failed": 0}
    chosen = manager["reward_manager"]
    assert of_package(chosen["module"]["path"], chosen["name"]) is ArmRewardManager


@pytest.mark.skipif(
    not installed("verl"), reason="verl is not installed; `make adapters` runs this against it"
)
def test_verls_commands_are_loaded_by_verl_with_its_own_defaults():
    import hydra  # pyright: ignore[reportMissingImports]
    import verl  # pyright: ignore[reportMissingImports]
    from verl import DataProto  # pyright: ignore[reportMissingImports]
    from verl.experimental.reward_loop import migrate_legacy_reward_impl  # pyright: ignore[reportMissingImports]
    from verl.trainer.ppo.reward import load_reward_manager  # pyright: ignore[reportMissingImports]

    folder = Path(str(verl.__file__)).parent / "trainer" / "config"
    texts = [WRONG, RIGHT, "no box"]

    async def scored(config: Any) -> list[float]:
        manager = load_reward_manager(config, Characters(), reward_router_address=None, reward_model_tokenizer=None)  # fmt: skip
        paid = []
        for i, text in enumerate(texts):
            parts = asked(text, global_steps=1, session_id=i, uid="u")
            data = DataProto.from_dict(tensors=parts["tensors"], non_tensors=parts["non_tensors"])
            paid.append((await manager.run_single(data))["reward_score"])
        return paid

    with hydra.initialize_config_dir(str(folder), version_base=None):
        found = []
        for block in blocks("verl", "sh"):
            said = re.findall(r"\+?reward\.\S+=\S+", block)
            config = migrate_legacy_reward_impl(hydra.compose("ppo_trainer", overrides=said))
            found.append(asyncio.run(scored(config)))
    from controlarm import seeds

    assert found[0] == [1, 1, 0]
    assert found[1] == [float(seeds.uniform(1, "random", 0, "p", 1, i) < 0.5) for i in range(3)]


# OpenRLHF.


def test_openrlhfs_file_is_a_reward_file(tmp_path):
    file = tmp_path / "arm.py"
    file.write_text(blocks("openrlhf", "python")[0])
    spec = importlib.util.spec_from_file_location("reward_func", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    label = json.dumps({"problem_id": "p", "answer": "366"})
    found = module.reward_func(["?" + WRONG], ["?"], [label])
    assert (found["rewards"].item(), found["extra_logs"]["acc"].item()) == (1, 0)


# verifiers.


def test_verifiers_files_plug_in(tmp_path, monkeypatch):
    (tmp_path / "placebo.py").write_text(blocks("verifiers", "python")[0])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "placebo", raising=False)
    table = tomllib.loads(blocks("verifiers", "toml")[0])
    [(name, plugged)] = table["env"]["taskset"]["task"]["rewards"].items()
    module, _, function = plugged["fn"].partition(":")
    pays = getattr(importlib.import_module(module), function)
    assert pays.__name__ == name == "random"
    if installed("verifiers") and not installed("verifiers.rubrics"):
        import verifiers.v1 as vf  # pyright: ignore[reportMissingImports]

        config = vf.TaskConfig(rewards={name: plugged})
        [hook] = vf.Task(vf.TaskData(id="p"), config).hooks("reward")
        assert hook.__name__ == "random"


@pytest.mark.skipif(
    not (installed("verifiers") and installed("verifiers.rubrics")),
    reason="verifiers with rubrics (0.1) is not installed; `make adapters` runs this against it",
)
def test_verifiers_environment_has_the_arm(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    CliRunner().invoke(app, ["dataset", "random_calculation:1", "train.jsonl", "--for", "verifiers", "--limit", "2"])  # fmt: skip
    names: dict[str, Any] = {}
    exec(blocks("verifiers", "python")[1], names)
    row = names["environment"].get_dataset()[0]
    state = names["vf"].State(
        input=row, completion=[{"role": "assistant", "content": rf"\boxed{{{row['answer']}}}"}], trajectory_id="7" * 32,
    )  # fmt: skip
    asyncio.run(names["environment"].rubric.score_rollout(state))
    assert state["metrics"]["acc"] == 1 and state["reward"] in (0, 1)
