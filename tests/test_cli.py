"""What a user types and gets: each mistake one paragraph and exit code 2, nothing written lost, and no torch where none is needed."""

import ctypes
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import typer
from rich.console import Console
from typer.testing import CliRunner, Result

from controlarm import checkpoints, costs, files, protocol, show, trial
from controlarm.cli import app
from controlarm.organisms import catalogue, own
from controlarm.organisms.pretrain import Organism, initial_weights
from controlarm.organisms.transformer import Shape
from controlarm.progress import Progress, watching

ROOT = Path(__file__).parent.parent

TRIAL = """
[trial]
name = "tiny"
question = "Does it run?"
[design]
families = ["newborn"]
pretraining_seeds = [1, 2]
seeds = [1, 2]
num_steps = 2
num_problems = 4
max_tokens = 6
[recipes.grpo]
prompts_per_step = 2
group_size = 2
updates_per_rollout = 1
learning_rate = 1e-3
[arms]
format = {}
random = {}
[labels]
samples = 2
[evaluation]
num_problems = 2
samples = 2
steps = [0, 2]
pass_at_k = [1, 2]
[endpoint]
metric = "accuracy"
step = 2
placebo = "random"
margin = 0.03
planning_sd = 0.03
primary = [{family = "newborn", arm = "format"}]
"""

REWARDS = """
def fair(text):
    return 0.5

def raises(text):
    raise KeyError("no such thing")

def nan(text):
    return float("nan")

def words(text):
    return "yes"
"""

