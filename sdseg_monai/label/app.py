"""The MONAI Label app: each bundle segments, is fine-tuned, and scores which image to label next."""

from __future__ import annotations

import logging
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import requests
import torch
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.batch_infer import BatchInferTask
from monailabel.tasks.activelearning.random import Random
from monailabel.utils.async_tasks.utils import processes

from sdseg_monai.about import __version__
from sdseg_monai.errors import InputError, report_input_errors
from sdseg_monai.io.temporary import owned_prefix, scratch_folder
from sdseg_monai.io.volumes import volume_suffix
from sdseg_monai.label.infer import SegmentTask
from sdseg_monai.label.models import open_models
from sdseg_monai.label.options import read_option
from sdseg_monai.label.processes import TEMPORARY_PREFIX, end_with_server
from sdseg_monai.label.scoring import DisagreementScoring, HighestScore
from sdseg_monai.label.stores import open_datastore
from sdseg_monai.label.train import FineTuneTask

logger = logging.getLogger(__name__)


class SDSegApp(MONAILabelApp):
    """Serve bundles to MONAI Label's clients.

    Args:
        app_dir: folder that the server writes into: logs, fine-tuned weights in ``model``, caches.
        studies: folder of volumes or of DICOM files, or the URL of a DICOMweb server.
        conf: ``bundles``: names or folders, separated by commas; by default every installed bundle with weights.

    Raises:
        InputError: a bundle or the studies cannot be used.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        report_input_errors()  # MONAI Label also runs the app in processes for training and scoring
        end_with_server()
        tempfile.template = owned_prefix(TEMPORARY_PREFIX)  # a killed process leaves the files of patients
        self.work_dir = Path(app_dir)
        bundles = [bundle.strip() for bundle in conf.get("bundles", "").split(",") if bundle.strip()]
        self.models = open_models(bundles, self.work_dir / "model")
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name=f"SDSeg ({__version__})",
            description="Single-step latent diffusion segmentation. Research use only.",
            version=__version__,
        )

    def info(self) -> dict[str, Any]:
        """Return what clients show, without empty statistics, which viewers take for a finished training."""
        info = super().info()
        return {**info, "train_stats": {name: stats for name, stats in info["train_stats"].items() if stats}}

    def init_datastore(self) -> Datastore:
        """Open the studies."""
        return open_datastore(self.studies, self.models.values(), self.work_dir / "cache")

    def init_infers(self) -> dict[str, SegmentTask]:
        """Return the inference task of each bundle."""
        return {name: SegmentTask(model) for name, model in self.models.items()}

    def init_trainers(self) -> dict[str, FineTuneTask]:
        """Return the training task of each bundle that can be trained."""
        tasks = {name: FineTuneTask(model) for name, model in self.models.items()}
        return {name: task for name, task in tasks.items() if task.is_valid()}

    def init_strategies(self) -> dict[str, Any]:
        """Return the strategies for the next image: random choice, and the highest score of each scoring method."""
        strategies = {name: HighestScore(method.key, method.description) for name, method in self.signals.items()}
        return {"random": RandomChoice(), **strategies}

    def init_scoring_methods(self) -> dict[str, DisagreementScoring]:
        """Return the scoring methods, see :attr:`signals`."""
        return self.signals

    @cached_property
    def signals(self) -> dict[str, DisagreementScoring]:
        """The scoring method of each signal of each bundle; method and strategy have the same name."""
        methods = [DisagreementScoring(model, signal) for model in self.models.values() for signal in model.signals]
        return {method.key: method for method in methods}

    def init_batch_infer(self) -> BatchInferTask:
        """Return the task for batch inference, which also works without a GPU."""
        return BatchInfer()

    def infer(self, request: Mapping[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Segment an image of the datastore, or one that was uploaded.

        Raises:
            InputError: there is no such model or image, or an option cannot be used.
        """
        model, image = request.get("model"), request.get("image")
        if model not in self.models:
            raise InputError(f"model {model!r}: expected one of {', '.join(self.models)}")
        if request.get("save_label") and request.get("label_tag") == DefaultLabelTag.FINAL:
            raise InputError(
                "label_tag='final': expected another, such as 'original'; only a person's labels are final"
            )
        request = {**request, "device": read_option(request, "device")}  # MONAI Label fails on a list of devices
        store = datastore or self.datastore()
        if image in store.list_images():
            return super().infer({**request, "modality": store.modality_of(image)}, datastore)
        if not isinstance(image, str) or not self._is_uploaded(image):
            raise InputError(f"image {image!r}: no such image in the studies")
        with scratch_folder() as folder:
            # start noise may depend on the file's name, and that of an upload is random
            link = Path(folder, "upload" + volume_suffix(Path(image)))
            link.symlink_to(image)
            try:
                return super().infer({**request, "image": str(link)}, datastore)
            except InputError as error:
                raise InputError(str(error).replace(str(link), "upload")) from error

    def async_scoring(self, method: str | None, params: dict[str, Any] | None = None) -> Any:
        """Start the scoring of that name, or without a name, all that have images to score, unless one is running.

        MONAI Label asks for all of them when it starts, after a training and after each next sample; each is a process,
        which would take seconds to find out that there is nothing to do.
        """
        if method:
            return super().async_scoring(method, params)
        try:
            if not self._server_mode:  # in the process of a training: only the server has the queue of scorings
                return self._local_request("/scoring/", params, "Scoring")
            if processes("scoring"):
                return {}
            names = [name for name, task in self._scoring_methods.items() if task.unscored_images(self.datastore())]
            return {name: super(SDSegApp, self).async_scoring(name, params) for name in names}
        except (InputError, requests.RequestException) as error:  # the training or the next sample must not fail
            logger.warning("no scoring is started: %s", error)
            return {}

    def task_names(self) -> dict[str, Sequence[str]]:
        """Return the names of the tasks by the first part of their URLs."""
        return {
            "infer": list(self._infers),
            "batch": list(self._infers),
            "train": list(self._trainers),
            "scoring": list(self._scoring_methods),
            "activelearning": list(self._strategies),
        }

    def _is_uploaded(self, image: str) -> bool:
        path = Path(image).resolve()
        sessions = self.sessions()
        folders = [Path(tempfile.gettempdir()), *([] if sessions is None else [Path(sessions.store_path)])]
        return (
            Path(image).is_absolute()
            and path.is_file()
            and any(path.is_relative_to(folder.resolve()) for folder in folders)
        )


