from __future__ import annotations

import pytest
import torch
from torch import nn

from evalsuite.errors import UserError
from evalsuite.models.surgery.channel_removal import ChannelSlice
from evalsuite.producers.structured import layer_inputs as module
from evalsuite.producers.structured.layer_inputs import LayerInputs, layer_inputs


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        nn.Conv2d(3, 4, (2, 3), stride=(2, 1), padding=(0, 2), bias=False),
        nn.Conv2d(3, 4, 2, dilation=2, bias=False),
    ],
    ids=["padded", "uneven", "dilated"],
)
@pytest.mark.parametrize("rows", [1, 100, 8192])
def test_patches_times_weights_are_the_outputs(
    monkeypatch: pytest.MonkeyPatch, conv: nn.Conv2d, rows: int
) -> None:
    monkeypatch.setattr(module, "PATCHES_PER_CHUNK", rows)
    images = torch.randn(5, 3, 7, 8, generator=torch.Generator().manual_seed(0))
    reader = LayerInputs(conv, conv.weight[0, 0].numel(), images)
    chunks = [*reader.rows()]
    assert max(map(len, chunks)) <= max(rows, reader.patches)
    outputs = conv(images).detach()
    assert (reader.channels, reader.patches) == (3, outputs[0, 0].numel())
    products = torch.cat(chunks) @ reader.weight.T
    torch.testing.assert_close(products, outputs.flatten(2).transpose(1, 2).flatten(0, 1))


def test_the_inputs_of_layers_are_recorded_and_the_model_is_not_changed() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten(), nn.Linear(8, 5)
    ).train()
    images = torch.rand(40, 3, 4, 4)  # more than one batch
    readers = layer_inputs(model, [ChannelSlice("3"), ChannelSlice("5", 4)], images)
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert int(model.get_buffer("1.num_batches_tracked")) == 0
    model.eval()
    with torch.no_grad():
        expected = model[:3](images)
    torch.testing.assert_close(readers["3"].inputs, expected)
    assert (readers["3"].columns, readers["3"].channels) == (9, 4)
    assert (readers["5"].columns, readers["5"].channels, readers["5"].patches) == (4, 2, 1)
    assert torch.equal(torch.cat([*readers["5"].rows()]), readers["5"].inputs)


@pytest.mark.parametrize("settings", [{"padding_mode": "reflect"}, {"padding": "same"}], ids=str)
def test_padding_that_is_not_zeros(settings: dict[str, str]) -> None:
    conv = nn.Conv2d(3, 4, 3, **settings)  # type: ignore[arg-type]  # one of each kind
    with pytest.raises(
        UserError, match=r"^a convolution pads with .*, expected zeros and numbers; use a prod"
    ):
        [*LayerInputs(conv, 9, torch.rand(1, 3, 6, 6)).rows()]
