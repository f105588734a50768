import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pneumo_nb.settings import layers_per_block
from pneumo_nb.train import models


def counted(rows):
    return [row for row in rows if "downsample" not in row["name"]]


def shape_of(model, *channels, **more):
    """A network without numbers, which takes no time to make."""
    with torch.device("meta"):
        return models.build(model, *channels, **more)


def test_resnet34_has_34_layers_on_its_main_road_and_three_shortcuts():
    rows = models.layer_table(shape_of("resnet34"), 672)
    assert len(counted(rows)) == 34 and len(rows) == 37
    assert [row["kind"] for row in rows].count("linear") == 1


@pytest.mark.parametrize(("channels", "parameters"), [(3, 21_285_698), (1, 21_279_426)])
def test_parameters_of_resnet34_with_two_outputs(channels, parameters):
    assert models.parameters(shape_of("resnet34", channels)) == parameters


def test_sizes_follow_equation_2_at_672():
    rows = {row["name"]: row for row in models.layer_table(shape_of("resnet34"), 672)}
    sizes = [
        rows[name]["output"]
        for name in ("conv1", "layer1.2.conv2", "layer2.3.conv2", "layer3.5.conv2", "layer4.2.conv2")
    ]
    assert sizes == [(64, 336, 336), (64, 168, 168), (128, 84, 84), (256, 42, 42), (512, 21, 21)]
    assert rows["conv1"]["kernel"] == 7 and rows["conv1"]["stride"] == 2 and rows["fc"]["output"] == (2,)


def test_the_layer_table_leaves_the_network_as_it_was():
    net = models.build("densenet", depth=13, channels=1)
    models.layer_table(net, 64, channels=1)
    assert net(torch.zeros(1, 1, 16, 16)).shape == (1, 2) and net.training
    assert not any(module._forward_hooks for module in net.modules())


def test_the_seed_alone_decides_the_weights_and_the_global_state_is_kept():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one, same, other = (models.build("densenet", depth=13, seed=seed).stem.weight for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("model", ["resnet34", "densenet"])
def test_group_normalisation_replaces_every_batch_normalisation(model):
    net = shape_of(model, norm_layer="group")
    kinds = {type(module).__name__ for module in net.modules()}
    assert "GroupNorm" in kinds and "BatchNorm2d" not in kinds
    assert net(torch.randn(1, 3, 32, 32, device="meta")).shape == (1, 2)


THREE_BLOCKS = {40: {"depth": 40, "blocks": 3}, 64: {"depth": 64, "blocks": 3}, 53: {"depth": 53, "blocks": 4}}


@pytest.mark.parametrize("channels, parameters", [(3, 21_789_666), (1, 21_789_090)])
def test_inception_v3_is_torchvisions_with_two_outputs_and_no_second_head(channels, parameters):
    net = shape_of("inception_v3", channels)  # torchvision states 27,161,264 with 1000 outputs and both heads
    assert models.parameters(net) == parameters
    assert models.layer_table(net, 75, channels)[-1]["output"] == (2,)


@pytest.mark.parametrize(
    ("settings", "counts"),
    [
        (THREE_BLOCKS[40], (149_666, 175_058, 248_018)),
        (THREE_BLOCKS[64], (302_054, 366_386, 548_834)),
        (THREE_BLOCKS[53], (200_042, 244_538, 419_066)),
        ({"bottleneck": False}, (585_404, 888_236, 1_954_106)),
        ({"reduction_reading": "divide"}, (18_391_562, 1_631_402, 419_066)),
    ],
)
def test_parameters_of_each_densenet_at_each_reduction(settings, counts):
    assert tuple(models.parameters(shape_of("densenet", reduction=r, **settings)) for r in (0.25, 0.5, 1)) == counts


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        (THREE_BLOCKS[40] | {"channels": 1}, 149_234),
        (THREE_BLOCKS[64] | {"channels": 1}, 301_622),
        (THREE_BLOCKS[53] | {"channels": 1}, 199_610),
        (THREE_BLOCKS[40] | {"bottleneck": False}, 426_930),
        ({"depth": 29, "bottleneck": False}, 151_082),
        ({"stem": "7x7"}, 202_922),
        # documented by github.com/andreasveit/densenet-pytorch with ten outputs, here there are two
        ({"depth": 40, "blocks": 3, "bottleneck": False, "reduction": 1}, 1_059_298 - 8 * (456 + 1)),
        ({"depth": 100, "blocks": 3, "reduction": 0.5}, 769_162 - 8 * (342 + 1)),
        *(
            ({"growth_rate": k}, n)
            for k, n in {8: 90_354, 16: 352_738, 24: 787_154, 32: 1_393_602, 48: 3_122_594}.items()
        ),
    ],
)
def test_parameters_of_each_variant(settings, count):
    assert models.parameters(shape_of("densenet", **settings)) == count


