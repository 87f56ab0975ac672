"""Settings of the engine trl that are to change numbers by rounding at most, and precisions; what it refuses of a protocol."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from small_trial import Small, prepare
from test_trl import journal, rows, text

pytest.importorskip("trl")

from controlarm.engines import trl
from controlarm.protocol import ProtocolError, runs

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL's and its libraries' own


def first(folder: Path, made: str) -> Path:
    """Folder of the only run of ground truth, ended."""
    small: Small = prepare(folder, made)
    number = next(i for i, run in enumerate(runs(small.protocol)) if run.arm == "ground_truth")
    trl.run_shard(small.plan, number, lambda report: None)
    return small.run("ground_truth")


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return first(tmp_path_factory.mktemp("plain"), text("trl"))


@pytest.mark.parametrize(
    "recipe", ["", pytest.param("lora_rank = 4\nlora_alpha = 8\n", marks=pytest.mark.slow)]
)
def test_activations_computed_again_change_nothing_but_rounding(
    plain, tmp_path, monkeypatch, recipe
):
    modeling: Any = importlib.import_module("transformers.modeling_utils")
    again: list[object] = []
    checkpoint = modeling.checkpoint

    def counted(*arguments, **named):
        again.append(arguments[0])
        return checkpoint(*arguments, **named)

    if recipe:
        plain = first(tmp_path / "plain", text("trl", recipe=recipe))
    monkeypatch.setattr(modeling, "checkpoint", counted)
    made = text("trl", recipe=recipe, more="[trl]\ngradient_checkpointing = true\n")
    folder = first(tmp_path, made)
    # Three layers in each of two updates of three steps.
    assert len(again) == 18
    for one, other in zip(journal(plain), journal(folder), strict=True):
        for name in [n for n in one if n != "seal" and one[n] is not None]:
            assert other[name] == pytest.approx(one[name], rel=1e-4, abs=1e-7), name


def test_bfloat16_rounds_where_it_computes_and_keeps_float32_weights(plain, tmp_path):
    """The first step's texts are drawn by rounded scores; the weights stay in float32 and the journal says what rounding did."""
    from safetensors.torch import load_file

    made = text("trl").replace('precision = "float32"', 'precision = "bfloat16"')
    folder = first(tmp_path, made)
    tensors = load_file(folder / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    coarse, fine = journal(folder), journal(plain)
    assert coarse[0]["sampler_gap_mean"] > 20 * fine[0]["sampler_gap_mean"]
    assert coarse[0]["sampler_gap_mean"] < 0.02
    said = [[row["text"] for row in rows(f, "evaluations", 0)] for f in (folder, plain)]
    same = sum(a == b for a, b in zip(*said, strict=True))
    assert same >= len(said[0]) * 3 // 4, "the same noise says nearly the same"
    for name in ("reward", "grad_norm"):
        assert coarse[0][name] == pytest.approx(fine[0][name], rel=0.5, abs=0.1), name


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"recipe": 'select = "greedy_wrong"'}, 'recipes.grpo.select: TRL asks for no greedy completion; say select = "all"'),
        ({"more": '[probes]\nkinds = ["forced"]\nnum_problems = 2'}, "probes: the engine trl measures none"),
        ({"more": '[probes]\nbase = ["perplexity"]\nnum_problems = 2'}, "probes: the engine trl measures none"),
    ],
)  # fmt: skip
def test_what_it_does_not_do_is_refused(tmp_path, change, said):
    with pytest.raises(ProtocolError) as refused:
        prepare(tmp_path, text("trl", **change))
    assert said in str(refused.value)


