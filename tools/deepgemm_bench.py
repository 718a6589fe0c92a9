"""DeepGEMM on the FP8 rows of a bench, one line of a table each: python3 tools/deepgemm_bench.py ROWS.jsonl, ROWS from
`cuda_bench --family=fp8_gemm --json=ROWS.jsonl`. Needs a Hopper GPU, torch and a built DeepGEMM (https://github.com/deepseek-ai/DeepGEMM) in
PYTHONPATH; tools/gpu_check.sh calls it where both are. Timed as our rows are: L2 overwritten before every run, medians, scales in the layout
that the kernel reads; random data, checked against the product of what the codes stand for."""

import json
import re
import sys

import deep_gemm
import torch
from torch.nn.functional import pad

BLOCK, RUNS = 128, 20
E4M3_MAX = 448.0
ROW = re.compile(r"(fp8_gemm|fp8_grouped_gemm|fp8_wgrad)/(exact|fast)/([^/]+)/(\d+)x(\d+)x(\d+)(?:x(\d+)_balanced)?$")


def blocks_of(x, rows):
    """Codes and scales of blocks of rows x 128, and the values that they stand for."""
    m, k = x.shape
    cells = pad(x.float(), (0, 0, 0, -m % rows)).view(-1, rows, k // BLOCK, BLOCK)
    scale = cells.abs().amax(dim=(1, 3), keepdim=True).clamp(min=1e-4) / E4M3_MAX
    codes = (cells / scale).to(torch.float8_e4m3fn)
    return codes.view(-1, k)[:m], scale.view(-1, k // BLOCK), (codes.float() * scale).view(-1, k)[:m]


def rows_of(x):
    codes, scale, values = blocks_of(x, 1)
    return (codes, deep_gemm.get_mn_major_tma_aligned_tensor(scale)), values


def random(*shape):
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16)


def forward(m, n, k):
    (a, a_values), (codes, scale, b_values) = rows_of(random(m, k)), blocks_of(random(n, k), BLOCK)
    d = torch.empty((m, n), device="cuda", dtype=torch.bfloat16)
    return lambda: deep_gemm.fp8_gemm_nt(a, (codes, scale), d), d, a_values @ b_values.t()


def experts(m, n, k, groups):
    """Errors are those of the first expert."""
    (a, a_values), weights = rows_of(random(m, k)), [blocks_of(random(n, k), BLOCK) for _ in range(groups)]
    b = torch.stack([codes for codes, _, _ in weights]), torch.stack([scale for _, scale, _ in weights])
    expert, first = torch.arange(groups, device="cuda", dtype=torch.int32).repeat_interleave(m // groups), m // groups
    d = torch.empty((m, n), device="cuda", dtype=torch.bfloat16)
    return lambda: deep_gemm.m_grouped_fp8_gemm_nt_contiguous(a, b, d, expert), d[:first], a_values[:first] @ weights[0][2].t()


def wgrad(m, n, k):
    (dy, dy_values), (x, x_values) = rows_of(random(n, m)), rows_of(random(k, m))
    dw = torch.zeros((n, k), device="cuda")
    return lambda: deep_gemm.fp8_gemm_nt(dy, x, dw, c=dw, recipe=(1, 1, BLOCK)), dw, dy_values @ x_values.t()


def median_us(call):
    flush = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")  # takes longer than a launch, which so is waiting
    times = []
    for _ in range(RUNS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        flush.zero_()
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) * 1e3)
    return sorted(times)[RUNS // 2]


def takes(family, m, n, k, groups):
    """Experts' rows must be whole blocks; blocks here are whole along what is summed."""
    if family == "fp8_wgrad":
        return m % BLOCK == 0
    return k % BLOCK == 0 and (groups == 1 or (n % BLOCK == 0 and m % (groups * BLOCK) == 0))


print("| row | contender us | DeepGEMM us | x | DeepGEMM's relative error |\n|---|--:|--:|--:|--:|")
for line in open(sys.argv[1]):
    row = json.loads(line)
    match = ROW.match(row["name"])
    if not match or "us" not in row:
        continue
    family = match[1]
    m, n, k, groups = (int(size) if size else 1 for size in match.groups()[3:])
    if not takes(family, m, n, k, groups):
        continue
    call, got, want = wgrad(m, n, k) if family == "fp8_wgrad" else experts(m, n, k, groups) if groups > 1 else forward(m, n, k)
    call()
    error = float((got.float() - want).norm() / want.norm())
    us = median_us(call)
    print(f"| {row['name']} | {row['us']:.1f} | {us:.1f} | {us / row['us']:.2f} | {error:.1e} |", flush=True)
    del call, got, want
    torch.cuda.empty_cache()
