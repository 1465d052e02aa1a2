"""Names, options, files and labels of hostile clients: the answer is a 4xx with one line, which is also in the log."""

import gzip
import shutil
from typing import Any

import nibabel as nib
import numpy as np
import psutil
import pytest

from tests.label.client import CASE, JSON, MODEL, OTHER
from tests.makers.label_server import needs_label_env

pytestmark = [needs_label_env, pytest.mark.shared]
NAME = "expected a plain name"
RESERVED = "not for clients to set"
NOT_JSON = "expected a JSON object"


def test_binds_to_this_machine_only(client):
    addresses = {
        c.laddr.ip for c in psutil.Process(client.server.process.pid).net_connections() if c.status == "LISTEN"
    }
    assert addresses == {"127.0.0.1"}


IMAGES = ["../../etc/passwd", "/etc/passwd", "..", ".hidden", "a/b", "a\\b", "a\0b", "a\nb", "\x1b[31m", "x" * 300]


@pytest.mark.parametrize("name", IMAGES, ids=repr)
@pytest.mark.parametrize("parameter", ["image", "session_id", "id", "tag", "label"])
def test_names_are_no_paths(client, parameter, name):
    requests_of = {
        "image": lambda c: c.infer(image=name),
        "session_id": lambda c: c.infer(session_id=name),
        "id": lambda c: c.send("DELETE", "/datastore/image", params={"id": name}),
        "tag": lambda c: c.put_label(tag=name),
        "label": lambda c: c.send("GET", "/datastore/label/info", params={"label": name, "tag": "final"}),
    }
    client.check_refused(requests_of[parameter], 400, NAME)


PARAMS = {  # of an inference
    '{"image": "/etc/passwd"}': RESERVED,
    '{"image": ["x"]}': RESERVED,
    '{"model": [1]}': RESERVED,
    '{"session": "/../x"}': RESERVED,
    '{"label": "/../x"}': RESERVED,
    '{"timeout": 0.001}': RESERVED,
    '{"result_extension": "/../../x"}': "expected .nii.gz or",
    '{"result_extension": ".nii.gz/../../etc"}': "expected .nii.gz or",
    '{"result_extension": ".exe"}': "expected .nii.gz or",
    '{"result_extension": 5}': "expected .nii.gz or",
    '{"save_label": true, "label_tag": "../../x"}': NAME,
    '{"save_label": true, "label_tag": 5}': NAME,
    '{"save_label": true, "label_tag": "%s"}' % ("x" * 400): NAME,
    '{"save_label": "false"}': "expected true or false",
    '{"seed": -1}': "expected a whole number from 0",
    '{"seed": 1.5}': "expected a whole number from 0",
    '{"seed": "seven"}': "expected a number",
    '{"seed": "nan"}': "expected a number",
    '{"seed": true}': "expected a number",
    '{"seed": [1]}': "expected a number",
    '{"seed": 18446744073709551616}': "expected a whole number from 0",
    '{"seed": "1e999999999"}': "expected a whole number from 0",
    '{"seed": 1e400}': NOT_JSON,
    '{"seed": NaN}': NOT_JSON,
    '{"seed": %s}' % ("9" * 5000): NOT_JSON,
    '{"batch_size": 0}': "expected a whole number from 1 to 32",
    '{"batch_size": 1024}': "expected a whole number from 1 to 32",
    '{"batch_size": {"a": 1}}': "expected a number",
    '{"device": "cpu; rm"}': "expected cpu, or cuda",
    '{"device": "meta"}': "expected cpu, or cuda",
    '{"device": "cuda:99"}': "expected cpu, or cuda",
    '{"device": 5}': "expected a device's name",
    '{"device": {"a": 1}}': "expected a device's name",
    '{"weights": "../../x"}': "expected latest or original",
    '{"weights": [[1]]}': "expected latest or original",
    '{"weights": "\\ud800"}': NOT_JSON,
    "{x": NOT_JSON,
    "[1]": NOT_JSON,
    "5": NOT_JSON,
    "null": NOT_JSON,
    "[" * 100_000: NOT_JSON,
    '{"a": %s}' % ("[" * 900 + "]" * 900): NOT_JSON,
    '{"a": %s}' % ("[" * 30 + "]" * 30): "at most 20 levels",
}


