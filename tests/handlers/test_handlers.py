from typing import Any, cast

import pytest
import torch
from ignite.engine import Engine, Events
from monai.transforms import Compose, RandFlipd, RandRotate90d
from torch.utils.data import DataLoader

from sdseg_monai.data import DrawSampler, SliceDataset
from sdseg_monai.errors import InputError
from sdseg_monai.handlers import (
    CacheLatents,
    EpochSeed,
    ExpectedTime,
    LatentScale,
    TrainingCheckpoint,
    UpdateAverage,
    WeightAverage,
)
from sdseg_monai.losses import SDSegLoss
from sdseg_monai.networks import DenoisingUNet, PixelSegmenter, SDSeg
from sdseg_monai.transforms import LoadVolumed
from tests.makers.networks import make_network
from tests.makers.volumes import write_case


class Masks(torch.utils.data.Dataset):
    """A few random masks."""

    def __len__(self):
        return 9

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return {"label": torch.randint(3, (1, 16, 16), generator=generator).float(), "seed": torch.tensor(index)}


def class_conditional():
    parts, unet = make_network(), DenoisingUNet(8, 4, [16, 32], [False, True], 1, 4, 8, num_class_embeds=3)
    return SDSeg(parts.autoencoder, parts.vision_encoder, unet)


def run(steps=4, epochs=1, *handlers, step=lambda engine, batch: None):
    engine = Engine(step)
    for handler in handlers:
        handler.attach(engine)
    engine.run(range(steps), max_epochs=epochs)
    return engine


def test_scale_makes_the_latents_unit_variance_and_is_measured_once():
    network = make_network(num_classes=3)
    network.scale_factor.fill_(float("nan"))
    handler = LatentScale(network, Masks(), num_masks=512, batch_size=4)
    run(1, 1, handler)
    latents = network.encode_mask(torch.stack([Masks()[i]["label"] for i in range(9)]))
    assert latents.std().item() == pytest.approx(1, abs=1e-4)
    network.scale_factor.fill_(0.25)
    run(1, 1, handler)
    assert network.scale_factor.item() == 0.25


def test_scale_of_a_network_with_one_pass_per_class_is_of_the_masks_it_trains_on():
    network = class_conditional()
    network.scale_factor.fill_(float("nan"))
    run(1, 1, LatentScale(network, Masks(), num_masks=512, batch_size=4))
    items = [Masks()[i] for i in range(9)]
    masks, seeds = (torch.stack([item[key] for item in items]) for key in ("label", "seed"))
    output = network(torch.zeros(9, 3, 16, 16), mask=masks, seeds=seeds)
    assert output.latent.std().item() == pytest.approx(1, abs=1e-4)


def test_average_follows_the_trained_weights_and_shares_the_frozen_ones():
    network = make_network()
    ema = WeightAverage(network, decay=0.9, warmup_iterations=1)
    frozen = {k: v.clone() for k, v in network.autoencoder.state_dict().items()}

    def step(engine, batch):
        with torch.no_grad():
            for parameter in network.trained_parts.parameters():
                parameter.add_(1)

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


@pytest.fixture
def cases(tmp_path):
    for i in range(2):
        write_case(tmp_path, f"case{i}", shape=(18, 20, 4), seed=i)
    return [{key: str(tmp_path / f"{key}s" / f"case{i}.nii.gz") for key in ("image", "label")} for i in range(2)]


def make_dataset(cases, augmentation_cycle=2):
    keys = ["image", "label"]
    flips = Compose([RandFlipd(keys, prob=0.5, spatial_axis=0), RandRotate90d(keys, prob=0.5)])
    options = {"seed": 3, "progress": False, "augmentation_cycle": augmentation_cycle}
    return SliceDataset(cases, LoadVolumed(keys), 2, (16, 16), flips, **options)


def train(cases, handlers=(), epochs=3, num_workers=0, **options):
    """Train for some epochs; returns the losses of all steps and the dataset."""
    network, dataset = (
        make_network(prediction_type="sample", start_noise="zeros", **options).train(),
        make_dataset(cases),
    )
    optimizer, loss = torch.optim.SGD(network.trained_parts.parameters(), lr=0.05), SDSegLoss()
    sampler = DrawSampler(dataset, num_replicas=1, rank=0, seed=5)
    losses = []

    def step(engine, batch):
        optimizer.zero_grad()
        output = network(batch["image"], mask=batch["label"], seeds=batch["seed"], latent=batch.get("latent"))
        losses.append(loss(output, batch["label"]))
        losses[-1].backward()
        optimizer.step()

    engine = Engine(step)
    engine.add_event_handler(Events.EPOCH_STARTED, lambda e: sampler.set_epoch(e.state.epoch))
    for handler in handlers:
        handler(network, dataset).attach(engine)
    engine.run(DataLoader(dataset, 4, sampler=sampler, num_workers=num_workers), max_epochs=epochs)
    return torch.stack(losses).detach(), dataset


def cache_latents(network, dataset):
    return CacheLatents(network, dataset, batch_size=3)


@pytest.mark.parametrize("options", [{}, {"train_decoder": True}, {"num_classes": 3}])
def test_kept_latents_train_as_encoded_ones(cases, options):
    encoded, plain = train(cases, **options)
    cached, dataset = train(cases, [cache_latents], **options)
    assert plain.latents is None and dataset.latents.shape == (2 * 8, 4, 4, 4)
    assert len(encoded) == 6 and encoded[-1] != encoded[0]
    torch.testing.assert_close(cached, encoded, atol=1e-5, rtol=1e-5)
    network = make_network(**options)
    for draw in (0, 9, 16, 8 * 5 + 3):  # of any epoch
        item = dataset[draw]
        torch.testing.assert_close(item["latent"], network.encode_mask(item["label"][None], scale=False)[0])


