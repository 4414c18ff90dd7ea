"""Runs one target under atheris in this process, which it ends. Started by ``python -m tests.fuzz``."""

import argparse
import sys
from pathlib import Path

import atheris


def main() -> None:
    """Fuzzes for the time given; exits with another code than 0 when an input broke a promise."""
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, required=True)
    parser.add_argument("--directory", type=Path, required=True)
    options = parser.parse_args()
    with atheris.instrument_imports(include=["loopai_common", "loopai_api", "loopai_executor"]):
        from tests.fuzz.targets import TARGETS  # what is to be instrumented is imported within
    target = TARGETS[options.target]
    corpus = options.directory / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number:02}").write_bytes(seed)
    words = options.directory / "words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.dictionary), encoding="ascii")
    arguments = [
        f"-max_total_time={options.seconds}",
        f"-dict={words}",
        f"-artifact_prefix={options.directory}/broken-",
        "-max_len=8192",
        "-timeout=30",
        "-print_final_stats=1",
        str(corpus),
    ]
    atheris.Setup([sys.argv[0], *arguments], target.fuzz)
    atheris.Fuzz()


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    main()