@pytest.mark.parametrize(
    "settings", [*THREE_BLOCKS.values(), {"bottleneck": False}, {"depth": 29, "bottleneck": False}]
)
def test_a_densenet_has_as_many_layers_as_its_name_says(settings):
    assert len(models.layer_table(shape_of("densenet", **settings), 32)) == settings.get("depth", 53)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 53, "blocks": 3}, "depth = 53 does not fit 3 dense blocks with bottleneck: 52 and 58 do"),
        ({"depth": 42, "blocks": 4, "bottleneck": False}, "without bottleneck: 41 and 45 do"),
        ({"depth": 4, "blocks": 3}, "depth = 4 .*: 10 and 16 do"),
        ({"depth": 1}, "13 and 21 do"),
        ({"stem": "5x5"}, "stem = '5x5': input should be '3x3' or '7x7'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        shape_of("densenet", **settings)


@given(layers=st.integers(1, 12), blocks=st.integers(1, 6), bottleneck=st.booleans(), beside=st.integers(1, 100))
def test_a_depth_fits_only_if_it_counts_its_layers(layers, blocks, bottleneck, beside):
    step = blocks * (2 if bottleneck else 1)
    depth = layers * step + blocks + 1
    assert layers_per_block(depth, blocks, bottleneck) == layers
    if beside % step:
        with pytest.raises(ValueError, match="does not fit"):
            layers_per_block(depth + beside, blocks, bottleneck)


def test_every_block_adds_its_feature_maps_behind_its_input():
    x = torch.randn(2, 10, 6, 8)
    for block in (models.BasicBlock(10, 3), models.BottleneckBlock(10, 3)):
        out = block.eval()(x)
        assert out.shape == (2, 13, 6, 8) and torch.equal(out[:, :10], x)
    assert models.Transition(10, 4).eval()(x).shape == (2, 4, 3, 4)


def test_no_activation_works_in_place_and_no_module_is_used_twice():
    net = models.DenseNet(depth=29, blocks=4, bottleneck=False).eval()
    calls = []
    for module in net.modules():
        assert not getattr(module, "inplace", False)
        if not list(module.children()):
            module.register_forward_hook(lambda module, *_: calls.append(module))
    net(torch.randn(1, 3, 32, 32))
    assert len(calls) == len(set(calls)) == sum(not list(module.children()) for module in net.modules())


def test_dropout_follows_each_convolution_but_the_stem():
    net = models.DenseNet(drop_rate=0.25)
    convolutions = sum(isinstance(module, torch.nn.Conv2d) for module in net.modules())
    rates = [module.p for module in net.modules() if isinstance(module, torch.nn.Dropout)]
    assert rates == [0.25] * (convolutions - 1)


@pytest.mark.parametrize("drop_rate", [0.0, 0.5])
def test_checkpointing_changes_no_result(drop_rate):
    states = []
    for checkpointing in (False, True):
        net = models.build("densenet", depth=21, drop_rate=drop_rate, checkpointing=checkpointing, seed=3).train()
        optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
        torch.manual_seed(5)
        for _ in range(2):
            optimiser.zero_grad()
            net(torch.randn(2, 3, 16, 16)).square().sum().backward()
            optimiser.step()
        states.append(net.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
