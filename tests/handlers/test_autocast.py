"""bfloat16 on the CPU in MONAI's engines."""

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from torch import nn

from sdseg_monai.handlers import CpuAutocast

BATCH = {"image": torch.randn(2, 3, 8, 8), "label": torch.zeros(2, 1, 8, 8)}


class Network(nn.Module):
    """A convolution that notes the type in which it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 1)
        self.types: list[torch.dtype] = []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if torch.isnan(image).any():
            raise ValueError("no image")
        result = self.conv(image)
        self.types.append(result.dtype)
        return result


def make_trainer(network, loss, *handlers):
    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=[BATCH, BATCH],
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.1),
        loss_function=loss,
        train_handlers=list(handlers),
    )


@pytest.mark.usefixtures("keep_global_state")
def test_forward_and_loss_of_a_training_are_in_bfloat16_and_the_rest_is_not():
    network, loss_types = Network(), []

    def loss(prediction, label):
        loss_types.append((prediction @ prediction.mT).dtype)
        return prediction.float().square().mean()

    trainer = make_trainer(network, loss, CpuAutocast())
    outside = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: outside.append(torch.is_autocast_enabled("cpu")))
    trainer.run()
    assert network.types == loss_types == [torch.bfloat16] * 2 and outside == [False] * 2
    assert network.conv.weight.dtype == network.conv.weight.grad.dtype == torch.float32


@pytest.mark.usefixtures("keep_global_state")
def test_an_evaluation_is_in_bfloat16():
    network = Network()
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"), val_data_loader=[BATCH], network=network, val_handlers=[CpuAutocast()]
    )
    evaluator.run()
    assert network.types == [torch.bfloat16] and not torch.is_autocast_enabled("cpu")


@pytest.mark.usefixtures("keep_global_state")
def test_an_error_leaves_no_autocast_behind():
    trainer = make_trainer(Network(), nn.MSELoss(), CpuAutocast())
    trainer.data_loader = [{**BATCH, "image": BATCH["image"] * torch.nan}]
    with pytest.raises(ValueError, match="no image"):
        trainer.run()
    assert not torch.is_autocast_enabled("cpu")
