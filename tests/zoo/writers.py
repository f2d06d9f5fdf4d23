"""Files as the trainers of other code write them, given the weights by that code's names."""

import json
from argparse import Namespace

import torch
from safetensors.torch import save_file

from imtok.nn.positions import sincos_positions
from imtok.zoo.vfmtok import DINOV2

LOSS = {"loss.discriminator.main.0.weight": torch.ones(3)}


def with_averages(tensors):
    """Live weights that differ from the averages, which have no dots; the trainer's losses beside them."""
    live = {name: torch.randn_like(value) for name, value in tensors.items()}
    averages = {f"model_ema.{name.replace('.', '')}": value for name, value in tensors.items()}
    counters = {"model_ema.decay": torch.tensor(0.999), "model_ema.num_updates": torch.tensor(7)}
    return live | counters | averages | LOSS | {"model_ema.lossdiscriminatormain0weight": torch.ones(3)}


def llamagen(tensors, path):
    model = tensors | {"quantize.codebook_used": torch.zeros(9)}
    torch.save({"model": model, "optimizer": {"state": {0: {}}}, "steps": 3, "args": Namespace(lr=1e-4)}, path)


def gigatok(tensors, path):
    average = tensors | {"s1to2decoder.distill_mlp.0.weight": torch.zeros(2, 2)}
    live = {name: torch.zeros_like(value) for name, value in average.items()}
    torch.save({"model": live, "ema": average, "args": Namespace(lr=1e-4)}, path)


def taming(tensors, path):
    torch.save({"epoch": 3, "state_dict": tensors | LOSS, "optimizer_states": [{}]}, path)


def finetuned(tensors, path):
    """Its encoder is frozen and has no averages."""
    state = {name: value for name, value in with_averages(tensors).items() if not name.startswith("model_ema.encoder")}
    own = {name: value for name, value in tensors.items() if name.startswith("encoder.")}
    torch.save({"epoch": 3, "state_dict": state | own}, path)


def averages(tensors, path):
    torch.save({"epoch": 3, "state_dict": with_averages(tensors), "loops": {}}, path)


def simvq(tensors, path):
    """Its frozen codebook has no average."""
    state = with_averages(tensors)
    state |= {"quantize.embedding.weight": tensors["quantize.embedding.weight"]}
    del state["model_ema.quantizeembeddingweight"]
    torch.save({"epoch": 3, "state_dict": state}, path)


def rq_vae(tensors, path):
    """A row more in each codebook, which stands for no code; one that all depths share is in the file for each."""
    tables = {name: value for name, value in tensors.items() if "codebooks" in name}
    if len(tables) == 1:
        tables = {f"quantizer.codebooks.{depth}.weight": value for value in tables.values() for depth in range(4)}
    more = {}
    for name, table in tables.items():
        more[name] = torch.cat([table, torch.zeros(1, table.shape[1])])
        more[name.replace("weight", "cluster_size_ema")] = torch.ones(len(table))
        more[name.replace("weight", "embed_ema")] = table * 3
    state = tensors | more
    averages = {name: value * 0 for name, value in state.items()}  # which the public generators do not read
    torch.save({"epoch": 3, "state_dict": state, "state_dict_ema": averages, "discriminator": LOSS}, path)


def var(tensors, path):
    torch.save(tensors | {"quantize.ema_vocab_hit_SV": torch.zeros(10, 50)}, path)


def diffusers(tensors, path):
    """With the names that attention had before 2023 in its encoder, as old files have them."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    named = {}
    for name, value in tensors.items():
        for new, earlier in old.items():
            if name.startswith("encoder."):
                name = name.replace(new, earlier)
        named[name] = value.contiguous()
    save_file(named, path)
    (path.parent / "config.json").write_text(json.dumps({"norm_num_groups": 8, "norm_type": "group", "act_fn": "silu"}))


def flat(tensors, path):
    torch.save(tensors, path)


def maskbit(tensors, path):
    """With MaskBit's names of the blocks."""
    named = {
        name.replace(".block.", ".res_blocks.").replace(".mid.", ".mid.res_blocks."): tensors[name] for name in tensors
    }
    torch.save(named, path)


