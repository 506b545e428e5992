"""Names of tensors that transformers has changed between its releases, through the library's own conversion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from evalsuite.compat import transformers as folders

if TYPE_CHECKING:
    from torch import Tensor, nn


def with_current_names(network: nn.Module, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Returns weights under the names that the installed release gives them in memory.

    A state dict of an earlier release, and what any release writes to disk, has other names. Weights that the library
    cannot load whole are returned as they are: what does not fit is said where they are loaded.

    Args:
        network: A network of the library; it is left as it was.
        weights: Names to tensors.
    """
    expected = network.state_dict()
    if weights.keys() == expected.keys():
        return weights
    kind: Any = type(network)
    with folders._library():
        try:
            loaded, report = kind.from_pretrained(
                None,
                config=network.config,
                state_dict=dict(weights),
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # said in the report
                dtype=next(iter(expected.values())).dtype,
            )
        except Exception:  # the library raises anything on weights that are not its own
            return weights
    if any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")):
        return weights
    state: dict[str, Tensor] = loaded.state_dict()
    return state
