"""Which packages ``polyturn envs --install`` fetches: versions, hashes, and what of them is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from polyturn.cache import cache_folder


@dataclass(frozen=True, slots=True)
class Wheel:
    """One more package: ``Wheel("mpmath", "1.3.0", ("a0b2...",))``; a hash for each wheel that may be taken."""

    package: str
    version: str
    sha256: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pinned:
    """One package at one version: ``Pinned("thing", "1.0", "b76d...", "MIT", 2, ("data",), ("data/a",))``."""

    package: str
    version: str
    sha256: str
    """Of the wheel."""
    licence: str
    megabytes: int
    """Of the download."""
    keep: tuple[str, ...]
    """Folders of the package that are kept, as paths from where it is unpacked; its metadata stays too."""
    needs: tuple[str, ...]
    """Files that must be there afterwards."""
    beside: tuple[Wheel, ...] = ()
    """What the kept part needs to run."""

    @property
    def folder(self) -> Path:
        """Where it is kept: a folder for each set of wheels."""
        hashes = [self.sha256, *(one for wheel in self.beside for one in wheel.sha256)]
        digest = sha256("".join(hashes).encode()).hexdigest() if self.beside else self.sha256
        return cache_folder() / "packages" / f"{self.package}-{self.version}-{digest[:16]}"


_TAU: Final = "inspect_evals/tau2/data"
_BFCL: Final = tuple(
    f"bfcl_eval/data/{folder}BFCL_v4_multi_turn_{category}.json"
    for category in ("base", "miss_func", "miss_param", "long_context") for folder in ("", "possible_answer/")
)
_PYYAML: Final = Wheel("pyyaml", "6.0.3", (
    "652cb6edd41e718550aad172851962662ff2681490a8a711af6a4d288dd96824",
    "10892704fc220243f5305762e276552a0395f7beb4dbf9b14ec8fd43b57f126c",
    "b8bb0864c5a28024fac8a632c443c87c5aa6f215c0b126c449ae1a150412f31d",
    "fc09d0aa354569bc501d4e787133afc08552722d3ab34836a80547331bb5d4a0",
    "9149cad251584d5fb4981be1ecde53a1ca46c891a79788c0df828d2f166bda28",
    "ba1cc08a7ccde2d2ec775841541641e4548226580ab850948cbfda66a1befcdc",
    "2283a07e2c21a2aa78d9c4442724ec1eb15f5e42a723b99cb3d822d48f5f7ad1",
    "ee2922902c45ae8ccada2c5b501ab86c36525b883eff4255313a253a3160861c",
    "0f29edc409a6392443abf94b9cf89ce99889a1dd5376d94316ae5145dfedd5d6",
))
_NUMPY: Final = Wheel("numpy", "2.3.5", (
    "ffe22d2b05504f786c867c8395de703937f934272eb67586817b46188b4ded6d",
    "3095bdb8dd297e5920b010e96134ed91d852d81d490e787beca7e35ae1d89cf7",
    "8cba086a43d54ca804ce711b2a940b16e452807acebe7852ff327f1ecd49b0d4",
    "612a95a17655e213502f60cfb9bf9408efdc9eb1d5f50535cc6eb365d11b42b5",
    "8b973c57ff8e184109db042c842423ff4f60446239bd585a5131cc47f06f789d",
    "0d8163f43acde9a73c2a33605353a4f1bc4798745a8b1d73183b28e5b435ae28",
    "ccc933afd4d20aad3c00bcef049cb40049f7f196e0397f1109dba6fed63267b0",
    "9c75442b2209b8470d6d5d8b1c25714270686f14c749028d2199c54e29f20b4d",
    "11e06aa0af8c0f05104d56450d6093ee639e15f24ecf62d417329d06e522e017",
))
_AGENTDOJO: Final = "agentdojo/agent_pipeline"
_BESIDE_AGENTDOJO: Final = (
    Wheel("annotated-types", "0.8.0", (
        "f072f4d804ea359e4eaf198b1af7a8b0943881a87f31bb764f8bf219bb9419e0",)),
    Wheel("deepdiff", "8.6.1", (
        "ee8708a7f7d37fb273a541fa24ad010ed484192cd0c4ffc0fa0ed5e2d4b9e78b",)),
    Wheel("dnspython", "2.9.2", (
        "af15f7d385a6ae2fb35a796fde2138004c8c42c7389090e2addc83e3b3340fd8",)),
    Wheel("docstring-parser", "0.18.0", (
        "b3fcbed555c47d8479be0796ef7e19c2670d428d72e96da63f3a40122860374b",)),
    Wheel("email-validator", "2.4.0", (
        "4454e41c4e1c6b6caee34a1dc71d5e736791562be8fd179b02e298f796522684",)),
    Wheel("idna", "3.20", (
        "ab7ae7122974553370f0bdb919e1a960b2cd1bc1ef0276416d896db81c14582c",)),
    Wheel("markdown-it-py", "4.3.0", (
        "7aa1511a46c39138de78d9eba92ce47e63124d8003fc98b3a351909e04239efa",)),
    Wheel("mdurl", "0.1.2", (
        "84008a41e51615a49fc9966191ff91509e3c40b939176e643fd50a5c2196b8f8",)),
    Wheel("orderly-set", "5.5.0", (
        "46f0b801948e98f427b412fcabb831677194c05c3b699b80de260374baa0b1e7",)),
    Wheel("pydantic-core", "2.50.5", (
        "40d5da89a632e6c6c938f93fdf54c534882d258a80f51ccfe1650cdedc12e82c",
        "ba2b34529984a8e3cb1bc62a7687617722695a2cb4e57958de32a0eba128a07a",
        "488319076ec92908b91fc6265ce761f1d78748f69f85518564fd16bf333e1b70",
        "a9bcf23628860d5a90cacdc188ee3b7d0547a38eb985214f03e7002a6ca0e558",
        "07a62d44515d674d750cfd86b7ce1dd93111be870f378d7c27b37aeb78d0cb4a",
        "470bbc2495367f60d3ca849a8039e4c164701d10637e7743f4427d92651bdb6d",
        "639a51931869c0594d8723b2f529c547db1aa33dc9571d001dc205d896170c08",
        "8bbe282e79dc71b24ba7be284eacf27c8ddff8f26911e2030a0dd123c6aed326",
        "cbfde3ad127786f1dea1a6cd89a5eb824a16203f24743ad2b4e07506f43bc844",
    )),
    _PYYAML,
    Wheel("pydantic", "2.14.4", (
        "653a2ad9f6d8858529c77c72717d0ea991d6c6837fe683246b2f4b2bbfc3fadc",)),
    Wheel("pygments", "2.21.0", (
        "2363c69b61c4a97c838da3b130dcd6468f4848992b21a82f2a63ec34377137d9",)),
    Wheel("rich", "15.0.0", (
        "33bd4ef74232fb73fe9279a257718407f169c09b78a87ad3d296f548e27de0bb",)),
    Wheel("typing-extensions", "4.16.0", (
        "481caa481374e813c1b176ada14e97f1f67a4539ce9cfeb3f350d78d6370c2e8",)),
    Wheel("typing-inspection", "0.4.5", (
        "bc210535442b39e1bf2805e0c7a17dfd6a4ace760c84c7f7d16245d23a6b1c39",)),
)
"""Compiled ones for Python 3.11 to 3.13 on Linux (x86-64, ARM) and macOS (ARM)."""
_BESIDE_REASONING: Final = (
    _NUMPY,
    _PYYAML,
    Wheel("bfi", "1.0.4", (
        "d58a10b1f3ba2c7cfd9a9ebba3756455850a0cf9e63223c67e88438676c28579",)),
    Wheel("magiccube", "0.3.0", (
        "a8da38cac53dff1667949c9a12485bebb9d62c01ae73db41eb7aba1bc1c8a00c",)),
    Wheel("mpmath", "1.3.0", (
        "a0b2b9fe80bbcd81a6647ff13108738cfb482d481d826cc0e02f5b35e5c88d2c",)),
    Wheel("pyfiglet", "1.0.2", (
        "889b351d79c99e50a3f619c8f8e6ffdb27fd8c939fc43ecbd7559bd57d5f93ea",)),
    Wheel("python-dateutil", "2.9.0.post0", (
        "a8b2bc7bffae282281c8140a97d3aa9c14da0b136dfe83f850eea9a5f7470427",)),
    Wheel("pytz", "2026.6", (
        "7fed3fee8fd6bd4a2b7b75a8d56021d0624127bf69bd5691f115db929ac570b3",)),
    Wheel("six", "1.17.0", (
        "4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274",)),
    Wheel("sympy", "1.14.0", (
        "e091cc3e99d2141a0ba2847328f5479b05d94a6635cb96148ccb3f34671bd8f5",)),
    Wheel("tabulate", "0.9.0", (
        "024ca478df22e9340661486f85298cff5f6dcdba14f3813e8830015b9ed1948f",)),
)
_BESIDE_MINIGRID: Final = (
    _NUMPY,
    Wheel("cloudpickle", "3.1.3", (
        "1654f4f18e416447210a63c5c25a135d65a292156aa5fa519dfa4baf7726dddb",)),
    Wheel("farama-notifications", "0.0.6", (
        "f84839188efa1ce5bb361c2a84881b2dc2c0d0d7fb661ff00421820170930935",)),
    Wheel("gymnasium", "1.2.3", (
        "e6314bba8f549c7fdcc8677f7cd786b64908af6e79b57ddaa5ce1825bffb5373",)),
    Wheel("typing-extensions", "4.16.0", (
        "481caa481374e813c1b176ada14e97f1f67a4539ce9cfeb3f350d78d6370c2e8",)),
)
INSTALLABLE: Final[Mapping[str, Pinned]] = {
    "tau": Pinned(
        "inspect-evals", "0.26.0", "b76d15813182807da141a0f06bb6f18a5f82d1f06291ec2633bb84cdf661f8d0", "MIT", 21,
        (_TAU,),
        (f"{_TAU}/user_simulator/simulation_guidelines.txt",
         *(f"{_TAU}/domains/{domain}/{file}" for domain in ("airline", "retail")
           for file in ("db.json.gz", "policy.txt", "split_tasks.json", "tasks.json"))),
    ),
    "bfcl": Pinned(
        "bfcl-eval", "2026.3.23", "3bb6dfa5f0c68ad403c9ec50b00db2bb3b4cc9b38ab1ff33f48fe30d853d3a0a", "Apache-2.0", 3,
        ("bfcl_eval/data/multi_turn_func_doc", *_BFCL, "bfcl_eval/eval_checker/multi_turn_eval",
         "bfcl_eval/constants/executable_backend_config.py", "mpmath"),
        (*_BFCL, "bfcl_eval/data/multi_turn_func_doc/math_api.json",
         "bfcl_eval/eval_checker/multi_turn_eval/multi_turn_checker.py", "mpmath/__init__.py",
         "bfcl_eval/constants/executable_backend_config.py"),
        (Wheel("mpmath", "1.3.0", ("a0b2b9fe80bbcd81a6647ff13108738cfb482d481d826cc0e02f5b35e5c88d2c",)),),
    ),
    "agentdojo": Pinned(
        "agentdojo", "0.1.35", "364bea4219716b716bf639f504d195943f7f6a5535d312ca41d7098704a2affd", "MIT", 7,
        (*(f"agentdojo/{name}" for name in (
            "__init__.py", "ast_utils.py", "attacks", "base_tasks.py", "data", "default_suites", "functions_runtime.py",
            "logging.py", "models.py", "strenum.py", "task_suite", "types.py", "yaml_loader.py")),
         *(f"{_AGENTDOJO}/{name}.py" for name in (
             "base_pipeline_element", "errors", "ground_truth_pipeline", "tool_execution")),
         "_yaml", "annotated_types", "deepdiff", "dns", "docstring_parser", "email_validator", "idna", "markdown_it",
         "mdurl", "orderly_set", "pydantic", "pydantic_core", "pygments", "rich", "typing_extensions.py",
         "typing_inspection", "yaml"),
        ("agentdojo/task_suite/load_suites.py", f"{_AGENTDOJO}/ground_truth_pipeline.py", "pydantic_core/__init__.py",
         "agentdojo/data/suites/workspace/environment.yaml", "yaml/__init__.py", "deepdiff/__init__.py"),
        _BESIDE_AGENTDOJO,
    ),
    "reasoning": Pinned(
        "reasoning-gym", "0.1.25", "7f17a3eddb13c015d7d4a755ed576a061df889faf9468bcc2cca334ebe9e0435", "Apache-2.0", 33,
        ("reasoning_gym", "bfi", "dateutil", "magiccube", "mpmath", "numpy", "numpy.libs", "pyfiglet", "pytz", "six.py",
         "sympy", "tabulate", "yaml", "_yaml"),
        ("reasoning_gym/factory.py", "sympy/__init__.py", "numpy/__init__.py", "magiccube/__init__.py", "six.py"),
        _BESIDE_REASONING,
    ),
    "minigrid": Pinned(
        "minigrid", "3.2.0", "9de2d46320357543e5f665ba0e8590f4d6ca3f4aa8c56562e7f1e506973a73f3", "MIT", 18,
        ("minigrid", "cloudpickle", "farama_notifications", "gymnasium", "numpy", "numpy.libs",
         "typing_extensions.py"),
        ("minigrid/minigrid_env.py", "minigrid/utils/baby_ai_bot.py", "gymnasium/__init__.py", "numpy/__init__.py"),
        _BESIDE_MINIGRID,
    ),
    "miniwob": Pinned(
        "miniwob", "1.1.0", "297006e84219d56ad037e843527ed773a4a82509dc43b6031ec4a3ad3e3e61d9", "MIT", 2,
        ("miniwob/html",), ("miniwob/html/core/core.js", "miniwob/html/miniwob/click-test.html"),
    ),
}
"""The names that ``polyturn envs --install`` takes."""