def bits(tensors, path):
    """MaskBit's, with the codes of all bits, which are no weights."""
    powers = 2 ** torch.arange(len(tensors["encoder.conv_out.weight"]))
    codes = (torch.arange(2 ** len(powers))[:, None] & powers).bool() * 2.0 - 1
    torch.save(tensors | {"quantize.bits_to_indices": powers.int(), "quantize.codebook": codes}, path)


def hub(tensors, path):
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    legacy = "decoder.ffn.2.weight" in tensors
    facts = {"is_legacy": legacy, "use_l2_norm": legacy, "num_latent_tokens": len(tensors["latent_tokens"])}
    facts["quantize_mode"] = "vq" if "quantize.embedding.weight" in tensors else "vae"
    (path.parent / "config.json").write_text(json.dumps({"model": {"vq_model": facts}}))


def bsq_vit(tensors, path):
    counters = {"quantize.basis": torch.ones(3), "quantize.group_basis": torch.ones(1)}
    average = {f"module.module.{name}": value for name, value in (tensors | counters).items()}
    live = {f"module.{name}": torch.zeros_like(value) for name, value in (tensors | counters).items()}
    torch.save({"state_dict": live, "ema_state_dict": average, "args": Namespace(gpu=0)}, path)


def flextok(tensors, path):
    tables = {f"{part}.posembs": sincos(4, 64) for part in ("encoder.module_dict.enc_posemb_module",)}
    tables["decoder.module_dict.dec_patches_posemb_module.posembs"] = sincos(4, 64)
    facts = {
        "vae": {"scaling_factor": 0.5},
        "regularizer": {"levels": [8, 8, 8, 5, 5, 5]},
        "_target_": "flextok.FlexTok",
    }
    values = {name: value.contiguous() for name, value in (tensors | tables).items()}
    save_file(values, path, {name: str(value) for name, value in facts.items()})


def vfmtok(tensors, path):
    """The trainer leaves out the frozen net, which lies in a file of its own."""
    prefix = "encode_transformer.backbone.pretrained_encoder."
    net = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    own = {name: value for name, value in tensors.items() if not name.startswith(prefix)}
    own["slot_quantize.codebook_used"] = torch.zeros(9)
    own["decode_transformer.register_tokens"] = torch.zeros(1, 4, 64)
    torch.save({"model": {name: value * 0 for name, value in own.items()}, "ema": own, "steps": 3}, path)
    torch.save(net | {"mask_token": torch.zeros(1, 64)}, path.parent / DINOV2)


def xqgan(tensors, path):
    """Usage and numbers of levels beside the weights, and the frozen teacher."""
    more = {f"{part}.lvl1LC": torch.zeros(1, 9, dtype=torch.int64) for part in ("encoder", "decoder")}
    names = [name for name in tensors if name.endswith(".embedding.weight")]
    if not names:  # binary codes: their lengths, and what they count
        names = [f"quantizes.{branch}.embedding.weight" for branch in range(2)]
        bits = len(tensors["quant_conv.bias"])
        more |= {f"quantizes.{branch}.scaler": torch.full((10,), bits**-0.5) for branch in range(2)}
        more |= {"detail_model.head.bias": torch.ones(3)}
    more |= {name.replace("embedding.weight", "ema_vocab_hit_SV"): torch.zeros(9) for name in names}
    average = tensors | more | {"semantic_model.norm.weight": torch.ones(3)}
    live = {name: value * 0 for name, value in average.items()}
    torch.save({"model": live, "ema": average, "steps": 3, "args": Namespace(lr=1e-4)}, path)


def sincos(side, width):
    """The table of FlexTok for a grid of side x side, as its code stores it."""
    return sincos_positions((side, side), width).T.reshape(1, width, side, side)