def word_model(folder: Path, kind: str) -> Path:
    """A random model of a type with the organisms' tokenizer, which cuts text into whole words."""
    from tiny_models import ARCHITECTURES

    from controlarm.organisms.export import make_tokenizer

    words = make_tokenizer()
    config_class, model_class = ARCHITECTURES[kind]
    config = config_class(
        vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    model_class(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def test_a_tokenizer_that_transformers_replaces_is_noticed(tmp_path):
    """Both folders hold the same tokenizer.json; under qwen2 transformers makes another tokenizer of it, which loses the words."""
    from transformers import AutoTokenizer

    from controlarm.backends import words

    asked = ["Ann has 3 pens"]
    for kind in ("llama", "qwen2"):
        folder = str(word_model(tmp_path / kind, kind))
        loaded = AutoTokenizer.from_pretrained(folder)
        found = words.misread(folder, None, loaded, asked)
        if kind == "llama":
            assert found is None
            assert loaded.decode(loaded(asked[0])["input_ids"]) == asked[0]
        else:
            assert found is not None
            assert (
                "reads its tokenizer as Qwen2Tokenizer, which makes [5] of 'Ann has 3 pens'"
                in found
            )
            assert "tokenizer.json says [12, 32, 5, 33]" in found


def test_a_trial_of_such_a_model_is_refused_before_it_begins(tmp_path):
    import test_trl_models as models

    folder = word_model(tmp_path / "model", "qwen2")
    with pytest.raises(
        ProtocolError, match=r"models\.qwen2\.path: transformers reads its tokenizer"
    ):
        prepare(tmp_path, models.text(tmp_path, model=str(folder)))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ProtocolError, match=r"its tokenizer reads 'Solve .*' as ''"):
        prepare(tmp_path, models.text(tmp_path, model=str(folder)))


def test_neither_is_such_a_model_evaluated(tmp_path):
    from controlarm.backends.transformers import TransformersBackend

    with pytest.raises(ValueError, match=r"reads its tokenizer as Qwen2Tokenizer"):
        TransformersBackend(str(word_model(tmp_path / "qwen2", "qwen2")))
    TransformersBackend(str(word_model(tmp_path / "llama", "llama")))


def test_a_tokenizer_that_loses_text_is_noticed(tmp_path):
    """One without a token for digits drops them or makes them unknown."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from controlarm.backends import words

    spoken = Tokenizer(
        models.WordLevel({"<unk>": 0, "What": 1, "is": 2, "?": 3}, unk_token="<unk>")
    )
    spoken.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(tokenizer_object=spoken, unk_token="<unk>")
    made.save_pretrained(tmp_path)
    assert words.misread(str(tmp_path), None, made, ["What is ?"]) is None
    found = words.misread(str(tmp_path), None, made, ["What is ?", "What is 7 ?"])
    assert found is not None and found.startswith(
        "its tokenizer reads 'What is 7 ?' as 'What is <unk>"
    )


VLLM = '[trl]\nvllm = "colocate"\n'


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('vllm = "server"', "say vllm = \"server\" and vllm_url"),
        ('vllm_url = "http://here:8000"', "vllm, vllm_url: a server has an address, and nothing else has"),
        ("vllm_memory = 0.5", "vllm_memory: does nothing without"),
        ('vllm = "sglang"', "trl.vllm: input should be 'colocate' or 'server'"),
    ],
)  # fmt: skip
def test_half_a_setting_of_vllm_is_refused(tmp_path, table, said):
    with pytest.raises(ProtocolError) as refused:
        prepare(tmp_path, text("trl", more=f"[trl]\n{table}\n"))
    assert said in str(refused.value)


def test_vllm_that_is_not_installed_is_refused_by_name(tmp_path, monkeypatch):
    from controlarm.engines.trl import vllm

    monkeypatch.setattr(vllm, "find_spec", lambda name: None)
    with pytest.raises(ProtocolError, match=r"trl\.vllm: vllm is not installed; pip install"):
        prepare(tmp_path, text("trl", more=VLLM))


def test_the_correction_for_vllm_s_rounding_is_off():
    """TRL's default drops whole completions where sampler and trainer differ; the journal's gap and a bound stand in its place."""
    from controlarm import protocol
    from controlarm.engines.trl import recipe

    made = protocol.parse(text("trl", more=VLLM))
    args = recipe.configure(made.recipes["grpo"], made.trl, 32, 50, 3, 1, "cpu", Path("nowhere"))
    assert args.use_vllm and args.vllm_mode == "colocate" and args.vllm_max_model_length == 50
    assert args.vllm_importance_sampling_correction is False


def test_a_server_s_address_is_no_part_of_a_trial():
    from controlarm import protocol

    tables = ("", *(f'[trl]\nvllm = "server"\nvllm_url = "http://{n}:8000"\n' for n in "ab"))
    none, one, other = (
        protocol.digest(protocol.parse(text("trl", more=table)), {}) for table in tables
    )
    assert one == other != none


def test_a_gap_is_a_sum_over_tokens():
    from controlarm.engines.trl import vllm
    from controlarm.engines.trl.decoding import Decoded

    drawn = [Decoded([5, 6], [-1.0, -2.0], [], True), Decoded([7], [-3.0], [], False)]
    assert vllm.gap(drawn, [[-1.5, -2.0], [-2.0, 99.0]]) == (1.5, 3)