def test_workers_have_the_kept_latents(cases):
    torch.testing.assert_close(train(cases, [cache_latents], 1, num_workers=2)[0], train(cases, epochs=1)[0])


def test_kept_latents_do_not_wait_for_the_scale(cases):
    network, dataset = make_network(), make_dataset(cases)
    network.scale_factor.fill_(float("nan"))
    run(1, 1, CacheLatents(network, dataset, 4), LatentScale(network, dataset, 512))
    assert torch.isfinite(dataset.latents).all() and torch.isfinite(network.scale_factor)
    # the factor is of the first cycle's masks, whose latents these are
    assert (dataset.latents[:8].std() * network.scale_factor).item() == pytest.approx(1, abs=1e-4)


def test_the_scale_is_measured_on_kept_latents_without_encoding_again(cases, caplog):
    caplog.set_level("INFO")
    factors, encoded = [], []
    for handlers in ((LatentScale,), (CacheLatents, LatentScale)):
        network, dataset = make_network(), make_dataset(cases)
        network.scale_factor.fill_(float("nan"))
        network.autoencoder.encoder.register_forward_hook(lambda _, images, __: encoded.append(len(images[0])))
        run(1, 1, *(handler(network, dataset, 3) for handler in handlers))
        factors.append(network.scale_factor)
    assert encoded == [3, 3, 3, 3, 3, 3, 1]  # 3 of the 8 slices; then all 16 and none of them twice
    torch.testing.assert_close(*factors)
    assert "kept 16 mask latents, each of 8 slices in 2 augmentations: 0.0 MiB of memory" in caplog.text


def test_latents_that_change_are_not_kept(cases):
    for network, cycle, match in (
        (make_network(), None, "augmentation_cycle=None"),
        (make_network(mask_latent="sample"), 2, "mask_latent='sample'"),
        (class_conditional(), 2, "one pass per class"),
    ):
        with pytest.raises(InputError, match=match):
            CacheLatents(network, make_dataset(cases, cycle), 4)


@pytest.mark.parametrize("parts", [None, ["unet", "decoder"]])
def test_average_includes_a_trained_decoder(parts):
    network = make_network(train_decoder=True)
    ema = WeightAverage(network, decay=0.9, warmup_iterations=1, parts=parts)

    def step(engine, batch):
        with torch.no_grad():
            for parameter in network.trained_parts.parameters():
                parameter.add_(1)

    start = network.autoencoder.decoder.conv_out.bias.clone()
    run(1, 1, UpdateAverage(ema), step=step)
    averaged: Any = ema.network.autoencoder
    torch.testing.assert_close(averaged.decoder.conv_out.bias, 0.9 * start + 0.1 * (start + 1))
    latent = torch.randn(1, 4, 4, 4)
    assert not torch.allclose(cast(SDSeg, ema.network).decode(latent), network.decode(latent))
    own = [name for name, _ in network.autoencoder.named_children() if parts is None or name in parts]
    for name, part in averaged.named_children():
        pairs = zip(part.parameters(), getattr(network.autoencoder, name).parameters(), strict=True)
        shared = all(mine is theirs for mine, theirs in pairs)
        assert shared == (name in ("encoder", "quant_conv") or name not in own), name
    assert ema.network.state_dict().keys() == network.state_dict().keys()


def test_average_warms_up_from_the_newest_weights():
    network = make_network()
    ema = WeightAverage(network, decay=0.999, warmup_iterations=100)
    engine = run(1, 1, UpdateAverage(ema))
    assert engine.state.ema_momentum == pytest.approx(0.1)
    assert run(200, 1, UpdateAverage(ema)).state.ema_momentum == pytest.approx(0.001)


@pytest.mark.parametrize("options", [{}, {"train_decoder": True, "num_classes": 3}])
def test_checkpoint_restores_every_part(tmp_path, options):
    def setup():
        network = make_network(**options)
        optimizer = torch.optim.AdamW(network.trained_parts.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=10)
        ema = WeightAverage(network, 0.9, 1)
        evaluator = Engine(lambda e, b: None)
        evaluator.state.best_metric, evaluator.state.best_metric_epoch = -1, -1
        objects: dict[str, Any] = {"network": network, "optimizer": optimizer, "lr_scheduler": schedule, "ema": ema}
        return objects, evaluator, TrainingCheckpoint(tmp_path / "checkpoint.pt", objects, evaluator)

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
    run(1, 1, TrainingCheckpoint(tmp_path / "checkpoint.pt", {"network": make_network()}))
    v_network = make_network(prediction_type="v_prediction")
    with pytest.raises(InputError, match=r"of another training .*epsilon.*v_prediction"):
        run(1, 2, TrainingCheckpoint(tmp_path / "checkpoint.pt", {"network": v_network}))


def test_epoch_seed_makes_dropout_a_function_of_the_epoch():
    def draws(epochs, start=0):
        values: dict[int, float] = {}
        engine = Engine(lambda e, b: values.setdefault(e.state.epoch, torch.rand(1).item()))
        EpochSeed(3).attach(engine)
        engine.run(range(1), max_epochs=epochs)
        return values

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
    norm = torch.nn.BatchNorm2d(1)
    network = PixelSegmenter(torch.nn.Sequential(torch.nn.Conv2d(3, 1, 1), norm)).train()
    ema = WeightAverage(network, decay=0.9, warmup_iterations=1)
    image = 30 + torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    run(5, 1, UpdateAverage(ema), step=lambda engine, batch: network(image, mask=image[:, :1]))
    averaged: Any = ema.network.backbone
    assert norm.running_mean.abs() > 0.1
    torch.testing.assert_close(averaged[1].running_mean, norm.running_mean)
