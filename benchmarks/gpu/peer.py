"""fastMRI's VarNet, run by a Python that has fastmri and torch: a line in asks for a few training steps.

Each answer is a line of JSON: the median of the seconds of three steps, and the peak of the memory in GB.
"""

import json
import statistics
import sys
import time

import torch
from fastmri.losses import SSIMLoss
from fastmri.models import VarNet


def main() -> None:
    """Answer until the input ends."""
    options = json.loads(sys.argv[1])
    device, (coils, h, w) = options["device"], options["shape"]
    n_cascades, channels, sensitivity_channels = options["network"]
    cuda = torch.device(device).type == "cuda"
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    torch.manual_seed(0)
    center = max(8, round(0.08 * w))
    mask = torch.rand(1, 1, 1, w, 1) < 0.18
    mask[..., (w - center + 1) // 2 :, :][..., :center, :] = True
    mask = mask.to(device)
    kspace = torch.randn(1, coils, h, w, 2).to(device) * mask
    target, data_range = torch.rand(1, h, w, device=device), torch.ones(1, device=device)
    network = VarNet(
        num_cascades=n_cascades, chans=channels, pools=4, sens_chans=sensitivity_channels, sens_pools=4
    ).to(device)
    loss = SSIMLoss().to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-4)

    def step() -> float:
        if cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        image = network(kspace, mask, num_low_frequencies=center)
        loss(image[:, None], target[:, None], data_range).backward()
        optimizer.step()
        optimizer.zero_grad()
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    step()
    for _ in sys.stdin:
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        seconds = statistics.median(step() for _ in range(3))
        memory = round(torch.cuda.max_memory_allocated() / 1e9, 3) if cuda else "needs CUDA"
        print(json.dumps({"seconds": seconds, "GB": memory}), flush=True)


if __name__ == "__main__":
    main()
