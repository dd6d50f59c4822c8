"""The parts of engine_convert.py that need NumPy and llama.cpp's library; run by the Python of that peer.

    convert_peer.py folder GGUF-F32 TOKENIZER FOLDER     a Hugging Face folder with the weights of a Llama in F32 GGUF
    convert_peer.py random TOKENIZER FOLDER              one with random weights, whose rows are multiples of 256
    convert_peer.py rmse GGUF-F32 OURS-F32 THEIRS-F32    {"ours": ..., "theirs": ...}: errors of the matrices
    convert_peer.py greedy GGUF COUNT IDS...             [[ids]]: each prompt (1,2,3) continued by COUNT tokens
"""

import json
import pathlib
import struct
import sys

import numpy as np

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


class Gguf:
    """Metadata and F32 tensors of a GGUF file."""

    def __init__(self, path):
        self.bytes = np.memmap(path, np.uint8, "r")
        self.at = 4
        _, tensors, entries = self.scalar("I"), self.scalar("Q"), self.scalar("Q")
        self.metadata = {self.text(): self.value(self.scalar("I")) for _ in range(entries)}
        placed = []
        for _ in range(tensors):
            name, extents = self.text(), self.scalar("I")
            shape = [self.scalar("Q") for _ in range(extents)][::-1]
            placed.append((name, shape, self.scalar("I"), self.scalar("Q")))
        alignment = self.metadata.get("general.alignment", 32)
        begin = (self.at + alignment - 1) // alignment * alignment
        self.tensors = {}
        for name, shape, kind, offset in placed:
            if kind:
                raise SystemExit(f"error: {path}: {name} is not F32")
            size = 4 * int(np.prod(shape))
            self.tensors[name] = self.bytes[begin + offset:begin + offset + size].view("<f4").reshape(shape)

    def scalar(self, form):
        size = struct.calcsize("<" + form)
        value = struct.unpack("<" + form, self.bytes[self.at:self.at + size].tobytes())[0]
        self.at += size
        return value

    def text(self):
        size = self.scalar("Q")
        self.at += size
        return self.bytes[self.at - size:self.at].tobytes().decode()

    def value(self, kind):
        if kind == 8:
            return self.text()
        if kind != 9:
            return self.scalar(SCALARS[kind])
        inner, count = self.scalar("I"), self.scalar("Q")
        return [self.value(inner) for _ in range(count)]


def write_folder(folder, config, tokenizer, tokenizer_config, tensors):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in (("config", config), ("tokenizer", tokenizer), ("tokenizer_config", tokenizer_config)):
        (folder / f"{name}.json").write_text(json.dumps(value))
    header, offset = {}, 0
    for name, values in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [offset, offset + values.nbytes]}
        offset += values.nbytes
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for values in tensors.values():
            file.write(np.ascontiguousarray(values, "<f4").tobytes())


def split_halves(rows, heads):
    """Back from llama.cpp's order of query and key rows (rotary pairs side by side) to Hugging Face's (half a head apart)."""
    return rows.reshape(heads, rows.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)


PARTS = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
         "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}


def smollm_tokenizer(metadata):
    """tokenizer.json of a byte-level BPE with SmolLM's pre-tokenizer, and tokenizer_config.json."""
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    control = [i for i, kind in enumerate(types) if kind == 3]
    tokenizer = {
        "added_tokens": [{"id": i, "content": tokens[i], "special": True} for i in control], "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]},
        "post_processor": None, "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "unk_token": None, "byte_fallback": False, "merges": metadata["tokenizer.ggml.merges"],
                  "vocab": {token: i for i, token in enumerate(tokens)}}}
    config = {kind + "_token": tokens[metadata[f"tokenizer.ggml.{kind}_token_id"]] for kind in ("bos", "eos")}
    return tokenizer, {**config, "chat_template": metadata["tokenizer.chat_template"]}


