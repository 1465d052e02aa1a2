"""Scoring on a real datastore for ``tests/label/test_scoring.py``, in the environment that has MONAI Label."""

from __future__ import annotations

import json
import logging
import multiprocessing
import shutil
import time
from pathlib import Path
from typing import cast

import torch
from monailabel.interfaces.datastore import DefaultLabelTag

from sdseg_monai.errors import InputError
from sdseg_monai.inference.uncertainty import SampledSegmentation
from sdseg_monai.label.models import ServedModel
from sdseg_monai.label.scoring import DisagreementScoring, HighestScore
from sdseg_monai.label.stores.volumes import VolumeDatastore

DAY = 24 * 60 * 60
CHANGES = 25  # of each of two processes


def open_store(studies: Path, auto_reload: bool = False) -> VolumeDatastore:
    return VolumeDatastore(str(studies), extensions=["*.nii.gz"], auto_reload=auto_reload)


def note(store: VolumeDatastore, image: str, prefix: str) -> None:
    """Add to what is known of ``image``, again and again, while another image comes and goes."""
    path = Path(store.get_image_uri(image))
    other_image = path.with_name(f"{prefix}.nii.gz")
    for number in range(CHANGES):
        store.update_image_info(image, {f"{prefix}{number}": number})
        shutil.copyfile(path, other_image)
        store.refresh()
        other_image.unlink()
        store.refresh()


def two_processes(studies: Path, labels: Path) -> dict[str, object]:
    """Let two processes change one datastore at once; both read it before."""
    store, (first, *_, last) = open_store(studies), sorted(path.name[:-7] for path in studies.glob("*.nii.gz"))
    process = multiprocessing.get_context("fork").Process(target=note, args=(open_store(studies), first, "other"))
    process.start()
    note(store, first, "one")
    store.save_label(last, str(labels / f"{last}.nii.gz"), DefaultLabelTag.FINAL, {"client": "viewer"})
    process.join()
    after = open_store(studies)
    keys = [key for key in after.get_image_info(first) if key.startswith(("one", "other"))]
    label_info = after.get_label_info(last, DefaultLabelTag.FINAL)
    after.remove_label(last, DefaultLabelTag.FINAL)
    return {"kept": len(keys), "label": label_info.get("client")}


class Counter(logging.Handler):
    """Counts, at every score that is logged, the scores that the datastore's file holds by then."""

    def __init__(self, studies: Path, key: str) -> None:
        super().__init__(logging.INFO)
        self.path, self.key = studies / "datastore_v2.json", key
        self.counts: list[int] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.INFO:
            objects = json.loads(self.path.read_text())["objects"]
            self.counts.append(sum(self.key in entry["image"]["info"] for entry in objects.values()))


def serve(strategy: HighestScore, store: VolumeDatastore, ts: float) -> dict[str, object]:
    """Ask for the next image as MONAI Label's endpoint does, which notes when it was served."""
    answer = strategy({"strategy": "highest"}, store)
    assert answer is not None
    store.update_image_info(answer["id"], {"strategy": {"highest": {"ts": int(ts)}}})
    return answer


def score_and_serve(studies: Path, labels: Path, bundle: Path, work_dir: Path) -> dict[str, object]:
    """Score the images of a folder, label some, and ask for the next one, again and again; return what came of it."""
    facts: dict[str, object] = {}
    images = sorted(studies.glob("*.nii.gz"))
    facts["two_processes"] = two_processes(studies, labels)

    model = ServedModel.open(bundle, work_dir / "model")
    scoring = DisagreementScoring(model, "flips")
    strategy = HighestScore(scoring.key, scoring.description)
    watching = open_store(studies, auto_reload=True)
    store = open_store(studies)
    facts["before"] = strategy({"strategy": "highest"}, store)

    counter = Counter(studies, scoring.key)
    logger = logging.getLogger("sdseg_monai.label.scoring")
    logger.setLevel(logging.INFO)
    logger.addHandler(counter)
    facts["first"] = scoring({"device": "cpu"}, store)
    logger.removeHandler(counter)
    facts["stored_one_by_one"] = counter.counts
    facts["second"] = scoring({}, store)

    ids = [path.name[:-7] for path in images]
    scores = {image: store.get_image_info(image).get(scoring.key, {}).get("score") for image in ids}
    facts["scores"] = scores
    flips = model.pipeline(device="cpu", uncertainty="flips")
    good = {image: path for image, path in zip(ids, images, strict=True) if scores[image] is not None}
    facts["measured"] = {image: cast(SampledSegmentation, flips(path)).disagreement for image, path in good.items()}
    deadline = time.monotonic() + 10
    while not all(scoring.key in watching.get_image_info(image) for image in good) and time.monotonic() < deadline:
        time.sleep(0.05)
    facts["seen_by_the_server"] = [image for image in ids if scoring.key in watching.get_image_info(image)]

    now = time.time()
    order = [serve(strategy, store, now + number) for number in range(len(ids))]
    facts["served"] = order
    facts["when_all_were_served"] = strategy({"strategy": "highest"}, store)
    facts["another_strategy"] = strategy({"strategy": "other"}, store)
    for number, days in ((1, 2), (2, 3)):
        store.update_image_info(str(order[number]["id"]), {"strategy": {"highest": {"ts": int(now - days * DAY)}}})
    facts["days_later"] = strategy({"strategy": "highest"}, store)

    state = torch.load(model.chosen_weights("original"), weights_only=True)
    state["unet.conv_out.bias"] += 0.5
    model.tuned_weights.parent.mkdir(parents=True)
    torch.save(state, model.tuned_weights)
    labelled = str(order[0]["id"])
    store.save_label(labelled, str(labels / f"{labelled}.nii.gz"), DefaultLabelTag.FINAL, {})
    facts["tuned"] = scoring({}, store)
    facts["tuned_scores"] = {image: store.get_image_info(image)[scoring.key]["score"] for image in good}
    facts["labelled"] = labelled
    facts["after_the_label"] = strategy({"strategy": "other"}, store)
    try:
        DisagreementScoring(model, "seeds")({}, store)
    except InputError as error:
        facts["seeds"] = str(error)
    for path in images:
        path.unlink()
    store.refresh()
    facts["nothing_left"] = strategy({"strategy": "highest"}, store)
    return facts
