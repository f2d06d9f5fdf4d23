"""Evaluate a tokenizer: python eval.py tokenizer=RUN [data=folder data.path=DIR] [out=DIR]; --help shows every key."""

from imtok.cli import run_hydra

if __name__ == "__main__":
    run_hydra("eval")