@pytest.mark.parametrize("params", PARAMS, ids=lambda text: text[:50])
def test_options_of_an_inference(client, params):
    client.check_refused(lambda c: c.infer(params), 422, PARAMS[params])


@pytest.mark.parametrize("seed", ["7", "7.00", "1e3", 1e16, 2**63 - 1, None])
def test_numbers_as_viewers_write_them(client, seed):
    assert client.infer({"seed": seed, "device": ["cpu"]}).content == client.mask


FILES = [
    "noext",
    "x.nii.gz.exe",
    "../../x.py",
    "meta.info",
    "x.zip",
    "a\0b.nii.gz",
    "x" * 300 + ".nii.gz",
    ".nii.gz",
    "..",
]


@pytest.mark.parametrize("name", FILES, ids=lambda name: repr(name[:20]))
@pytest.mark.parametrize("route", ["infer", "put_image", "put_label", "put_session"])
def test_names_of_files(client, route, name):
    requests_of = {
        "infer": lambda c: c.infer(file=(name, c.volume)),
        "put_image": lambda c: c.put_image(name),
        "put_label": lambda c: c.put_label(name),
        "put_session": lambda c: c.put_session(name),
    }
    client.check_refused(requests_of[route], 422, NAME)


def nifti(array, at=None, values=b""):
    """Return a gzipped NIfTI file of ``array``, with ``values`` in its header from byte ``at`` on."""
    content = bytearray(nib.Nifti1Image(array, np.eye(4)).to_bytes())
    if at is not None:
        content[at : at + len(values)] = values
    return gzip.compress(bytes(content))


