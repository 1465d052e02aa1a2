"""The benchmark of mirror images fills its section."""

import json
import re

import mirror
from tests.makers.bundles import write_sdseg, write_training
from tests.makers.volumes import write_case


def test_the_benchmark_fills_its_section(tmp_path, monkeypatch):
    bundle = write_training(write_sdseg(tmp_path / "tiny", "zeros", num_classes=3))
    files = []
    for seed, name in enumerate("ab"):
        write_case(tmp_path, name, shape=(20, 5, 18), seed=seed)
        files.append({kind: f"{kind}s/{name}.nii.gz" for kind in ("image", "label")})
    (bundle / "configs" / "datalist.json").write_text(json.dumps({"validation": files}))
    (bundle / "docs").mkdir()
    readme = bundle / "docs" / "README.md"
    readme.write_text("before\n<!-- mirror -->\n<!-- /mirror -->\nafter\n")
    monkeypatch.setattr("sys.argv", ["mirror.py", "--dataset_dir", str(tmp_path), "--bundle", str(bundle)])
    mirror.main()
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "Means over 2 cases" in text
    for structure in ("union", "Anterior hippocampus", "Posterior hippocampus"):
        once, mean, difference = map(float, re.search(rf"\| {structure} \| (\S+) \| (\S+) \| (\S+)", text).groups())
        assert abs(100 * (mean - once) - difference) < 0.02
