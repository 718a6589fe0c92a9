"""Prompts and decoding of a Hugging Face directory with torch and transformers, the numbers beside
`make b/rollout/smollm2`: python tools/torch_inference.py DIR [threads]. Needs torch and transformers; nothing else here does."""

import sys
import time

import torch
from transformers import AutoModelForCausalLM

directory, threads = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1
torch.set_num_threads(threads)
model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)


def best(times, call):
    """Wall seconds and processor seconds of the best call by the latter."""
    rows = []
    for _ in range(times):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        rows.append((time.process_time() - cpu, time.perf_counter() - wall))
    return min(rows)


with torch.no_grad():
    for tokens in (128, 512):
        prompts = torch.randint(0, 49152, (4, tokens))
        cpu, wall = best(3, lambda: model(prompts, logits_to_keep=1))
        print(f"prefill 4 x {tokens}: {4 * tokens / wall:.0f} tok/s, {4 * tokens / cpu:.0f} per second of processor time", flush=True)
    state = model(torch.randint(0, 49152, (16, 64)), use_cache=True, logits_to_keep=1)
    token = state.logits[:, -1:].argmax(-1)
    cpu, wall = best(40, lambda: model(token, past_key_values=state.past_key_values, use_cache=True))
    print(f"decode 16: {16 / wall:.0f} tok/s, {16 / cpu:.0f} per second of processor time")