def make_folder(source, folder):
    file = Gguf(source)
    get = lambda key: file.metadata["llama." + key]
    heads, kv_heads = get("attention.head_count"), get("attention.head_count_kv")
    config = {"architectures": ["LlamaForCausalLM"], "hidden_size": get("embedding_length"), "hidden_act": "silu",
              "intermediate_size": get("feed_forward_length"), "num_hidden_layers": get("block_count"),
              "num_attention_heads": heads, "num_key_value_heads": kv_heads, "max_position_embeddings": get("context_length"),
              "rms_norm_eps": get("attention.layer_norm_rms_epsilon"), "rope_theta": get("rope.freq_base"),
              "vocab_size": len(file.metadata["tokenizer.ggml.tokens"]), "tie_word_embeddings": "output.weight" not in file.tensors}
    tensors = {}
    for name, values in file.tensors.items():
        if name.startswith("blk."):
            _, layer, part, kind = name.split(".")
            if part in ("attn_q", "attn_k"):
                values = split_halves(values, heads if part == "attn_q" else kv_heads)
            name = f"model.layers.{layer}.{PARTS[part]}.{kind}"
        else:
            name = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
                    "output.weight": "lm_head.weight"}[name]
        tensors[name] = values
    write_folder(folder, config, *smollm_tokenizer(file.metadata), tensors)


def make_random(tokenizer_folder, folder):
    """Half of the matrices Gaussian, half Laplace: what the K formats are judged by, since SmolLM2's rows are too short for them."""
    random = np.random.default_rng(7)
    tokenizer_folder = pathlib.Path(tokenizer_folder)
    config = {"architectures": ["LlamaForCausalLM"], "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 8,
              "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
              "vocab_size": 320, "tie_word_embeddings": False}
    shapes = {"model.embed_tokens": (320, 512), "lm_head": (320, 512)}
    for layer in range(8):
        block = f"model.layers.{layer}."
        shapes |= {block + "self_attn.q_proj": (512, 512), block + "self_attn.k_proj": (256, 512),
                   block + "self_attn.v_proj": (256, 512), block + "self_attn.o_proj": (512, 512),
                   block + "mlp.gate_proj": (1024, 512), block + "mlp.up_proj": (1024, 512), block + "mlp.down_proj": (512, 1024)}
    tensors = {}
    for i, (name, shape) in enumerate(shapes.items()):
        values = random.standard_normal(shape) if i % 2 else random.laplace(size=shape)
        tensors[name + ".weight"] = (0.03 * values).astype("<f4")
    norms = ["model.norm"] + [f"model.layers.{i}.{part}" for i in range(8) for part in ("input_layernorm", "post_attention_layernorm")]
    tensors |= {name + ".weight": np.ones(512, "<f4") for name in norms}
    read = lambda name: json.loads((tokenizer_folder / name).read_text())
    write_folder(folder, config, read("tokenizer.json"), read("tokenizer_config.json"), tensors)


def errors(truth, *others):
    truth = Gguf(truth)
    result = []
    for path in others:
        other, square, count = Gguf(path), 0.0, 0
        for name, values in truth.tensors.items():
            if values.ndim < 2:
                continue
            difference = other.tensors[name].astype(np.float64) - values
            square += float(np.vdot(difference, difference))
            count += values.size
        result.append((square / count) ** 0.5)
    return result


def greedy(path, count, prompts):
    import llama_cpp
    # One thread: two wait for each other on a busy machine. Keys and values in F32, as ours.
    model = llama_cpp.Llama(path, n_ctx=512, n_threads=1, type_k=0, type_v=0, verbose=False)
    answers = []
    for prompt in prompts:
        model.reset()
        ids, tokens = [int(i) for i in prompt.split(",")], []
        model.eval(ids)
        for _ in range(count):
            logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(model.ctx, -1), (model.n_vocab(),))
            tokens.append(int(logits.argmax()))
            model.eval(tokens[-1:])
        answers.append(tokens)
    return answers


def main(command, *arguments):
    if command == "folder":
        make_folder(*arguments)
    elif command == "random":
        make_random(*arguments)
    elif command == "rmse":
        print(json.dumps(dict(zip(("ours", "theirs"), errors(*arguments)))))
    elif command == "greedy":
        print(json.dumps(greedy(arguments[0], int(arguments[1]), arguments[2:])))


if __name__ == "__main__":
    main(*sys.argv[1:])
