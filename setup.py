"""Which folder is which package; everything else is in pyproject.toml.

The ops live in the top-level ``kernels/`` folder and install as ``nait_fast.kernels.<op>``. That folder has no
``__init__.py`` and is never installed under its own name, so it cannot shadow Hugging Face's ``kernels`` package.
"""

from setuptools import find_packages, setup

ops = find_packages("kernels")

setup(
    license="Apache-2.0",
    packages=find_packages(include=["nait_fast", "nait_fast.*"]) + [f"nait_fast.kernels.{op}" for op in ops],
    package_dir={f"nait_fast.kernels.{op}": "kernels/" + op.replace(".", "/") for op in ops},
    package_data={
        "nait_fast": ["py.typed"],
        "": ["*.css", "*.html", "*.js", "*.json", "*.jsonl", "*.jsonl.gz", "*.txt", "*.yaml"],
    },
)