BLOCK = np.zeros((4, 4, 4), np.uint8)
CONTENTS = {
    "empty": (b"", "the file is empty"),
    "text": (b"hello", "not a readable NIfTI file"),
    "truncated": (None, "truncated or damaged"),
    "huge": (
        nifti(BLOCK, 42, np.array([30000] * 3, "<i2").tobytes()),
        "the header claims 30000 x 30000 x 30000 voxels",
    ),
    "NaN affine": (nifti(BLOCK, 280, np.full(12, np.nan, "<f4").tobytes()), "the affine is singular"),
    "4-D": (nifti(np.zeros((4, 4, 4, 2), np.uint8)), "expected one 3-D volume"),
    "NaN": (nifti(np.full((4, 4, 4), np.nan, np.float32)), "NaN or infinite"),
}


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("route", ["infer", "put_image", "put_label"])
def test_contents_of_files(client, route, content):
    data, reason = CONTENTS[content]
    data = client.volume[: len(client.volume) // 2] if data is None else data
    requests_of = {
        "infer": lambda c: c.infer(file=("x.nii.gz", data)),
        "put_image": lambda c: c.put_image(content=data, image="new"),
        "put_label": lambda c: c.put_label(content=data),
    }
    client.check_refused(requests_of[route], 422, reason)


def test_an_upload_is_no_series(client):
    volume = ("x.nii.gz", client.volume)
    client.check_refused(
        lambda c: c.infer(file=volume, image=OTHER, output="dicom_seg"), 422, "an image of the studies"
    )


def test_files_outside_the_upload_are_not_read(client):
    nrrd = b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4 4 4\nencoding: raw\ndata file: /etc/passwd\n\n"
    client.check_refused(lambda c: c.infer(file=("x.nrrd", nrrd)), 422, "upload: its voxels lie in another file")


BODIES = [  # of tasks
    (f"/train/{MODEL}", '{"bundle_path": "/tmp"}', RESERVED),  # MONAI Label puts it on the PYTHONPATH of a process
    (f"/scoring/{MODEL}_flips", '{"bundle_path": "/tmp"}', RESERVED),
    (f"/batch/infer/{MODEL}", '{"bundle_path": "/tmp"}', RESERVED),
    ("/train/", f'{{"{MODEL}": {{"bundle_path": "/tmp"}}}}', RESERVED),
    (f"/train/{MODEL}", '{"model": "x"}', RESERVED),
    (f"/scoring/{MODEL}_flips", '{"method": "x"}', RESERVED),
    ("/activelearning/random", '{"strategy": ["x"]}', RESERVED),
    (f"/train/{MODEL}", '{"max_epochs": 0}', "expected a whole number from 1"),
    (f"/train/{MODEL}", '{"val_split": 2}', "expected a number from 0.01"),
    (f"/train/{MODEL}", '{"learning_rate": "nan"}', "expected a number"),
    (f"/train/{MODEL}", '{"weights": "../x"}', "expected latest or original"),
    (f"/train/{MODEL}", '{"device": 5}', "expected a device's name"),
    (f"/train/{MODEL}", '{"gpus": 5}', "expected a text of numbers, separated by commas"),
    (f"/train/{MODEL}", "[1]", NOT_JSON),
    (f"/train/{MODEL}", "{x", "JSON decode error"),
    (f"/train/{MODEL}", '{"a": NaN}', NOT_JSON),
    ("/train/", f'{{"{MODEL}": {{"max_epochs": "x"}}}}', "expected a number"),
    ("/train/", f'{{"{MODEL}": 5}}', "expected an object"),
    ("/scoring/", f'{{"{MODEL}_flips": 5}}', "expected an object"),
    (f"/scoring/{MODEL}_flips", '{"device": [5]}', "expected a device's name"),
    ("/activelearning/random", "[1]", NOT_JSON),
    ("/activelearning/random", '{"client_id": {"a": 1}}', "expected a text"),
    (f"/batch/infer/{MODEL}", '{"label_tag": "../../x"}', NAME),
    (f"/batch/infer/{MODEL}", '{"images": 5}', "expected a list of images"),
    (f"/batch/infer/{MODEL}", '{"images": ["../../x"]}', NAME),
    (f"/batch/infer/{MODEL}", '{"max_batch_size": "x"}', "expected a whole number"),
    (f"/batch/infer/{MODEL}", '{"max_workers": "x"}', "expected a whole number"),
]


@pytest.mark.parametrize(("path", "body", "reason"), BODIES)
def test_options_of_tasks(client, path, body, reason):
    client.check_refused(lambda c: c.send("POST", path, data=body, headers=JSON), 422, reason)


@pytest.mark.parametrize("kind", ["application/form+json", "text/plain", "application/json; a=multipart/form-data"])
def test_another_type_does_not_hide_options(client, kind):
    body = {"data": '{"bundle_path": "/tmp"}', "headers": {"Content-Type": kind}}
    client.check_refused(lambda c: c.send("POST", f"/train/{MODEL}", **body), 422, RESERVED)


UNKNOWN = [
    ("POST", "/infer/nothing", 404, "expected hippocampus_sdseg"),
    ("POST", "/batch/infer/nothing", 404, "expected hippocampus_sdseg"),
    ("POST", "/train/nothing", 404, "expected hippocampus_sdseg"),
    ("POST", "/scoring/nothing", 404, f"expected {MODEL}_flips"),
    ("POST", "/activelearning/nothing", 404, "expected random"),
    ("DELETE", "/datastore/image?id=nothing", 404, "not found"),
    ("DELETE", "/session/nothing", 404, "Not Found"),
    ("POST", f"/infer/{MODEL}?image=nothing", 422, "no such image"),
    ("POST", f"/infer/{MODEL}?session_id=nothing", 422, "no such image"),
    ("POST", f"/infer/{MODEL}", 422, "no image, session_id or file"),
    ("POST", f"/infer/{MODEL}?image={CASE}&output=dicom_seg", 422, "cannot become a DICOM SEG"),
    ("POST", f"/infer/{MODEL}?image={CASE}&output=evil", 422, "query.output"),
    ("GET", "/datastore/?output=evil", 422, "query.output"),
    ("GET", "/datastore/dataset?limit_cases=x", 422, "query.limit_cases"),
    ("DELETE", "/datastore/image", 422, "query.id: Field required"),
    ("GET", "/logs/?lines=99999999999999999999", 400, "expected a number"),
    ("POST", f"/train/{MODEL}?run_sync=true", 400, "run_sync"),
    ("POST", f"/batch/infer/{MODEL}?run_sync=1", 400, "run_sync"),
    ("POST", "/info/", 405, "Method Not Allowed"),
    # routes of MONAI Label that are not served: they load files that anyone sent, or take no part here
    ("DELETE", f"/model/{MODEL}", 404, "Not Found"),
    ("PUT", f"/model/{MODEL}", 404, "Not Found"),
    ("POST", f"/infer/wsi/{MODEL}", 404, "Not Found"),
    ("POST", f"/infer/wsi_v2/{MODEL}", 404, "Not Found"),
    ("POST", "/reload", 404, "Not Found"),
    ("POST", "/proxy/dicom/stow/studies", 404, "the studies are a folder"),
]


@pytest.mark.parametrize(("method", "path", "status", "reason"), UNKNOWN)
def test_what_is_not_there(client, method, path, status, reason):
    client.check_refused(lambda c: c.send(method, path), status, reason)


@pytest.mark.parametrize(
    "path",
    ["/session/nothing", "/datastore/image?image=nothing", "/proxy/dicom/studies", "/train/?check_if_running=true"],
)
def test_looking_for_what_is_not_there_is_no_warning(client, path):
    """Viewers ask every few seconds whether a training runs."""
    start = len(client.server.log)
    assert client.send("GET", path).status_code == 404
    assert "WARNING" not in client.server.log[start:]


def test_no_gpu_to_tell_of(client):
    assert client.send("GET", "/logs/gpu").status_code == (404 if shutil.which("nvidia-smi") is None else 200)


LABELS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown image": ({"image": "nothing"}, "there is no such image here"),
    "other grid": ({"image": OTHER}, "the two must lie on the same grid"),
    "too few bytes": ({"name": "label.bin", "content": b"123"}, "3 bytes, expected 62475"),
    "params not JSON": ({"params": "{x"}, NOT_JSON),
    "params a list": ({"params": "[1]"}, NOT_JSON),
    "the server's": ({"params": '{"strategy": 5}'}, "the server keeps its own"),
}


@pytest.mark.parametrize("mistake", LABELS)
def test_labels(client, mistake):
    options, reason = LABELS[mistake]
    client.check_refused(lambda c: c.put_label(**options), 422, reason)


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        ("[1]", NOT_JSON),
        ("5", NOT_JSON),
        ('{"a": NaN}', NOT_JSON),
        ('{"a": "\\ud800"}', NOT_JSON),
        ('{"strategy": 5}', "the server keeps its own"),
        (f'{{"{MODEL}_flips": {{"score": "x"}}}}', "the server keeps its own"),
    ],
)
def test_what_is_stored_of_an_image(client, info, reason):
    """It would be read again: by the strategies, and by everyone who lists the datastore."""
    files = {"info": (None, info)}
    client.check_refused(
        lambda c: c.send("PUT", "/datastore/image/info", params={"image": CASE}, files=files), 422, reason
    )
    assert client.send("GET", "/datastore/?output=all").ok


def test_nothing_is_left_behind(client):
    """After all of the above."""
    client.check_nothing_left()