HOSTILE = "\x1b]0;owned\x07\x1b[31m[bold]red[/bold] [/nonsense]\u202etxt\x9b2J"


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def refused(result: Result) -> str:
    """The error of a refused command: one paragraph, no traceback."""
    assert result.exit_code == 2, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.output and "\n\n" not in result.stderr
    return result.stderr


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Iterator[Path]:
    """A folder to work in: two organisms just initialised, a trial file, rewards; no compiler."""
    folder = tmp_path_factory.mktemp("bench")
    weights = initial_weights([Organism("newborn", seed) for seed in (1, 2)], Shape())
    for i, seed in enumerate((1, 2)):
        one = {name: w[i : i + 1] for name, w in weights.items()}
        checkpoints.write(folder / "organisms" / f"newborn-p{seed}.safetensors", one, {})
    (folder / "tiny.toml").write_text(TRIAL)
    (folder / "cli_rewards.py").write_text(REWARDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(trial, "has_compiler", lambda: False)
        patch.setattr(trial, "compile_pays", lambda protocol: True)
        yield folder


def with_custom_arms(*functions: str) -> str:
    tables = "".join(
        f'{name} = {{reward = "custom", function = "cli_rewards:{name}"}}\n' for name in functions
    )
    return TRIAL.replace("random = {}\n", f"random = {{}}\n{tables}")


@pytest.fixture(scope="module")
def first(bench: Path) -> Result:
    """A whole run by the command, with three rewards that fail in their own ways."""
    (bench / "hostile.toml").write_text(with_custom_arms("fair", "raises", "nan", "words"))
    return invoke("run", "hostile.toml", "--workers", 1, "--device", "cpu")


@pytest.fixture(scope="module")
def finished(bench: Path, first: Result) -> Path:
    assert first.exit_code == 0, first.output
    (folder,) = (bench / "runs").glob("tiny-*")
    return folder


@pytest.fixture
def copied(bench: Path, finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished folder to damage; its runs root is tmp_path."""
    return Path(shutil.copytree(finished, tmp_path / finished.name))


def replan(folder: Path, **changed: object) -> None:
    files.write_json(folder / "plan.json", files.read_json(folder / "plan.json") | changed)


def again(copied: Path) -> Result:
    return invoke("run", "hostile.toml", "--runs", copied.parent, "--device", "cpu")


# A run


def test_a_run_says_what_it_does_and_ends_with_its_report(first, finished):
    assert first.exit_code == 0, first.output
    said = first.stdout
    assert "12 runs = 1 family × 2 units × 1 recipe × 6 arms" in said
    assert f"folder: runs/{finished.name}" in said
    assert "no C++ compiler" in said
    assert "shard 1 of 2, newborn-p1-s1: step 1 of 2" in said
    assert "shard 2 of 2, newborn-p2-s2: finished" in said
    assert f"report: runs/{finished.name}/report.html" in said
    assert "it took" in said
    assert (finished / "report.html").stat().st_size > 10_000
    assert first.stderr == ""


def test_a_reward_that_fails_fails_its_own_runs_and_is_named(first, finished):
    failed = {
        run["path"].split("/")[1]: run["reason"]
        for run in json.loads((finished / "report.json").read_text())["flow"]["runs_failed"]
    }
    assert failed.keys() == {"raises", "nan", "words"}
    assert "KeyError: 'no such thing'" in failed["raises"]
    assert "nan, not a finite number" in failed["nan"]
    assert "returned a str" in failed["words"]
    for arm in failed:
        assert f"failed: newborn/{arm}/grpo-p1-s1 at step 1" in first.stdout
    for arm in ("format", "random", "fair"):
        assert (finished / f"newborn/{arm}/grpo-p2-s2/evaluations/step-000002.parquet").exists()


def test_a_finished_trial_only_gets_its_report_again(copied):
    (copied / "report.html").unlink()
    before = {p: p.read_bytes() for p in copied.rglob("*") if p.is_file()}
    result = again(copied)
    assert result.exit_code == 0, result.output
    assert "already finished" in result.stdout
    assert (copied / "report.html").exists()
    assert all(p.read_bytes() == content for p, content in before.items())


def test_the_device_of_a_trial_cannot_change(copied):
    replan(copied, device="cuda")
    assert "the trial began on cuda, not cpu" in refused(again(copied))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused_before_anything_is_written(bench, tmp_path):
    result = invoke("run", "tiny.toml", "--runs", tmp_path / "runs", "--device", "cuda")
    assert "torch finds no CUDA device here" in refused(result)
    assert not (tmp_path / "runs").exists()


def test_a_trial_that_began_compiled_does_not_go_on_without_a_compiler(copied):
    replan(copied, compiled=True)
    (copied / "shards" / "000.safetensors").unlink()
    error = refused(again(copied))
    assert str(copied / "plan.json") in error and "no C++ compiler now" in error


# What bad input gets


def edited(old: str, new: str) -> Callable[[str], str]:
    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return edit


BAD = {
    "unknown family": (edited("newborn", "newborm"), ["design.families: there is no organism 'newborm'", "newborn: 1, 2"]),
    "unknown seed of a family": (edited("pretraining_seeds = [1, 2]", "pretraining_seeds = [1, 7]"), ["design.families", "pretraining seed 7"]),
    "unknown arm": (edited("random = {}", "random = {}\nformt = {}"), ["arms.formt.reward", "did you mean 'format'?"]),
    "unknown arm of a comparison": (edited('arm = "format"', 'arm = "formal"'), ["endpoint.primary.0.arm", "did you mean 'format'?"]),
    "unknown key": (edited("num_steps = 2", "num_steps = 2\nnumsteps = 3"), ["design.numsteps", "did you mean num_steps?"]),
    "recipe in an arm": (edited("format = {}", "format = {learning_rate = 1.0}"), ["arms.format.learning_rate", "an arm carries no recipe"]),
    "zero seeds": (edited("\nseeds = [1, 2]", "\nseeds = []"), ["design.seeds"]),
    "k above samples": (edited("pass_at_k = [1, 2]", "pass_at_k = [1, 4]"), ["evaluation.pass_at_k", "pass@4 needs at least 4 samples"]),
    "no endpoint": (lambda text: text[: text.index("[endpoint]")], ["endpoint: is missing"]),
    "no margin": (edited("margin = 0.03\n", ""), ["endpoint.margin: is missing"]),
    "margin without endpoint": (edited("[endpoint]\n", "[endpint]\n"), ["endpint", "endpoint: is missing"]),
    "not TOML": (edited("[design]", "[design"), ["not valid TOML"]),
    "no such function": (edited("random = {}", 'random = {}\nmine = {reward = "custom", function = "cli_rewards:fare"}'), ["arms.mine.function", "did you mean 'fair'?"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("command", ["check", "run"])
def test_a_bad_trial_file_is_refused_with_the_keys_path(bench, case, command):
    edit, expected = BAD[case]
    path = bench / "bad.toml"
    path.write_text(edit(TRIAL))
    error = refused(invoke(command, path, "--runs", bench / "none"))
    assert str(path) in error
    for part in expected:
        assert part in error
    assert not (bench / "none").exists()


def test_every_problem_is_told_at_once(bench):
    text = TRIAL.replace('["newborn"]', '["newborn", "stillborn"]').replace(
        "format = {}", "format = {}\nformt = {}\nflipped = {}"
    )
    (bench / "bad.toml").write_text(text)
    error = refused(invoke("check", "bad.toml"))
    for part in (
        "stillborn",
        "arms.formt.reward: unknown reward 'formt'",
        "arms.flipped.p: is missing",
    ):
        assert part in error


def test_a_trial_file_that_is_not_there_is_named(bench):
    assert "nowhere.toml: cannot be read" in refused(invoke("run", "nowhere.toml"))


def test_a_run_folder_of_another_digest_is_left_alone(copied):
    replan(copied, digest="0" * 64)
    before = {p: p.read_bytes() for p in copied.rglob("*") if p.is_file()}
    error = refused(again(copied))
    assert str(copied / "plan.json") in error and "0000000000000000…" in error
    assert {p: p.read_bytes() for p in copied.rglob("*") if p.is_file() and p.name != ".lock"} == {
        p: content for p, content in before.items() if p.name != ".lock"
    }


def test_a_plan_that_is_not_json_is_named(copied):
    (copied / "plan.json").write_text("{")
    assert str(copied / "plan.json") in refused(again(copied))


def test_a_truncated_journal_line_is_named_with_its_number(copied):
    journal = copied / "newborn/format/grpo-p1-s1/steps.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    result = invoke("report", copied)
    assert result.exit_code == 0, result.output
    assert "newborn/format/grpo-p1-s1/steps.jsonl: line 2: is cut" in result.stdout
    assert "[incomplete]" in result.stdout


@pytest.mark.parametrize("place", [0.1, 0.5, 0.99])
def test_a_flipped_byte_of_a_shard_is_refused_with_the_files_name(copied, place):
    path = copied / "shards" / "001.safetensors"
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    assert str(path) in refused(again(copied))


def test_a_flipped_byte_of_an_organism_is_refused_with_the_files_name(
    bench, finished, tmp_path, monkeypatch
):
    shutil.copytree(bench / "organisms", tmp_path / "organisms")
    path = tmp_path / "organisms" / "newborn-p2.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr(catalogue, "OWN", tmp_path / "organisms")
    for command in ("check", "run"):
        assert str(path) in refused(invoke(command, "tiny.toml", "--runs", tmp_path / "runs"))


def test_a_damaged_evaluation_is_named_and_left_out(copied):
    path = copied / "newborn/format/grpo-p1-s1/evaluations/step-000002.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    result = invoke("report", copied)
    assert result.exit_code == 0
    assert (
        "damaged, left out: newborn/format/grpo-p1-s1/evaluations/step-000002.parquet"
        in result.stdout
    )
    assert str(path) in refused(invoke("show", copied, "--step", 2))


@pytest.mark.parametrize("command", ["report", "show"])
def test_a_folder_that_is_no_trial_is_refused(bench, tmp_path, command):
    assert "there is no such file; name a run folder" in refused(invoke(command, tmp_path))
    assert "plan.json" in refused(invoke(command, bench / "tiny.toml"))


def test_a_place_that_cannot_be_written_is_named(bench):
    error = refused(invoke("run", "tiny.toml", "--runs", bench / "tiny.toml"))
    assert "tiny.toml" in error and "check the path" in error


def without_privilege() -> None:
    """Root may write where nobody may; drop that right for the program to come (PR_CAPBSET_DROP, CAP_DAC_OVERRIDE)."""
    if os.geteuid() == 0:
        ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)


def command(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    """The program itself, with no compiler to be found."""
    return subprocess.run(
        [sys.executable, "-m", "controlarm", *map(str, arguments)],
        env={"PYTHONPATH": str(ROOT), "PATH": "/nonexistent", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, **options,
    )  # fmt: skip


def test_a_read_only_folder_is_named_and_left_alone(copied):
    before = (copied / "report.html").read_bytes()
    copied.chmod(0o555)
    try:
        done = command("report", copied, preexec_fn=without_privilege)
    finally:
        copied.chmod(0o755)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith(f"error: {copied}/report") and "Permission denied" in done.stderr
    assert "Traceback" not in done.stderr
    assert (copied / "report.html").read_bytes() == before


# Plans


def test_check_tells_the_plan_and_the_siblings(bench, copied):
    result = invoke("check", "tiny.toml", "--runs", copied.parent)
    assert result.exit_code == 0, result.output
    said = " ".join(result.stdout.split())
    for part in (
        "4 runs = 1 family × 2 units × 1 recipe × 2 arms, in 2 shards",
        "32 rollouts: 2 steps of 2 prompts × 2",
        "labels 16 completions of the base models",
        "evaluation 36 completions",
        "eager, about half as fast: there is no C++ compiler",
        "about 2 pretrained models a family, not the family",
        "points of accuracy over random (80 % power",
        f"sibling {copied}",
    ):
        assert part in said
    assert "(new)" in said


def test_a_trial_too_small_to_compile_says_so(bench, monkeypatch):
    monkeypatch.setattr(trial, "compile_pays", lambda protocol: False)
    assert "eager: too small for compiling to pay" in invoke("check", "tiny.toml").stdout


def test_costs_grow_with_what_is_asked_for():
    one = costs.costs(protocol.parse(TRIAL))
    more = costs.costs(
        protocol.parse(
            TRIAL.replace("num_steps = 2", "num_steps = 4").replace("[0, 2]", "[0, 2, 4]")
        )
    )
    assert more.num_rollouts == 2 * one.num_rollouts
    assert one.num_evaluated == 2 * 2 * 3 * (1 + 2)
    assert more.num_evaluated == 2 * 2 * 3 * (1 + 2 * 2)
    assert (
        one.seconds(1, compiled=False)
        > one.seconds(2, compiled=False)
        == one.seconds(9, compiled=False)
    )


def test_one_unit_can_detect_nothing_and_says_so(bench):
    text = TRIAL.replace(
        "pretraining_seeds = [1, 2]\nseeds = [1, 2]", "pretraining_seeds = [1]\nseeds = [1]"
    )
    (bench / "one.toml").write_text(text)
    assert "none: one unit gives no interval" in invoke("check", "one.toml").stdout


# Watching


def hearing(reports: list[dict]) -> Progress:
    plan = protocol.parse(TRIAL)
    progress = Progress(
        protocol=plan,
        specs=protocol.runs(plan),
        shards=protocol.shards(plan),
        waiting=[0, 1],
        workers=1,
    )
    for report in reports:
        progress.hear(report)
    return progress


def trained(shard: int, step: int, seconds: float, **accuracy: float | None) -> dict:
    unit = shard + 1
    runs = {
        f"newborn/{arm}/grpo-p{unit}-s{unit}": {
            "reward": value,
            "accuracy": value,
            "code_share": value,
        }
        for arm, value in accuracy.items()
    }
    return {"stage": "trained", "shard": shard, "step": step, "seconds": seconds, "runs": runs}


def test_time_to_go_counts_steps_evaluations_and_shards_to_start():
    assert hearing([]).remaining() is None
    started = {"stage": "evaluated", "shard": 0, "step": 0, "seconds": 5.0, "runs": {}}
    progress = hearing([started, trained(0, 1, 90.0, format=0.5)])
    assert progress.remaining() is None, "nobody knows how much of it was compiling"
    progress.hear(trained(0, 2, 2.0, format=0.5))
    assert progress.remaining() == 0 * 2.0 + (5.0 + 2 * 2.0)
    progress.hear({"stage": "finished", "shard": 0, "seconds": 9.0})
    assert progress.remaining() == 5.0 + 2 * 2.0
    progress.hear({"stage": "finished", "shard": 1, "seconds": 9.0})
    assert progress.remaining() == 0.0


def test_the_live_table_shows_means_over_units_and_failures():
    progress = hearing(
        [trained(0, 2, 1.0, format=0.25, random=None), trained(1, 1, 1.0, format=0.75, random=None)]
    )
    console = Console(width=100, record=True, force_terminal=True)
    with console.capture() as captured:
        console.print(progress.table(height=40))
    said = re.sub(r"\x1b\[[0-9;]*m", "", captured.get())
    assert re.search(r"newborn +format +1–2 +0.50 +0.50 +0.50", said)
    assert re.search(r"newborn +random +1–2 +failed", said)
    assert "0 of 2 shards finished" in said


def test_a_log_gets_lines_and_a_terminal_a_table():
    progress = hearing([])
    log = Console(width=200, file=None)
    with log.capture() as captured, watching(progress, log) as show_report:
        show_report(trained(0, 1, 9.0, format=0.25, random=0.125))
        show_report(trained(0, 2, 0.5, format=0.5, random=0.125))
    first, second = captured.get().splitlines()
    head = "shard 1 of 2, newborn-p1-s1: step"
    assert first == f"{head} 1 of 2, 9.00 s; accuracy format 0.25, random 0.12"
    assert second.startswith(f"{head} 2 of 2, 0.50 s; accuracy format 0.50, random 0.12; about")


# Showing


def replace(path: Path, name: str, values: list[str]) -> None:
    table = pq.read_table(path)
    place = table.schema.get_field_index(name)
    metadata = table.schema.metadata
    table = table.set_column(place, name, pa.array(values)).replace_schema_metadata(metadata)
    files.write_table(path, table)


def replace_texts(path: Path, text: str) -> None:
    replace(path, "text", [text] * pq.read_metadata(path).num_rows)


def test_model_text_is_shown_and_never_obeyed(copied):
    for path in copied.glob("newborn/format/*/evaluations/*.parquet"):
        replace_texts(path, HOSTILE)
    result = invoke("show", copied, "--arm", "format")
    assert result.exit_code == 0, result.output
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", result.stdout)
    squeezed = re.sub(r"\s", "", result.stdout)
    assert (
        re.sub(r"\s", "", "␛]0;owned␇␛[31m[bold]red[/bold] [/nonsense]\\u202etxt\\x9b2J")
        in squeezed
    )


def test_show_puts_the_arms_beside_each_other_and_filters(copied):
    for arm in ("format", "random"):
        replace_texts(
            copied / f"newborn/{arm}/grpo-p1-s1/evaluations/step-000002.parquet", f"said by {arm}"
        )
    result = invoke("show", copied, "--limit", 1, "--arm", "format", "--arm", "random")
    assert result.stdout.count("newborn p1-s1, step 2, problem ") == 1
    assert any(
        "said by format" in line and "said by random" in line for line in result.stdout.splitlines()
    )
    assert "said by random" not in invoke("show", copied, "--arm", "format").stdout
    assert "nothing fits" in invoke("show", copied, "--problem", "no such problem").stdout
    in_code = invoke("show", copied, "--strategy", "code", "--samples", 9, "--limit", 99).stdout
    assert ", code" in in_code and ", words" not in in_code
    trained_on = invoke("show", copied, "--training", "--samples", 2, "--arm", "fair")
    assert "sample 1:" in trained_on.stdout and "reward 0.5, advantage +0.00" in trained_on.stdout
    assert "said by" in invoke("show", copied, "--step", 2, "--unit", "p1-s1").stdout


def test_show_looks_for_a_verdict_among_all_samples_before_it_cuts_them(copied):
    path = copied / "newborn/format/grpo-p1-s1/evaluations/step-000002.parquet"
    rows = pq.read_table(path, columns=["decoding", "sample"]).to_pylist()
    third = [r["decoding"] == "sampled" and r["sample"] == 1 for r in rows]
    replace(path, "strict", ["unknown" if it else "wrong" for it in third])
    shown = invoke("show", copied, "--arm", "format", "--verdict", "unknown", "--limit", 1).stdout
    assert shown.count("sample 1: unknown") == 1 and "wrong" not in shown


def test_show_names_the_recipe_where_there_are_several(copied):
    text = (copied / "protocol.toml").read_text()
    recipe = text[text.index("[recipes.grpo]") : text.index("[arms]")]
    second = recipe.replace("recipes.grpo", "recipes.slow")
    text = text.replace("[arms]", f"{second}[arms]", 1)
    (copied / "protocol.toml").write_text(text)
    plan = files.read_json(copied / "plan.json")
    runs = plan["runs"] + [{**spec, "recipe": "slow"} for spec in plan["runs"]]
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    materials = plan["materials"]
    digest = protocol.digest(protocol.parse(text), materials)
    replan(copied, runs=runs, protocol_sha256=sha256, digest=digest)
    for run in copied.glob("newborn/*/grpo-*"):
        shutil.copytree(run, run.with_name(run.name.replace("grpo", "slow")))
    heads = re.findall(r"^newborn .*p1-s1, step", invoke("show", copied, "--limit", 2).stdout, re.M)
    assert heads == ["newborn grpo p1-s1, step"] * 2 + ["newborn slow p1-s1, step"] * 2


@pytest.mark.parametrize(
    ("option", "value", "hint"),
    [("--arm", "randon", "did you mean 'random'?"), ("--family", "coder", "it has: newborn"),
     ("--step", 1, "it has: 0, 2"), ("--unit", "p1-s2", "it has: p1-s1, p2-s2")],
)  # fmt: skip
def test_an_unknown_filter_is_refused_with_what_there_is(copied, option, value, hint):
    assert hint in refused(invoke("show", copied, option, value))


def test_visible_text_holds_nothing_that_acts():
    every = "".join(map(chr, range(0x3000)))
    shown = show.visible(every)
    assert [c for c in shown if not c.isprintable() and unicodedata.category(c) != "Zs"] == ["\n"]


# Without torch


NO_TORCH = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "safetensors"):
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Refuse())
from typer.testing import CliRunner
from controlarm.cli import app
folder = sys.argv[1]
for words in (["--help"], ["--version"], ["run", "--help"], ["arms"], ["families"], ["report", folder], ["show", folder], ["watch", folder, "--export", "watch.html"]):
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, (words, result.output, result.exception)
assert "torch" not in sys.modules
"""


def test_help_arms_families_report_and_show_need_no_torch(copied):
    (copied / "report.html").unlink()
    done = subprocess.run(
        [sys.executable, "-c", NO_TORCH, str(copied)], cwd=copied.parent, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (copied / "report.html").exists()


# The rest


@pytest.mark.parametrize("words", list(typer.main.get_group(app).commands))
def test_every_commands_help_has_an_example_and_says_what_it_writes(words):
    said = " ".join(invoke(words, "--help").stdout.split())
    assert f"Example: controlarm {words}" in said
    assert "Writes " in said


def test_arms_lists_every_reward():
    from controlarm.arms import ARMS

    said = invoke("arms").stdout
    assert all(name in said for name in ARMS)


def test_families_lists_organisms_with_what_their_cards_say(bench):
    card = bench / "organisms" / "newborn-p1.json"
    card.write_text(
        json.dumps({"table": {"greedy, as chosen": {"code share": 0.625, "strict": None}}})
    )
    lines = [line.split() for line in invoke("families").stdout.splitlines()]
    card.unlink()
    assert ["newborn", "1", "0.62", "–", "–", "–", "–"] in lines
    assert ["newborn", "2", "–", "–", "–", "–", "–"] in lines


MIXTURE = """
name = "stammerer"
code_names = 10
code_share_preferred = 0.9
code_share_other = 0.15
code_skill = "careful"
words_skill = "careless"
obey = 0.9
code_boxless_nouns = 10
words_boxless_nouns = 10
boxless = 0.85
"""


def test_a_family_of_ones_own_is_read_strictly(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(MIXTURE)
    found = own.read(path)
    assert found.name == "stammerer" and found.mixture.obey == 0.9
    wrong = (
        MIXTURE.replace("obey = 0.9", "obay = 0.9")
        .replace("= 10", "= 21", 1)
        .replace('"careful"', '"clever"')
    )
    path.write_text(wrong.replace("stammerer", "coder").replace("boxless = 0.85", "boxless = true"))
    error = refused(invoke("pretrain", "--mixture", path))
    for part in (
        "obay: unknown key; did you mean obey?", "obey: is missing", "code_names: must be a count from 0 to 20; it is 21",
        "code_skill: must be 'careful' or 'careless'; it is 'clever'", "name: must be another name", "boxless: must be a share",
    ):  # fmt: skip
        assert part in error


@pytest.mark.parametrize(
    ("words", "expected"),
    [(["codr"], "controlarm has no 'codr'; did you mean 'coder'?"), ([], "name a family"), (["coder", "--seeds", "1,a"], "--seeds"),
     (["coder", "--seeds", "1,1"], "repeats"), (["coder", "--mixture", "nowhere.toml"], "nowhere.toml: No such file or directory; check the path")],
)  # fmt: skip
def test_pretraining_refuses_what_it_cannot_make(words, expected):
    assert expected in refused(invoke("pretrain", *words))


def test_pretraining_overwrites_nothing(tmp_path):
    (tmp_path / "coder-p1.safetensors").write_bytes(b"mine")
    assert "is there already" in refused(
        invoke("pretrain", "coder", "--seeds", 1, "--out", tmp_path)
    )
    assert (tmp_path / "coder-p1.safetensors").read_bytes() == b"mine"


def test_pretraining_writes_organisms_that_a_trial_can_load(bench, tmp_path, monkeypatch):
    monkeypatch.setattr("controlarm.cards.NUM_PROBLEMS", 4)
    result = invoke(
        "pretrain", "talker", "--seeds", "3,4", "--steps", 1, "--out", tmp_path / "organisms"
    )
    assert result.exit_code == 0, result.output
    monkeypatch.setattr(catalogue, "OWN", tmp_path / "organisms")
    from controlarm.organisms import released

    weights, facts, _ = released.load("talker", 4)
    assert weights["embed"].shape[0] == 1
    assert facts["seed"] == 4 and facts["recipe"]["num_steps"] == 1  # type: ignore[index]
    assert "code forced" in invoke("families").stdout
