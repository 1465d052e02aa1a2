"""``sdseg convert``: from each kind of weights to each other kind."""

import json

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from sdseg_monai.cli import main
from sdseg_monai.inference.segmenter import Segmenter
from sdseg_monai.weights import (
    load_weights,
    read_tensors,
    save_diffusers_folder,
)
from sdseg_monai.weights.convert import SOURCE_KINDS, TARGET_KINDS, load_bundle_network
from tests.makers.compvis import tiny_official
from tests.makers.networks import make_network
from tests.makers.places import ROOT
from tests.makers.volumes import load_nifti, write_case
from tests.weights.conversions import HIPPOCAMPUS, equal_states, run, tensors_of


class TestCommand:
    def test_kinds_are_those_of_the_library(self, capsys):
        with pytest.raises(SystemExit):
            main(["convert", "--help"])
        text = capsys.readouterr().out
        assert "{" + ",".join(SOURCE_KINDS) + "}" in text and "{" + ",".join(TARGET_KINDS) + "}" in text

    def test_official_to_bundle(self, checkpoint, official, tmp_path, capsys):
        target = tmp_path / "new" / "model.pt"
        code, out, err = run(capsys, checkpoint, "-o", target, "--from", "official", "--to", "bundle")
        assert code == 0 and "Research use only" in err
        report = json.loads(out)
        assert report["output"] == str(target) and report["bytes"] == target.stat().st_size
        assert report["missing"] == 0 and report["used"] == len(official.state_dict()) + 2 - 2 * 2 * 4
        load_weights(official, target)

    def test_the_reported_network_def_makes_a_bundle(self, checkpoint, official, tmp_path, capsys):
        """The mask of the bundle's inference with the converted file is that of the official network."""
        code, out, _ = run(capsys, checkpoint, "-o", tmp_path / "model.pt", "--from", "official", "--to", "bundle")
        network_def = json.loads(out)["network_def"]
        (tmp_path / "network.json").write_text(json.dumps({"network_def": network_def, "size": [16, 16]}))
        write_case(tmp_path, "a", shape=(16, 16, 3), affine=np.eye(4))
        configs = ROOT / "bundles" / "sdseg" / "configs"
        inference = ConfigWorkflow(
            [
                *(str(configs / f"{name}.json") for name in ("inference", "official_inference")),
                str(tmp_path / "network.json"),
            ],
            run_id="inference",
            workflow_type="infer",
            meta_file=str(configs / "metadata.json"),
            logging_file=False,
            dataset_dir=str(tmp_path / "images"),
            output_dir=str(tmp_path / "masks"),
            checkpoint=str(tmp_path / "model.pt"),
        )
        inference.initialize()
        inference.run()
        image = inference.parser.get_parsed_content("preprocessing")({"image": str(tmp_path / "images" / "a.nii.gz")})
        with torch.inference_mode():
            slices = image["image"].as_tensor()[0].movedim(-1, 0)[:, None].expand(-1, 3, -1, -1)
            expected = (official(slices)[:, 0] >= 0.5).movedim(0, -1)
        mask = load_nifti(tmp_path / "masks" / "a.nii.gz").get_fdata()
        assert code == 0 and np.mean(mask != expected.numpy()) < 0.005

    def test_options_of_official_checkpoints(self, checkpoint, tmp_path, capsys):
        for name, options in (("a", ()), ("b", ("--raw",)), ("c", ("--num-heads", 2))):
            arguments = (checkpoint, "-o", tmp_path / f"{name}.pt", "--from", "official", "--to", "bundle", *options)
            assert run(capsys, *arguments)[0] == 0
        a, b, c = (read_tensors(tmp_path / f"{name}.pt") for name in "abc")
        name = "unet.mid_block.attentions.0.to_k.weight"
        assert not torch.equal(a[name], b[name]) and not torch.equal(a[name], c[name])
        assert torch.equal(a["unet.conv_in.bias"], c["unet.conv_in.bias"])

    def test_there_and_back(self, checkpoint, official, tmp_path, capsys):
        folder = tmp_path / "folder"
        assert run(capsys, checkpoint, "-o", folder, "--from", "official", "--to", "diffusers")[0] == 0
        code, out, _ = run(capsys, folder, "-o", tmp_path / "model.pt", "--from", "diffusers", "--to", "bundle")
        assert code == 0 and json.loads(out)["used"] == len(official.state_dict())
        assert equal_states(tensors_of(tmp_path / "model.pt"), official.state_dict())

    def test_several_classes_there_and_back(self, tmp_path, capsys):
        """From folder to file to a bundle of the reported network to inference weights: the scores stay the same."""
        network, bundle = make_network(num_classes=3).eval(), tmp_path / "bundle"
        save_diffusers_folder(network, tmp_path / "folder")
        target = bundle / "models" / "model.pt"
        code, out, _ = run(capsys, tmp_path / "folder", "-o", target, "--from", "diffusers", "--to", "bundle")
        network_def = json.loads(out)["network_def"]
        assert code == 0 and network_def["num_classes"] == 3
        assert equal_states(tensors_of(target), network.state_dict())
        (bundle / "configs").mkdir()
        config = {"network_def": network_def, "checkpoint": "$@bundle_root + '/models/model.pt'"}
        (bundle / "configs" / "inference.json").write_text(json.dumps(config))
        image = torch.randn(1, 3, 16, 16)
        with torch.inference_mode():
            assert torch.equal(load_bundle_network(bundle)[0](image), network(image))
        small = tmp_path / "small.pt"
        assert run(capsys, bundle, "-o", small, "--from", "bundle", "--to", "inference")[0] == 0
        assert torch.equal(read_tensors(small)["class_codes"].float(), network.class_codes)

    def test_a_class_conditional_official_checkpoint_reports_its_classes(self, tmp_path, capsys):
        torch.save({"state_dict": tiny_official(classes=3)}, tmp_path / "a.ckpt")
        arguments = (tmp_path / "a.ckpt", "-o", tmp_path / "model.pt", "--from", "official", "--to", "bundle")
        code, out, _ = run(capsys, *arguments)
        network_def = json.loads(out)["network_def"]
        assert code == 0 and network_def["num_classes"] == network_def["unet"]["num_class_embeds"] == 3
        network = ConfigParser({"network_def": network_def}).get_parsed_content("network_def")
        load_weights(network, tmp_path / "model.pt")
        with torch.inference_mode():
            assert network.eval()(torch.zeros(1, 3, 8, 8)).shape == (1, 3, 8, 8)

    def test_bundle_to_inference_segments_the_same(self, tmp_path, capsys):
        bundle = tmp_path / "bundle"
        (bundle / "models").mkdir(parents=True)
        (bundle / "configs").symlink_to(HIPPOCAMPUS / "configs")
        target = bundle / "models" / "model.pt"
        code, out, _ = run(capsys, HIPPOCAMPUS, "-o", target, "--from", "bundle", "--to", "inference")
        report = json.loads(out)
        full, _ = load_bundle_network(HIPPOCAMPUS)
        left_out = sum(k.startswith(("autoencoder.encoder", "autoencoder.quant_conv")) for k in full.state_dict())
        assert code == 0 and report["missing"] == left_out > 0
        network, image = Segmenter(bundle, device="cpu").network, torch.randn(1, 3, 64, 64)
        with torch.inference_mode():
            torch.testing.assert_close(network(image), full(image), atol=0.02, rtol=0)
        for kind, output in (("bundle", "x.pt"), ("diffusers", "x")):  # what was left out does not come back
            code, out, err = run(capsys, bundle, "-o", tmp_path / output, "--from", "bundle", "--to", kind)
            assert code == 2 and "without the mask encoder" in err and not (tmp_path / output).exists()

    def test_bad_input_ends_with_one_line_and_no_output(self, checkpoint, tmp_path, capsys):
        (tmp_path / "empty").mkdir()
        (tmp_path / "text.ckpt").write_text("text")
        full = tmp_path / "full"
        full.mkdir()
        (full / "keep").write_text("")
        cases = [
            ((tmp_path / "none.ckpt", "o.pt", "official", "bundle"), "no such file"),
            ((tmp_path / "text.ckpt", "o.pt", "official", "bundle"), "not a checkpoint"),
            ((tmp_path / "empty", "o.pt", "official", "bundle"), "no such file"),
            ((tmp_path / "empty", "o.pt", "bundle", "inference"), "no configs/inference.json"),
            ((tmp_path / "empty", "o.pt", "diffusers", "bundle"), "cannot be read"),
            ((checkpoint, "o.pt", "diffusers", "bundle"), "cannot be read"),
            ((checkpoint, "o.bin", "official", "bundle"), "ending in .pt"),
            ((checkpoint, "empty", "official", "inference"), "ending in .pt"),
            ((checkpoint, "full", "official", "diffusers"), "exists"),
            ((checkpoint, "a.ckpt", "official", "bundle"), "ending in .pt"),
            ((checkpoint, "full/keep", "official", "diffusers"), "exists"),
            ((checkpoint, "full/keep/o.pt", "official", "bundle"), "cannot write here"),
            ((checkpoint, "o.pt", "official", "bundle", "--num-heads", 7), "does not divide"),
            ((HIPPOCAMPUS, "o.pt", "bundle", "bundle", "--raw"), "for official checkpoints"),
        ]
        before = sorted(tmp_path.rglob("*")), checkpoint.read_bytes()
        for (source, output, kind, target, *options), match in cases:
            code, out, err = run(capsys, source, "-o", tmp_path / output, "--from", kind, "--to", target, *options)
            assert (code, out) == (2, ""), match
            assert match in err and err.count("\n") == 1 and err.startswith("error: "), (match, err)
        assert (sorted(tmp_path.rglob("*")), checkpoint.read_bytes()) == before

    def test_a_bundles_own_weights_are_not_replaced(self, tmp_path, capsys):
        weights = HIPPOCAMPUS / "models" / "model.pt"
        before = weights.read_bytes()
        code, _, err = run(capsys, HIPPOCAMPUS, "-o", weights, "--from", "bundle", "--to", "inference")
        assert code == 2 and "exists, expected" in err and weights.read_bytes() == before

    def test_of_a_config_that_is_no_network(self, tmp_path, capsys):
        (tmp_path / "b" / "configs").mkdir(parents=True)
        for text, match in (
            ("{}", "cannot be used"),
            ("{", "cannot be used"),
            ('{"network_def": 1, "checkpoint": "x"}', "is a int"),
        ):
            (tmp_path / "b" / "configs" / "inference.json").write_text(text)
            code, _, err = run(capsys, tmp_path / "b", "-o", tmp_path / "o.pt", "--from", "bundle", "--to", "bundle")
            assert code == 2 and match in err and err.count("\n") == 1