class RandomChoice(Random):
    """MONAI Label's random choice, which fails where all images were served within this second, without that fault."""

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Return ``id`` and ``weight`` of an image without a label; one served long ago is more probable."""
        try:
            return super().__call__(request, datastore)
        except ValueError:
            return {"id": random.choice(datastore.get_unlabeled_images()), "weight": 0}


class BatchInfer(BatchInferTask):
    """MONAI Label's batch inference, which divides by zero without a GPU and stops at a bad image, without that."""

    def __call__(self, request: Mapping[str, Any], datastore: Datastore, infer: Callable[..., Any]) -> dict[str, Any]:
        """Segment the images that ``request`` names; its ``device`` is used where there is no GPU.

        Returns:
            For each image the result of ``infer``, or under ``error`` why it could not be segmented.

        Raises:
            InputError: no image could be segmented.
        """

        def infer_or_log(image_request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
            try:
                return infer(image_request, datastore)
            except InputError as error:
                logger.warning("%s: not segmented (%s)", image_request["image"], error)
                return {"error": str(error)}

        gpu_option = {} if torch.cuda.is_available() else {"multi_gpu": False}
        results = super().__call__({**request, **gpu_option}, datastore, infer_or_log)
        errors = [result["error"] for result in results.values() if "error" in result]
        if errors and len(errors) == len(results):
            raise InputError(f"none of {len(errors)} images could be segmented, the first: {errors[0]}")
        return results
