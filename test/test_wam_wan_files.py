"""Public Wan and LingBot-VA files: outputs of the libraries that wrote them, every name and shape, and every damage.

`data/wan` holds shrunken checkpoints in the public key grammar, sharded, written with random weights by diffusers
0.35.2 and transformers 4.57.1, and what those libraries computed from them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from starry_ros.errors import CheckpointError, InputError
from starry_ros.wam.wan.adapter import UMT5_UNUSED, transformer_config, transformer_sources, umt5_sources
from starry_ros.wam.wan.config import WanConfig
from starry_ros.wam.wan.files import WeightFolder, read_json
from starry_ros.wam.wan.load import load_transformer, load_vae
from starry_ros.wam.wan.model import WanModel
from starry_ros.wam.wan.streams import Field, rope_table
from starry_ros.wam.wan.umt5 import Umt5, Umt5Config, Umt5Encoder
from starry_ros.wam.wan.vae import VaeConfig, WanVae

DATA = Path(__file__).parent / "data" / "wan"


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shrunken model, to damage."""
    return Path(shutil.copytree(DATA, tmp_path / "wan"))


def test_the_video_stream_computes_what_diffusers_computes() -> None:
    gold = load_file(DATA / "transformer.safetensors")
    model = load_transformer(DATA / "transformer", dtype=torch.float32)
    c = model.config
    x = gold["x"]  # [1, C, F, h, w]
    frames, rows, columns = x.shape[2], x.shape[3] // 2, x.shape[4] // 2
    tokens = x.unflatten(4, (-1, 2)).unflatten(3, (-1, 2)).permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(1, 3)
    index = torch.arange(frames * rows * columns)
    rope = rope_table(index // (rows * columns), index // columns % rows, index % columns, c.head_dim)
    shape = (c.layers, 1, c.heads, len(index), c.head_dim)
    everything = slice(0, len(index))
    with torch.inference_mode():
        y = model.video(model.video_port, tokens, gold["ts"] / 1000, rope,
                        Field(torch.zeros(shape), torch.zeros(shape)), everything, (everything,),
                        model.video.encode_text(gold["t"]))
    image = y.unflatten(2, (-1, 2, 2)).unflatten(1, (frames, rows, columns)).permute(0, 4, 1, 2, 5, 3, 6)
    torch.testing.assert_close(image.flatten(5).flatten(3, 4), gold["y"], atol=2e-5, rtol=1e-4)


def test_the_vae_computes_what_diffusers_computes() -> None:
    gold = load_file(DATA / "vae.safetensors")
    vae = load_vae(DATA / "vae", dtype=torch.float32)
    z = vae.encode(gold["x"])
    torch.testing.assert_close(z, gold["z"], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(vae.decode(z), gold["y"], atol=2e-5, rtol=1e-4)


def test_the_text_encoder_computes_what_transformers_computes() -> None:
    gold = load_file(DATA / "text_encoder.safetensors")
    config = Umt5Config.from_json_dict(read_json(DATA / "text_encoder" / "config.json"), "config")
    with torch.device("meta"):
        model = Umt5(config)
    WeightFolder(DATA / "text_encoder").load_into(model, umt5_sources(model), torch.float32,
                                                  unused=UMT5_UNUSED)
    exists = gold["mask"].bool()
    torch.testing.assert_close(model(gold["ids"], exists)[exists], gold["y"][exists], atol=2e-5, rtol=1e-4)


def test_frames_given_piece_by_piece_give_the_latents_and_frames_of_the_whole_video() -> None:
    vae = load_vae(DATA / "vae", dtype=torch.float32)
    video = torch.rand(1, 3, 13, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    whole = vae.encode(video)
    state: dict[torch.nn.Module, Tensor] = {}
    parts = [vae.encode(video[:, :, :5], state)]
    saved = dict(state)
    parts.append(vae.encode(video[:, :, 5:], state))
    torch.testing.assert_close(torch.cat(parts, 2), whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(vae.encode(video[:, :, 5:], saved), parts[1], atol=0, rtol=0)
    state = {}
    frames = [vae.decode(whole[:, :, i : i + 1], state) for i in range(whole.shape[2])]
    assert [part.shape[2] for part in frames] == [1, 4, 4, 4]
    torch.testing.assert_close(torch.cat(frames, 2), vae.decode(whole), atol=1e-5, rtol=0)
    changed = video.clone()
    changed[:, :, 9:] = 0.0
    torch.testing.assert_close(vae.encode(changed)[:, :, :3], whole[:, :, :3], atol=0, rtol=0)
    for frames_given, known in ((4, {}), (3, state)):
        with pytest.raises(InputError, match="cannot be cut into latent frames"):
            vae.encode(video[:, :, :frames_given], known)


# ---- names and shapes of the published size -----------------------------------------------------------------------

SPOTS = {  # from the public checkpoints
    "wan": {"patch_embedding.weight": (3072, 48, 1, 2, 2), "text_embedding.0.weight": (3072, 4096),
            "time_embedding.0.weight": (3072, 256), "time_projection.1.weight": (18432, 3072),
            "blocks.29.self_attn.norm_q.weight": (3072,), "blocks.0.cross_attn.o.bias": (3072,),
            "blocks.7.norm3.weight": (3072,), "blocks.7.ffn.0.weight": (14336, 3072),
            "blocks.0.modulation": (1, 6, 3072), "head.head.weight": (192, 3072), "head.modulation": (1, 2, 3072)},
    "diffusers": {"patch_embedding.weight": (3072, 48, 1, 2, 2), "blocks.0.attn1.to_out.0.weight": (3072, 3072),
                  "condition_embedder.text_embedder.linear_1.weight": (3072, 4096), "blocks.3.norm2.bias": (3072,),
                  "condition_embedder.time_proj.bias": (18432,), "blocks.29.ffn.net.2.weight": (3072, 14336),
                  "blocks.0.scale_shift_table": (1, 6, 3072), "scale_shift_table": (1, 2, 3072),
                  "proj_out.weight": (192, 3072)},
    "lingbot": {"patch_embedding_mlp.weight": (3072, 192), "action_embedder.weight": (3072, 30),
                "action_proj_out.weight": (30, 3072), "action_proj_out.bias": (30,),
                "condition_embedder_action.time_proj.weight": (18432, 3072), "blocks.0.attn2.norm_k.weight": (3072,)},
}
COUNTS = {"wan": 825, "diffusers": 825, "lingbot": 835}


@pytest.mark.parametrize("grammar", sorted(SPOTS))
def test_every_tensor_of_the_published_size_has_its_public_name_and_shape(grammar: str) -> None:
    config = WanConfig(action=None, value=None) if grammar == "lingbot" else WanConfig()
    with torch.device("meta"):
        model = WanModel(config)
    sources = transformer_sources(model, config, grammar)
    shapes = {source.name: source.shape for source in sources.values()}
    assert len(shapes) == len(sources) == COUNTS[grammar]
    assert {name: shapes[name] for name in SPOTS[grammar]} == SPOTS[grammar]
    video = [name for name in model.state_dict() if name.startswith("video")]
    assert set(video) <= set(sources)


def test_configurations_are_told_apart() -> None:
    wan = {"model_type": "ti2v", "dim": 3072, "ffn_dim": 14336, "freq_dim": 256, "in_dim": 48, "num_heads": 24,
           "num_layers": 30, "eps": 1e-6}
    assert transformer_config(wan, "x") == (WanConfig(), "wan")
    diffusers = {"patch_size": [1, 2, 2], "num_attention_heads": 24, "attention_head_dim": 128, "in_channels": 48,
                 "num_layers": 30, "ffn_dim": 14336, "freq_dim": 256, "text_dim": 4096, "eps": 1e-6}
    assert transformer_config(diffusers, "x") == (WanConfig(), "diffusers")
    config, grammar = transformer_config({**diffusers, "action_dim": 30, "attn_mode": "torch"}, "x")
    assert (grammar, config.joints, config.action, config.value) == ("lingbot", 30, None, None)
    for raw, match in (({**wan, "model_type": "t2v"}, "another architecture"), ({"layers": 3}, "lacks")):
        with pytest.raises(CheckpointError, match=match):
            transformer_config(raw, "x")
    with pytest.raises(CheckpointError, match=r"is not a Wan2\.2 VAE"):
        VaeConfig.from_json_dict({"is_residual": False, "patch_size": None}, "x")
    with pytest.raises(CheckpointError, match="is not a UMT5 encoder"):
        Umt5Config.from_json_dict({"model_type": "t5"}, "x")


# ---- damage -------------------------------------------------------------------------------------------------------


def _edit(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    path = sorted((folder / "transformer").glob("*.safetensors"))[0]
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def _cut(folder: Path) -> None:
    path = sorted((folder / "transformer").glob("*.safetensors"))[1]
    path.write_bytes(path.read_bytes()[:-10])


def _pickle(folder: Path) -> None:
    for path in (folder / "transformer").glob("*.safetensors*"):
        path.unlink()
    (folder / "transformer" / "Wan2.2.pth").write_bytes(b"\x80\x04.")


def _outside(folder: Path) -> None:
    index = next((folder / "transformer").glob("*.index.json"))
    record = json.loads(index.read_text())
    record["weight_map"][next(iter(record["weight_map"]))] = "../vae/evil.safetensors"
    index.write_text(json.dumps(record))


def _nan(tensors: dict[str, Tensor]) -> None:
    tensors["blocks.0.attn1.to_q.weight"][0, 0] = float("nan")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing shard": (lambda f: sorted((f / "transformer").glob("*.safetensors"))[1].unlink(), r"lacks 1 of 2 shards"),
    "truncated": (_cut, r"00002-of-00002.*truncated"),
    "pickle": (_pickle, r"pickled weights.*refused.*Wan2\.2\.pth"),
    "path in the index": (_outside, r"outside its folder"),
    "no index": (lambda f: next((f / "transformer").glob("*.index.json")).unlink(), r"several weight files and no"),
    "missing tensor": (lambda f: _edit(f, lambda t: t.pop("blocks.0.attn1.to_q.bias")),
                       r"missing 1 \(blocks\.0\.attn1\.to_q\.bias\), unexpected none"),
    "other tensor": (lambda f: _edit(f, lambda t: t.update(extra=torch.zeros(1))), r"unexpected 1 \(extra\)"),
    "wrong shape": (lambda f: _edit(f, lambda t: t.update({"blocks.0.attn1.to_q.bias": torch.zeros(3)})),
                    r"to_q\.bias has the wrong shape or type; got \(\(3,\), 'F32'\)"),
    "wrong type": (lambda f: _edit(f, lambda t: t.update(
        {"blocks.0.attn1.to_q.bias": t["blocks.0.attn1.to_q.bias"].double()})), r"wrong shape or type.*F64"),
    "NaN": (lambda f: _edit(f, _nan), r"blocks\.0\.attn1\.to_q\.weight is not finite"),
    "no folder": (lambda f: shutil.rmtree(f / "transformer"), r"cannot be read"),
    "no json": (lambda f: (f / "transformer" / "config.json").write_text("{"), r"cannot be read"),
}


@pytest.mark.parametrize("name", sorted(DAMAGE))
def test_damaged_weights_are_refused_by_name_and_with_a_way_out(name: str, folder: Path) -> None:
    damage, match = DAMAGE[name]
    damage(folder)
    with pytest.raises(CheckpointError, match=match) as caught:
        load_transformer(folder / "transformer", dtype=torch.float32)
    assert caught.value.fix


def test_a_lingbot_checkpoint_loads_with_its_action_port_and_names_what_nothing_reads(tmp_path: Path) -> None:
    raw = {"patch_size": [1, 2, 2], "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4,
           "num_layers": 2, "ffn_dim": 32, "freq_dim": 16, "text_dim": 8, "eps": 1e-6, "action_dim": 5}
    config, grammar = transformer_config(raw, "x")
    torch.manual_seed(0)
    written = WanModel(config)
    sources = transformer_sources(written, config, grammar)
    state, tensors = written.state_dict(), {}
    for ours, source in sources.items():
        tensor = state[ours]
        if ours.startswith("video_port.leave"):
            tensor = tensor.unflatten(0, (4, 4)).transpose(0, 1).flatten(0, 1)
        tensors[source.name] = tensor.reshape(source.shape).contiguous()
    tensors["condition_embedder_action.text_embedder.linear_1.weight"] = torch.zeros(2, 2)
    save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(raw))
    model = load_transformer(tmp_path, dtype=torch.float32)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert model.config.joints == 5
    assert model.stream_of("action") is model.video


def test_a_folder_without_a_tokenizer_is_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        Umt5Encoder(folder)
    assert WanVae(VaeConfig(8, 8, 4)).config.mean == ()
