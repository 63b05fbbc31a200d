"""GPTQ as its paper has it: column by column, each rounding error made good by the columns still to come.

    H = 2 X^T X + damping * mean(diag H) * 1,   U = upper Cholesky factor of H^-1
    e_k = (w_k - w_hat_k) / U_kk,   w_j <- w_j - e_k U_kj for j > k

No reordering of columns; a group's grid spans the minimum and maximum of its weights when its first column is reached;
layers are taken in the order of computation, and each sees what the quantized layers before it give (true-sequential).
An implementation of its own: GPTQModel wants a newer torch than the engine's.

Shape letters: N output features, K input features, B windows, T tokens, H hidden features, D columns at a time.
Source: Frantar et al. 2022, https://arxiv.org/abs/2210.17323, algorithm 1 (damping 0.01, blocks of 128 columns).
"""

from collections.abc import Mapping
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from peers.rounding import Grid, on_grid, scale_and_zero

DAMPING = 0.01
_COLUMNS = 128
_ROWS_AT_A_TIME = 8

# Layers that read the same input are quantized together.
_STAGE = {"q_proj": 0, "k_proj": 0, "v_proj": 0, "o_proj": 1, "gate_proj": 2, "up_proj": 2, "down_proj": 3}


@torch.no_grad()
def gptq(model: Any, grids: Mapping[str, Grid], windows_BT: Tensor) -> None:
    """Change the model's linear layers in place."""
    device = model.device
    hidden_BTH = model.model.embed_tokens(windows_BT.to(device))
    position_1T = torch.arange(windows_BT.shape[1], device=device).unsqueeze(0)
    rotary = model.model.rotary_emb(hidden_BTH, position_ids=position_1T)

    def run(layer: Any, rows_BTH: Tensor) -> Tensor:
        out: Tensor = layer(rows_BTH, attention_mask=None, position_ids=position_1T, position_embeddings=rotary)
        return out

    for depth, layer in enumerate(model.model.layers):
        names = [name for name in grids if name.startswith(f"model.layers.{depth}.")]
        for _, stage in groupby(sorted(names, key=_stage), key=_stage):
            members = list(stage)
            watched = model.get_submodule(members[0])
            hessian_KK = torch.zeros(watched.in_features, watched.in_features, device=device)

            def add(_: Any, inputs: tuple[Tensor, ...], hessian_KK: Tensor = hessian_KK) -> None:
                x_TK = inputs[0].reshape(-1, inputs[0].shape[-1]).float()
                hessian_KK.addmm_(x_TK.T, x_TK, alpha=2.0)

            handle = watched.register_forward_pre_hook(add)
            for rows_BTH in hidden_BTH.split(_ROWS_AT_A_TIME):
                run(layer, rows_BTH)
            handle.remove()
            for name in members:
                weight = model.get_submodule(name).weight
                weight.data = quantize_columns(weight.data.float(), hessian_KK, grids[name]).to(weight.dtype)
        hidden_BTH = torch.cat([run(layer, rows_BTH) for rows_BTH in hidden_BTH.split(_ROWS_AT_A_TIME)])


def quantize_columns(w_NK: Tensor, hessian_KK: Tensor, grid: Grid) -> Tensor:
    """The dequantized weight."""
    w_NK, hessian_KK = w_NK.clone(), hessian_KK.clone()
    N, K = w_NK.shape
    dead_K = hessian_KK.diagonal() == 0
    hessian_KK.diagonal()[dead_K] = 1
    w_NK[:, dead_K] = 0
    hessian_KK.diagonal().add_(DAMPING * hessian_KK.diagonal().mean())
    inverse_KK = torch.cholesky_inverse(torch.linalg.cholesky(hessian_KK))
    u_KK = torch.linalg.cholesky(inverse_KK, upper=True)

    done_NK = torch.empty_like(w_NK)
    for start in range(0, K, _COLUMNS):
        stop = min(start + _COLUMNS, K)
        errors_ND = torch.zeros(N, stop - start, device=w_NK.device)
        for k in range(start, stop):
            if k % grid.group_size == 0:
                scale_N1, zero_N1 = scale_and_zero(w_NK[:, k : k + grid.group_size], grid.bits)
            w_N = w_NK[:, k]
            done_NK[:, k] = on_grid(w_N, scale_N1[:, 0], zero_N1[:, 0], grid.bits)
            error_N = (w_N - done_NK[:, k]) / u_KK[k, k]
            w_NK[:, k:stop] -= error_N.unsqueeze(1) * u_KK[k, k:stop]
            errors_ND[:, k - start] = error_N
        w_NK[:, stop:] -= errors_ND @ u_KK[start:stop, stop:]
    return done_NK


def _stage(name: str) -> int:
    return _STAGE[name.rpartition(".")[2]]
