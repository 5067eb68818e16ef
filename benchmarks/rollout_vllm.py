"""vLLM on the reference work, in an environment of its own: ``python rollout_vllm.py SCRIPTS MODEL DTYPE REPEATS``.

Prints one JSON object: the version, the seconds of each repeat after a warm one, the ids written in each. Turn by turn
all rollouts are one call, with prefix caching; the cache is emptied before each repeat. This file imports nothing of
Polyturn, for it runs where Polyturn is not installed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def play(llm: Any, params: Any, scripts: list[dict[str, Any]]) -> int:
    """Plays all and returns the ids written."""
    paths: list[list[int]] = [[] for _ in scripts]
    written = 0
    for turn in range(len(scripts[0]["lengths"])):
        for path, script in zip(paths, scripts, strict=True):
            del path[script["keep"][turn] :]
            path.extend(script["shown"][turn])
        asked = [{"prompt_token_ids": list(path)} for path in paths]
        each = [params(script["lengths"][turn]) for script in scripts]
        for path, output in zip(paths, llm.generate(asked, each, use_tqdm=False), strict=True):
            path.extend(output.outputs[0].token_ids)
            written += len(output.outputs[0].token_ids)
    return written


def main() -> None:
    """Loads, warms, measures, prints."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")
    import vllm

    scripts, model, dtype, repeats = json.loads(Path(sys.argv[1]).read_text()), *sys.argv[2:4], int(sys.argv[4])
    llm = vllm.LLM(model, dtype=dtype, enable_prefix_caching=True, max_model_len=2048, max_num_seqs=len(scripts))

    def params(count: int) -> Any:
        return vllm.SamplingParams(temperature=1.0, max_tokens=count, min_tokens=count, ignore_eos=True, logprobs=0)

    seconds, spent, written = [], [], []
    for _ in range(repeats + 1):
        llm.reset_prefix_cache()
        began, busy = time.perf_counter(), time.process_time()
        written.append(play(llm, params, scripts))
        seconds.append(time.perf_counter() - began)
        spent.append(time.process_time() - busy)
    told = {"version": vllm.__version__, "seconds": seconds[1:], "cpu_seconds": spent[1:], "written": written[1:]}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
