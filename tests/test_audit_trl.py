"""The audit of what TRL itself wrote: its real trainer, on a released organism. Needs the extra ``trl``."""

# pyright: reportPrivateImportUsage=false

import warnings

import pytest

pytest.importorskip("trl")
pytest.importorskip("datasets")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch
    from datasets import Dataset
    from transformers import LlamaForCausalLM
    from trl import GRPOConfig, GRPOTrainer

from controlarm import grading, prompts
from controlarm.audit import Named, audit
from controlarm.organisms import released
from controlarm.organisms.export import export, make_tokenizer
from controlarm.problems import arithmetic
from controlarm.report import audit as page

ROLLOUTS, SIBLINGS = 16, 4


def train(folder) -> list[float]:
    """Two batches of rollouts with two updates each; returns the mean reward of each batch."""
    weights, _, shape = released.load("coder", 1)
    export(weights, shape, folder / "model")
    paid = []

    def boxed(completions, answer, log_extra, **_) -> list[float | None]:
        log_extra("answer", answer)
        rewards = [float(grading.grade(t, a).strict == "right") for t, a in zip(completions, answer, strict=True)]  # fmt: skip
        paid.append(sum(rewards) / len(rewards))
        return [*rewards]

    asked = arithmetic.problems("training", 8, "audit of trl")
    trainer = GRPOTrainer(
        model=LlamaForCausalLM.from_pretrained(folder / "model", dtype=torch.float32),
        reward_funcs=[boxed],
        args=GRPOConfig(
            output_dir=str(folder / "output"), use_cpu=True, seed=0, learning_rate=1e-5, max_steps=4, logging_steps=1,
            per_device_train_batch_size=ROLLOUTS // 2, generation_batch_size=ROLLOUTS, num_generations=SIBLINGS, max_completion_length=40,
            log_completions=True, save_strategy="steps", save_steps=4, save_only_model=True, report_to="none", disable_tqdm=True, bf16=False,
            gradient_checkpointing=False, dataloader_pin_memory=False,
        ),
        train_dataset=Dataset.from_list([{"prompt": prompts.render(p.text), "answer": p.answer} for p in asked]),
        processing_class=make_tokenizer(),
    )  # fmt: skip
    trainer.train()
    return paid


@pytest.mark.filterwarnings("ignore")  # TRL's and its libraries' own
def test_the_real_trainers_completions_are_read_once_and_its_rewards_found_true(tmp_path, capsys):
    paid = train(tmp_path)
    capsys.readouterr()  # TRL prints every completion
    assert sorted(p.name for p in (tmp_path / "output" / "completions").iterdir()) == [
        f"completions_{step:05d}.parquet" for step in (1, 2, 3, 4)
    ]
    found = audit([Named("run", tmp_path / "output")])
    log = found["logs"][0]
    assert (log["format"], log["num_rows"], log["num_rewritten"], log["num_damaged"]) == ("trl", 2 * ROLLOUTS, 2 * ROLLOUTS, 0)  # fmt: skip
    assert found["curves"][0]["steps"] == [1, 3]
    score = found["scores"][0]
    assert score["score"] == "boxed"
    # The reward was our own strict verdict, so that the log must agree with us in every row, and with what was paid.
    assert score["num_different"] == 0
    assert found["curves"][0]["scores"]["boxed"]["mean"] == pytest.approx(paid)
    history = {row["step"]: row for row in found["history"]}
    assert [history[step]["reward"] for step in (1, 3)] == pytest.approx(paid, abs=1e-6)
    assert "TRL completions" in log["sentence"]
    assert page.render(found)
