"""Scores of unlabelled images in a real datastore, and which image the server offers next."""

import shutil

import pytest

from tests.makers.bundles import write_sdseg
from tests.makers.label_server import needs_label_env

pytestmark = needs_label_env

GOOD, BROKEN = ("hippocampus_001", "hippocampus_003", "hippocampus_004"), "broken"


@pytest.fixture(scope="module")
def scored(store, hippocampus, tmp_path_factory):
    """What scoring and serving three real volumes and a broken one came to; see ``tests/label/scoring.py``."""
    folder = tmp_path_factory.mktemp("label")
    for name in ("studies", "work"):
        (folder / name).mkdir()
    for case in GOOD:
        shutil.copy(hippocampus / "images" / f"{case}.nii.gz", folder / "studies")
    whole = (hippocampus / "images" / "hippocampus_006.nii.gz").read_bytes()
    (folder / "studies" / f"{BROKEN}.nii.gz").write_bytes(whole[: len(whole) // 2])
    bundle = write_sdseg(folder / "tiny", "zeros")
    return store("score_and_serve", folder / "studies", hippocampus / "labels", bundle, folder / "work")


@pytest.mark.shared
def test_scores_are_stored_one_by_one_and_a_bad_image_is_left_out(scored):
    assert scored["first"] == {"scored": 3, "failed": 1}
    assert scored["stored_one_by_one"] == [1, 2, 3]
    assert scored["scores"] == {**scored["measured"], BROKEN: None} and set(scored["measured"]) == set(GOOD)
    assert len(set(scored["measured"].values())) == 3
    assert sorted(scored["seen_by_the_server"]) == list(GOOD)


@pytest.mark.shared
def test_only_other_weights_are_a_reason_to_score_again(scored):
    assert scored["second"] == {"scored": 0, "failed": 1}
    assert scored["tuned"] == {"scored": 2, "failed": 1}
    rescored = {case for case in GOOD if scored["tuned_scores"][case] != scored["scores"][case]}
    assert rescored == {*GOOD} - {scored["labelled"]}


@pytest.mark.shared
def test_the_highest_score_is_served_first_and_nothing_twice_a_day(scored):
    by_score = sorted(GOOD, key=scored["scores"].get, reverse=True)
    assert scored["before"] == {"id": BROKEN, "score": None}  # none has a score
    assert scored["served"] == [{"id": case, "score": scored["scores"][case]} for case in (*by_score, BROKEN)]
    assert scored["when_all_were_served"]["id"] == by_score[0] == scored["another_strategy"]["id"]
    assert scored["days_later"]["id"] == by_score[1]  # the two that were served more than a day ago: by score again
    assert scored["after_the_label"]["id"] == max(by_score[1:], key=scored["tuned_scores"].get)
    assert scored["nothing_left"] is None


@pytest.mark.shared
def test_scoring_seeds_of_a_network_without_start_noise_is_refused(scored):
    assert "without start noise" in scored["seeds"]


@pytest.mark.shared
def test_two_processes_change_one_datastore_and_lose_nothing(scored):
    assert scored["two_processes"] == {"kept": 50, "label": "viewer"}
