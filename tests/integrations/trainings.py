"""Trains by the files of docs/trainers.md: ``python -m tests.integrations.trainings WORK NAME …``.

Each trainer is run as its own command line does, in WORK, where the files lie; what a tiny model on a CPU needs else
comes as further arguments, as a user would give them.
"""

import importlib.machinery
import os
import sys
import types


class StandIn(types.ModuleType):
    """A module that is imported, and of which nothing runs here: any name in it is a class."""

    def __init__(self, name: str):
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)
        self.__path__, self.__version__ = [], "0.50.0"

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def stand_in(*names: str) -> None:
    """For modules that a trainer imports, once all that would ask whether they are installed has been imported."""
    import accelerate  # noqa: F401
    import peft  # noqa: F401
    import transformers.audio_utils
    import transformers.trainer  # noqa: F401

    sys.modules.update({name: StandIn(name) for name in names if name not in sys.modules})


TINY = ("model_name_or_path=model", "template=default", "use_cpu=true", "bf16=false", "per_device_train_batch_size=2")


def llama_factory() -> None:
    stand_in("torchaudio")
    from llamafactory.train.tuner import run_exp

    sys.argv = ["llamafactory-cli", "llama_factory.yaml", *TINY, "max_steps=2", "output_dir=trained-llama_factory"]
    run_exp()


def dataflex() -> None:
    stand_in("torchaudio")
    from nait_fast.integrations.dataflex import main

    schedule = ("warmup_step=1", "update_step=1", "update_times=1")
    sys.argv = ["dataflex", "dataflex.yaml", *TINY, *schedule, "output_dir=trained-dataflex"]
    main()


def axolotl() -> None:
    stand_in("wandb", "bitsandbytes", "bitsandbytes.nn", "bitsandbytes.optim", "bitsandbytes.functional")
    from axolotl.cli.train import do_cli

    sys.argv = ["axolotl"]
    tiny = {"base_model": "model", "micro_batch_size": 2, "sequence_len": 256, "bf16": False, "fp16": False}
    do_cli("axolotl.yaml", **tiny, max_steps=2, dataset_num_proc=1, output_dir="trained-axolotl")
    # Of another selection in the same file axolotl must not take what it has prepared of this one.
    from axolotl.utils.data.shared import generate_dataset_hash_from_config
    from axolotl.utils.dict import DictDefault

    entries = [DictDefault({"path": "selected.jsonl", "type": "alpaca", "revision": revision}) for revision in "ab"]
    a, b = (generate_dataset_hash_from_config(DictDefault({}), [entry], "tokenizer") for entry in entries)
    print(f"== another revision is prepared anew: {a != b}")


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    for trainer in sys.argv[2:]:
        print(f"== {trainer}", flush=True)
        {"llama_factory": llama_factory, "dataflex": dataflex, "axolotl": axolotl}[trainer]()
