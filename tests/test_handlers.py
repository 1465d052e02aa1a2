import pytest
import torch
from ignite.engine import Engine

from sdseg_monai.errors import InputError
from sdseg_monai.handlers import Checkpoint, EpochSeed, ExpectedTime, LatentScale, UpdateAverage, WeightAverage
from sdseg_monai.networks import PixelSegmenter
from tests.conftest import make_network


class Masks(torch.utils.data.Dataset):
    """A few random masks."""

    def __len__(self):
        return 9

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return {"label": (torch.rand(1, 16, 16, generator=generator) > 0.5).float()}


def run(steps=4, epochs=1, *handlers, step=lambda engine, batch: None):
    engine = Engine(step)
    for handler in handlers:
        handler.attach(engine)
    engine.run(range(steps), max_epochs=epochs)
    return engine


def test_scale_makes_the_latents_unit_variance_and_is_measured_once():
    network = make_network()
    network.scale_factor.fill_(float("nan"))
    handler = LatentScale(network, Masks(), num_masks=512, batch_size=4)
    run(1, 1, handler)
    latents = network.encode_mask(torch.stack([Masks()[i]["label"] for i in range(9)]))
    assert latents.std().item() == pytest.approx(1, abs=1e-4)
    network.scale_factor.fill_(0.25)
    run(1, 1, handler)
    assert network.scale_factor.item() == 0.25


def test_average_follows_the_trained_weights_and_shares_the_frozen_ones():
    network = make_network()
    ema = WeightAverage(network, decay=0.9, warmup_iterations=1)
    frozen = {k: v.clone() for k, v in network.autoencoder.state_dict().items()}

    def step(engine, batch):
        with torch.no_grad():
            for parameter in network.trained_parts.parameters():
                parameter += 1

    start = network.unet.conv_out.bias.clone()
    run(3, 1, UpdateAverage(ema), step=step)
    expected = start.clone()
    for n in (1, 2, 3):
        expected = 0.9 * expected + 0.1 * (start + n)
    torch.testing.assert_close(ema.network.unet.conv_out.bias, expected)
    assert ema.network.scale_factor is network.scale_factor
    shared = zip(ema.network.autoencoder.parameters(), network.autoencoder.parameters(), strict=True)
    assert all(mine is theirs for mine, theirs in shared)
    assert all(torch.equal(frozen[k], v) for k, v in network.autoencoder.state_dict().items())
    assert ema.network.state_dict().keys() == network.state_dict().keys()
    assert not ema.network.training


def test_average_warms_up_from_the_newest_weights():
    network = make_network()
    ema = WeightAverage(network, decay=0.999, warmup_iterations=100)
    engine = run(1, 1, UpdateAverage(ema))
    assert engine.state.ema_momentum == pytest.approx(0.1)
    assert run(200, 1, UpdateAverage(ema)).state.ema_momentum == pytest.approx(0.001)


def test_checkpoint_restores_every_part(tmp_path):
    def setup():
        network = make_network()
        optimizer = torch.optim.AdamW(network.trained_parts.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=10)
        ema = WeightAverage(network, 0.9, 1)
        evaluator = Engine(lambda e, b: None)
        evaluator.state.best_metric, evaluator.state.best_metric_epoch = -1, -1
        objects = {"network": network, "optimizer": optimizer, "lr_scheduler": schedule, "ema": ema}
        return objects, evaluator, Checkpoint(tmp_path / "checkpoint.pt", objects, evaluator)

    objects, evaluator, checkpoint = setup()

    def step(engine, batch):
        evaluator.state.best_metric, evaluator.state.best_metric_epoch = 0.5, engine.state.epoch
        for parameter in objects["network"].trained_parts.parameters():
            parameter.grad = torch.ones_like(parameter)
        objects["optimizer"].step()
        objects["lr_scheduler"].step()

    run(3, 2, UpdateAverage(objects["ema"]), checkpoint, step=step)
    again, other_evaluator, loader = setup()
    engine = Engine(lambda e, b: None)
    UpdateAverage(again["ema"]).attach(engine)
    loader.load(engine)
    assert (engine.state.epoch, engine.state.iteration) == (2, 6)
    assert (other_evaluator.state.best_metric, other_evaluator.state.best_metric_epoch) == (0.5, 2)
    for part in ("network", "ema"):
        a, b = objects[part].state_dict(), again[part].state_dict()
        if part == "ema":
            assert a["step"] == b["step"] == 6
            a, b = a["parts"], b["parts"]
        assert all(torch.equal(a[k], b[k]) for k in a)
    assert again["lr_scheduler"].get_last_lr() == objects["lr_scheduler"].get_last_lr()
    first = next(iter(again["optimizer"].state.values()))
    assert first["step"] == 6 and first["exp_avg"].abs().max() > 0
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_checkpoint_of_another_prediction_type_is_refused(tmp_path):
    run(1, 1, Checkpoint(tmp_path / "checkpoint.pt", {"network": make_network()}))
    other = {"network": make_network(prediction_type="v_prediction")}
    with pytest.raises(InputError, match=r"of another training .*epsilon.*v_prediction"):
        run(1, 2, Checkpoint(tmp_path / "checkpoint.pt", other))


def test_epoch_seed_makes_dropout_a_function_of_the_epoch():
    def draws(epochs, start=0):
        seen = {}
        engine = Engine(lambda e, b: seen.setdefault(e.state.epoch, torch.rand(1).item()))
        EpochSeed(3).attach(engine)
        engine.run(range(1), max_epochs=epochs)
        return seen

    torch.manual_seed(1)
    first = draws(3)
    torch.manual_seed(2)
    assert draws(3) == first
    assert len(set(first.values())) == 3


def test_expected_time_is_logged_before_a_long_run_only(caplog):
    network = make_network().eval()
    run(2, 1, ExpectedTime(network, (16, 16), 4, report_above=1000))
    assert "will take about" not in caplog.text
    run(2, 1, ExpectedTime(network, (16, 16), 4, report_above=0))
    assert "training on the CPU: 2 steps of 4 slices of 16x16 will take about" in caplog.text


def test_average_of_named_parts_leaves_the_others_to_the_training():
    network = make_network()
    ema = WeightAverage(network, decay=0.9, warmup_iterations=1, parts=["unet"])
    pairs = zip(ema.network.vision_encoder.parameters(), network.vision_encoder.parameters(), strict=True)
    assert all(mine is theirs for mine, theirs in pairs)
    assert ema.network.unet.conv_in.weight is not network.unet.conv_in.weight
    with pytest.raises(ValueError, match="expected some of vision_encoder, unet"):
        WeightAverage(network, decay=0.9, warmup_iterations=1, parts=["unett"])
    assert {name.split(".")[0] for name in ema.handler.ema_model.state_dict()} == {"unet"}


def test_average_takes_the_statistics_of_a_batch_norm():
    torch.manual_seed(0)
    network = PixelSegmenter(torch.nn.Sequential(torch.nn.Conv2d(3, 1, 1), torch.nn.BatchNorm2d(1))).train()
    ema = WeightAverage(network, decay=0.9, warmup_iterations=1)
    image = 30 + torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    run(5, 1, UpdateAverage(ema), step=lambda engine, batch: network(image, mask=image[:, :1]))
    assert network.backbone[1].running_mean.abs() > 0.1
    torch.testing.assert_close(ema.network.backbone[1].running_mean, network.backbone[1].running_mean)
