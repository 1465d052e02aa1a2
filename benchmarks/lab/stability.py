"""Table 5 of the paper: how much the segmentations of an image differ between start noises."""

from __future__ import annotations

from pathlib import Path

import torch
from tqdm import tqdm

from lab.study import Study, load_volume
from lab.tables import Table
from sdseg_monai.inferers import SliceWiseInferer
from sdseg_monai.metrics import Lpips, measure_stability
from sdseg_monai.metrics.stability import Pairs
from sdseg_monai.transforms import extract_slices, resize_slices


@torch.inference_mode()
def scores_by_seed(study: Study, experiment: str, num_seeds: int) -> torch.Tensor:
    """Return the scores of the N test slices with foreground for M seeds, [M, N, H, W], on the network's grid."""
    parser = study.trained(experiment)
    network, device = parser.get_parsed_content("network"), parser.get_parsed_content("device")
    size, axis, batch_size = parser["size"], parser["slice_axis"], parser["batch_size"]
    scores_of_cases = []
    for item in tqdm(study.items("test"), desc="seeds", leave=False):
        data = load_volume(parser, item)
        image, label = (data[key].as_subclass(torch.Tensor) for key in ("image", "label"))
        slices = resize_slices(extract_slices(image, axis, 0, image.shape[axis + 1]), size)  # [N, C, H, W]
        volume = slices.movedim(0, -1).to(device)  # [C, H, W, N]
        scores_of_seeds = []
        for seed in range(num_seeds):
            inferer = SliceWiseInferer(size, 2, batch_size, "per_slice", seed)
            scores_of_seeds.append(
                torch.cat(list(inferer.iter_scores(volume, network, Path(item["image"]).name)), dim=-1)[0].cpu()
            )
        has_foreground = label[0].movedim(axis, -1).flatten(0, 1).any(0)  # [N]
        scores_of_cases.append(torch.stack(scores_of_seeds).movedim(-1, 1)[:, has_foreground])
    return torch.cat(scores_of_cases, dim=1)


def measure(study: Study, experiment: str, lpips_weights: str, num_seeds: int) -> Table:
    """Compare all pairs of seeds, as in the paper, and each seed with seed 0, as in the official notebook."""
    scores = scores_by_seed(study, experiment, num_seeds)
    lpips = Lpips(lpips_weights)
    rows: list[list[object]] = []
    texts: dict[Pairs, str] = {"all": "every two", "first": "each with seed 0"}
    for pairs, text in texts.items():
        for row in measure_stability(scores, lpips, pairs=pairs):
            psnr = "identical" if row.psnr is None else f"{row.psnr:.2f}"
            measures = [f"{row.lpips:.4f}", psnr, f"{row.ssim:.4f}", f"{row.ms_ssim:.4f}", f"{row.dice:.4f}"]
            rows.append([row.kind, text, *measures, row.comparisons, row.identical])
    title = (
        f"Table 5: {experiment}, seeds 0 to {num_seeds - 1}, noise of its own for each slice, {scores.shape[1]} test "
        f"slices with foreground at {scores.shape[2]}x{scores.shape[3]}; data range 1; MS-SSIM with a window of "
        f"{row.ms_ssim_window}; PSNR over the comparisons that are not identical"
    )
    head = ["of", "pairs", "LPIPS", "PSNR", "SSIM", "MS-SSIM", "Dice between seeds", "comparisons", "identical"]
    return Table("stability", title, head, rows)
